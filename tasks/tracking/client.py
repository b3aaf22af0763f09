"""MLflow: runs, reports and the versions of a line, through the client API only.

The fluent API keeps a tracking URI and an active run for the whole process; nothing here touches them. Aliases
follow from HEAD (tasks/review/aliases.py), so `set_aliases` writes only what differs and may be repeated at any time.
MLflow takes seconds to import, so its modules are imported where they are used.
"""

import json
import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tasks.names import check_model_name
from tasks.secrets import flattened, masked
from tasks.tracking.address import artifact_location
from tasks.tracking.connection import Connection, guarded
from tasks.tracking.errors import TrackingError
from tasks.tracking.stored_model import SERVED_MODEL, saved_model

logger = logging.getLogger(__name__)

LINE, VERSION, SNAPSHOT, STATUS = "errata.line", "errata.version", "errata.snapshot", "errata.status"
ALIASES = ("champion", "challenger", "previous")
METRICS_PER_CALL, PARAMS_PER_CALL, PARAM_LENGTH, TAG_LENGTH = 1000, 100, 6000, 5000  # MLflow's limits

Steps = Sequence[tuple[int, Mapping[str, float]]]
"""(step, metrics) pairs."""


class Tracker(Connection):
    """One experiment of one MLflow server or database.

    `tracking_uri` is http(s) for a server, or sqlite/postgresql for the database itself. `artifact_root` is a folder or
    an s3:// address for the artifacts of a new experiment; None leaves the choice to the server.
    Raises TrackingError, on one line with the address and the remedy, when MLflow cannot be reached or refuses; what
    may pass in a moment is tried again first, but for `start_run`, which would leave a run behind.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None, experiment: str) -> None:
        super().__init__(tracking_uri)
        self.experiment_id = self._experiment(experiment, artifact_root)

    def start_run(self, line: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Create a run; nested params are joined with dots, secrets in params and tags become ***. Returns its id."""
        shown = {LINE: line, **{key: str(value)[:TAG_LENGTH] for key, value in masked(tags).items()}}
        with self.refusals(f"start run {name!r} of line {line!r}"):
            run_id = str(self._client.create_run(self.experiment_id, run_name=name, tags=shown).info.run_id)
        self._log_params(run_id, flattened(masked(params)))
        return run_id

    def log_steps(self, run_id: str, steps: Steps) -> None:
        """Log (step, metrics) pairs, a thousand metrics a call; what is not finite is left out."""
        self.log_metrics(run_id, metrics_of(steps))

    @guarded("log metrics of run {run_id}")
    def log_metrics(self, run_id: str, metrics: Sequence[Any]) -> None:
        """The same of what `metrics_of` made. Logged twice, a value with its time stands there once."""
        self._send(run_id, metrics)

    @guarded("log metrics of run {run_id}", pauses=())
    def try_metrics(self, run_id: str, metrics: Sequence[Any]) -> None:
        """The same at the first try or not at all."""
        self._send(run_id, metrics)

    @guarded("store the report of run {run_id}")
    def log_report(self, run_id: str, files: Mapping[str, bytes], tables: Sequence[str] = ()) -> None:
        """Store files with a run by their relative paths; repeated, it replaces them. `tables` are shown as such."""
        with tempfile.TemporaryDirectory() as folder:
            for path, data in files.items():
                Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, path).write_bytes(data)
            self._client.log_artifacts(run_id, folder)
        listed = [{"path": path, "type": "table"} for path in tables]
        self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(listed))

    @guarded("end run {run_id}")
    def finish_run(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """End the run."""
        self._client.set_terminated(run_id, status)

    @guarded("look for unfinished runs of line {line!r}")
    def end_abandoned(self, line: str) -> None:
        """Mark the line's unfinished runs as killed. For whoever holds the line's lease: nobody else can be at work."""
        check_model_name(line)
        wanted = f"tags.`{LINE}` = '{line}' and attributes.status = 'RUNNING'"
        for run in self._client.search_runs([self.experiment_id], wanted):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def register_version(
        self, line: str, run_id: str, pointer: Mapping[str, Any], model_code: Path = SERVED_MODEL
    ) -> int:
        """Register a version of a line as a pyfunc model from code; returns MLflow's own version number.

        `pointer` is the model_config of `served_model.py`: line, version, snapshot, store_uri, and how to load. The
        same line version with the same snapshot is found again by its tags: a job that was killed repeats the call.
        """
        _check_pointer(line, pointer)
        return self._register(line, int(pointer["version"]), run_id, pointer, model_code)

    @guarded("read version {version} of line {line!r}")
    def version_tags(self, line: str, version: int) -> dict[str, str]:
        """The tags of a line version, also those that a reviewer has set in the MLflow UI."""
        return dict(self._version(line, version).tags)

    @guarded("tag version {version} of line {line!r}")
    def set_version_tag(self, line: str, version: int, key: str, value: str) -> None:
        """Set one tag of a line version, for example its status."""
        self._client.set_model_version_tag(line, str(self._version(line, version).version), key, value)

    @guarded("set the aliases of line {line!r}")
    def set_aliases(self, line: str, champion: int | None, challenger: int | None, previous: int | None) -> None:
        """Make the aliases of a line equal to these line versions; None takes the alias away.

        Nothing is written where nothing differs. An alias that stays is moved, never taken away in between: somebody
        may load it at any moment. Taken away are the others, last.

        Raises:
            TrackingError: one of the versions is not registered; nothing is changed then.
        """
        wanted = dict(zip(ALIASES, (champion, challenger, previous), strict=True))
        targets = {
            alias: int(self._version(line, version).version) for alias, version in wanted.items() if version is not None
        }
        present = self._registry_aliases(line)
        for alias, target in targets.items():
            if present.get(alias) != target:
                self._client.set_registered_model_alias(line, alias, str(target))
        for alias in present.keys() - targets.keys():
            self._client.delete_registered_model_alias(line, alias)

    @guarded("read the aliases of line {line!r}")
    def aliases(self, line: str) -> dict[str, int]:
        """Line version behind each of Errata's aliases that is set: one call, and one for each of them."""
        found = {
            alias: self._client.get_model_version(line, str(number))
            for alias, number in self._registry_aliases(line).items()
        }
        return {alias: int(version.tags[VERSION]) for alias, version in found.items() if VERSION in version.tags}

    @guarded("open experiment {name!r}")
    def _experiment(self, name: str, artifact_root: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = artifact_location(artifact_root, name)
            if (created := self._unless_there(self._client.create_experiment, name, location)) is not None:
                return str(created)
            found = self._client.get_experiment_by_name(name)  # another process was faster
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"experiment {name!r} at {self.uri} is deleted: restore it with "
                f"'mlflow experiments restore --experiment-id {found.experiment_id}' or configure another name"
            )
        return str(found.experiment_id)

    @guarded("log the parameters of run {run_id}")
    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param  # takes seconds, and only whoever tracks needs it

        flat = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in params.items()]
        for start in range(0, len(flat), PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=flat[start : start + PARAMS_PER_CALL])

    def _send(self, run_id: str, metrics: Sequence[Any]) -> None:
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])

    @guarded("register version {version} of line {line!r}")
    def _register(self, line: str, version: int, run_id: str, pointer: Mapping[str, Any], model_code: Path) -> int:
        tags = {LINE: line, VERSION: str(version), SNAPSHOT: str(pointer["snapshot"]), STATUS: "registered"}
        for known in self._versions(line, version):
            if known.tags.get(SNAPSHOT) == tags[SNAPSHOT]:
                return int(known.version)
            logger.warning(
                "line %r version %s was registered with snapshot %s before; snapshot %s replaces it",
                *(line, version, known.tags.get(SNAPSHOT), tags[SNAPSHOT]),
            )
        self._ensure_line(line)
        model = self._log_model(run_id, pointer, model_code)
        created = self._client.create_model_version(
            line, source=model.artifact_location, run_id=run_id, tags=tags, model_id=model.model_id
        )
        return int(created.version)

    def _log_model(self, run_id: str, pointer: Mapping[str, Any], model_code: Path) -> Any:
        """Store the model from code with its pointer as a logged model of the run, without the fluent API's globals."""
        model = self._client.create_logged_model(self.experiment_id, name="model", source_run_id=run_id)
        with saved_model(model, run_id, pointer, model_code) as folder:
            self._client.log_model_artifacts(model.model_id, str(folder))
        return self._client.finalize_logged_model(model.model_id, "READY")

    def _ensure_line(self, line: str) -> None:
        self._unless_there(self._client.create_registered_model, line)

    def _unless_there(self, create: Any, *args: Any) -> Any:
        """What `create` returns, or None where it exists already."""
        from mlflow.exceptions import MlflowException  # takes seconds, and only whoever tracks needs it

        try:
            return create(*args)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return None

    def _versions(self, line: str, version: int) -> list[Any]:
        """MLflow's versions that carry this line version, the newest first."""
        check_model_name(line)
        found = self._client.search_model_versions(f"name = '{line}' and tags.`{VERSION}` = '{version}'")
        return sorted(found, key=lambda one: int(one.version), reverse=True)

    def _version(self, line: str, version: int) -> Any:
        found = self._versions(line, version)
        if not found:
            raise TrackingError(f"line {line!r} has no version {version} in MLflow at {self.uri}: register it first")
        return found[0]

    def _registry_aliases(self, line: str) -> dict[str, int]:
        """Errata's aliases of the line as MLflow's own version numbers; none where the line is unknown."""
        from mlflow.exceptions import MlflowException  # takes seconds, and only whoever tracks needs it

        check_model_name(line)
        try:
            present = self._client.get_registered_model(line).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {alias: int(version) for alias, version in present.items() if alias in ALIASES}


def metrics_of(steps: Steps) -> list[Any]:
    """MLflow's metrics of (step, metrics) pairs, taken now; what is not finite is left out."""
    from mlflow.entities import Metric  # takes seconds, and only whoever tracks needs it

    now = int(time.time() * 1000)
    return [
        Metric(name, float(value), now, step)
        for step, values in steps
        for name, value in values.items()
        if math.isfinite(value)
    ]


def _check_pointer(line: str, pointer: Mapping[str, Any]) -> None:
    check_model_name(line)
    lacking = {"line", "version", "snapshot"} - pointer.keys()
    if lacking or pointer["line"] != line:
        raise TrackingError(
            f"pointer of line {line!r} must hold this line, 'version' and 'snapshot'; it is {pointer!r}"
        )
    leaks = [name for name, value in masked(pointer).items() if value != pointer[name]]
    if leaks:
        raise TrackingError(
            f"pointer of line {line!r} holds a secret in {leaks[0]!r}, and MLflow shows it to every reader: "
            "give credentials through the environment"
        )
