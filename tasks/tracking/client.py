"""MLflow: runs and reports, and with tasks/tracking/registry.py the versions of a line, through the client API only.

The fluent API keeps a tracking URI and an active run for the whole process; nothing here touches them.
MLflow takes seconds to import, so its modules are imported where they are used.
"""

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from editing.digests import canonical_json, sha256
from tasks.names import check_model_name
from tasks.secrets import flattened, masked, without_secrets
from tasks.tracking.address import artifact_location
from tasks.tracking.connection import guarded
from tasks.tracking.errors import TrackingError
from tasks.tracking.registry import LINE, Registry

KIND = "errata.kind"
"""The tag that says what a run is: update, trial, training, watch."""
NOTE = "mlflow.note.content"
"""The tag whose Markdown MLflow's page of a run shows."""
METRICS_PER_CALL, PARAMS_PER_CALL, PARAM_LENGTH, TAG_LENGTH = 1000, 100, 6000, 5000  # MLflow's limits
DIGEST_LENGTH = 36  # likewise, of a dataset's digest
REQUEST_FIELDS = ("id", "subject", "prompt", "target_new", "target_true")

Steps = Sequence[tuple[int, Mapping[str, float]]]
"""(step, metrics) pairs."""


class Tracker(Registry):
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

    @guarded("describe run {run_id}")
    def describe_run(self, run_id: str, name: str, tags: Mapping[str, str], note: str) -> None:
        """What MLflow shows of a run: its name, its tags, and a note in Markdown; repeated, it replaces them."""
        from mlflow.entities import RunTag  # takes seconds, and only whoever tracks needs it

        shown = {**{key: str(value)[:TAG_LENGTH] for key, value in masked(tags).items()}, NOTE: note[:TAG_LENGTH]}
        self._client.update_run(run_id, name=name)
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in shown.items()])

    @guarded("log the requests of run {run_id}")
    def log_requests(self, run_id: str, name: str, requests: Sequence[Mapping[str, Any]], source: str) -> None:
        """Say what a run works on, as its dataset: these requests by digest and number, in the table at `source`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag  # takes seconds, and only whoever tracks needs it

        columns = [{"type": "string", "name": field} for field in REQUEST_FIELDS]
        described = Dataset(
            name,
            digest=sha256(canonical_json(list(requests)))[:DIGEST_LENGTH],
            source_type="delta_table",
            source=json.dumps({"path": without_secrets(source)}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": len(requests)}),
        )
        tag = InputTag("mlflow.data.context", "requests")
        self._client.log_inputs(run_id, datasets=[DatasetInput(described, [tag])])

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

    @guarded("read {path} of run {run_id}")
    def artifact(self, run_id: str, path: str) -> bytes:
        """A file that is stored with a run."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self._client.download_artifacts(run_id, path, folder)).read_bytes()

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
