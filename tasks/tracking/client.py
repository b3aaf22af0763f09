"""MLflow: runs, reports and the versions of a line, through the client API only.

The fluent API keeps a tracking URI and an active run for the whole process; nothing here touches them. A version in
the registry is a pyfunc model from code with a pointer to its snapshot: no weights are copied. Aliases are derived from
HEAD, so `set_aliases` reconciles them and may be repeated at any time.
"""

import importlib.metadata
import json
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tasks.names import check_model_name
from tasks.report import figures
from tasks.report.render import JobReport, flattened, masked, render_html, render_markdown, table_json
from tasks.tracking.address import (
    artifact_location,
    check_reachable,
    first_line,
    quiet_mlflow,
    without_secrets,
)
from tasks.tracking.errors import TrackingError

logger = logging.getLogger(__name__)

LINE, VERSION, SNAPSHOT, STATUS = "errata.line", "errata.version", "errata.snapshot", "errata.status"
ALIASES = ("champion", "challenger", "previous")
METRICS_PER_CALL, PARAMS_PER_CALL, PARAM_LENGTH, TAG_LENGTH = 1000, 100, 6000, 5000  # MLflow's limits
SERVED_MODEL = Path(__file__).parents[1] / "serving" / "served_model.py"
SERVED_WITH = ("mlflow", "torch", "transformers", "safetensors", "boto3", "pydantic", "numpy")


class Tracker:
    """One experiment of one MLflow server or database.

    `tracking_uri` is http(s) for a server, or sqlite/postgresql for the database itself. `artifact_root` is a folder or
    an s3:// address for the artifacts of a new experiment; None leaves the choice to the server.
    Raises TrackingError, on one line with the address and the remedy, when MLflow cannot be reached or refuses.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None, experiment: str) -> None:
        quiet_mlflow()
        check_reachable(tracking_uri)
        self.uri = without_secrets(tracking_uri)
        with self._refusals(f"open experiment {experiment!r}"):
            import mlflow

            self._client: Any = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
            self.experiment_id = self._experiment(experiment, artifact_root)

    def start_run(self, line: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Create a run; nested params are joined with dots, secrets in params and tags become ***. Returns its id."""
        from mlflow.entities import Param

        shown = {LINE: line, **{key: str(value)[:TAG_LENGTH] for key, value in masked(tags).items()}}
        flat = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in flattened(masked(params)).items()]
        with self._refusals(f"start run {name!r} of line {line!r}"):
            run_id = str(self._client.create_run(self.experiment_id, run_name=name, tags=shown).info.run_id)
            for start in range(0, len(flat), PARAMS_PER_CALL):
                self._client.log_batch(run_id, params=flat[start : start + PARAMS_PER_CALL])
        return run_id

    def log_steps(self, run_id: str, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log (step, metrics) pairs, a thousand metrics a call; what is not finite is left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, step)
            for step, values in steps
            for name, value in values.items()
            if math.isfinite(value)
        ]
        with self._refusals(f"log metrics of run {run_id}"):
            for start in range(0, len(metrics), METRICS_PER_CALL):
                self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])

    def log_report(self, run_id: str, report: JobReport) -> None:
        """Store the pages, figures and tables of a job with its run; repeated, it replaces them."""
        tables = {
            "edits.json": [edit.model_dump(mode="json") for edit in report.edits],
            "batches.json": [batch.model_dump(mode="json") for batch in report.batches],
        }
        pages = {
            "report.html": render_html(report),
            "summary.md": render_markdown(report),
            "report.json": report.model_dump_json(indent=1),
            **{name: table_json(rows) for name, rows in tables.items()},
        }
        pictures = {"before_after.png": figures.bars_figure(report.baseline, report.champion, report.candidate)}
        if len(report.drift) > 1:
            pictures["drift.png"] = figures.drift_figure(report.drift, report.baseline)
        with self._refusals(f"store the report of run {run_id}"), tempfile.TemporaryDirectory() as folder:
            for name, text in pages.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            Path(folder, "figures").mkdir()
            for name, figure in pictures.items():
                Path(folder, "figures", name).write_bytes(figures.to_png(figure))
            self._client.log_artifacts(run_id, folder)
            listed = [{"path": name, "type": "table"} for name in tables]
            self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(listed))

    def finish_run(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """End the run."""
        with self._refusals(f"end run {run_id}"):
            self._client.set_terminated(run_id, status)

    def end_abandoned(self, line: str) -> None:
        """Mark the line's unfinished runs as killed. For whoever holds the line's lease: nobody else can be at work."""
        check_model_name(line)
        with self._refusals(f"look for unfinished runs of line {line!r}"):
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
        tags = {
            LINE: line,
            VERSION: str(pointer["version"]),
            SNAPSHOT: str(pointer["snapshot"]),
            STATUS: "registered",
        }
        with self._refusals(f"register version {pointer['version']} of line {line!r}"):
            for known in self._versions(line, int(pointer["version"])):
                if known.tags.get(SNAPSHOT) == tags[SNAPSHOT]:
                    return int(known.version)
                logger.warning(
                    "line %r version %s was registered with snapshot %s before; snapshot %s replaces it",
                    *(line, tags[VERSION], known.tags.get(SNAPSHOT), tags[SNAPSHOT]),
                )
            self._ensure_line(line)
            model = self._log_model(run_id, pointer, model_code)
            created = self._client.create_model_version(
                line, source=model.artifact_location, run_id=run_id, tags=tags, model_id=model.model_id
            )
            return int(created.version)

    def version_tags(self, line: str, version: int) -> dict[str, str]:
        """The tags of a line version, also those that a reviewer has set in the MLflow UI."""
        with self._refusals(f"read version {version} of line {line!r}"):
            return dict(self._version(line, version).tags)

    def set_version_tag(self, line: str, version: int, key: str, value: str) -> None:
        """Set one tag of a line version, for example its status."""
        with self._refusals(f"tag version {version} of line {line!r}"):
            self._client.set_model_version_tag(line, str(self._version(line, version).version), key, value)

    def set_aliases(self, line: str, champion: int | None, challenger: int | None, previous: int | None) -> None:
        """Make the aliases of a line equal to these line versions; None takes the alias away."""
        wanted = dict(zip(ALIASES, (champion, challenger, previous), strict=True))
        with self._refusals(f"set the aliases of line {line!r}"):
            targets = {
                alias: int(self._version(line, version).version)
                for alias, version in wanted.items()
                if version is not None
            }
            present = self._registry_aliases(line)
            for alias in ALIASES:
                if alias in targets and present.get(alias) != targets[alias]:
                    self._client.set_registered_model_alias(line, alias, str(targets[alias]))
                elif alias not in targets and alias in present:
                    self._client.delete_registered_model_alias(line, alias)

    def aliases(self, line: str) -> dict[str, int]:
        """Line version behind each of Errata's aliases that is set."""
        with self._refusals(f"read the aliases of line {line!r}"):
            found = {
                alias: self._client.get_model_version_by_alias(line, alias) for alias in self._registry_aliases(line)
            }
            return {alias: int(version.tags[VERSION]) for alias, version in found.items() if VERSION in version.tags}

    def _experiment(self, name: str, artifact_root: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = artifact_location(artifact_root, name)
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self._client.get_experiment_by_name(name)  # another process was faster
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"experiment {name!r} at {self.uri} is deleted: restore it with "
                f"'mlflow experiments restore --experiment-id {found.experiment_id}' or configure another name"
            )
        return str(found.experiment_id)

    def _ensure_line(self, line: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(line)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

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
        from mlflow.exceptions import MlflowException

        check_model_name(line)
        try:
            present = self._client.get_registered_model(line).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {alias: int(version) for alias, version in present.items() if alias in ALIASES}

    def _log_model(self, run_id: str, pointer: Mapping[str, Any], model_code: Path) -> Any:
        """Store the model from code with its pointer as a logged model of the run, without the fluent API's globals."""
        import mlflow.pyfunc
        from mlflow.models import Model

        model = self._client.create_logged_model(self.experiment_id, name="model", source_run_id=run_id)
        described = Model(
            artifact_path=model.artifact_location,
            model_uuid=model.model_id,
            run_id=run_id,
            model_id=model.model_id,
        )
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # An input example would make MLflow load the model, weights and all, to try it out.
            warnings.filterwarnings("ignore", message=".*input example was not provided", category=UserWarning)
            mlflow.pyfunc.save_model(
                path=f"{folder}/model",
                mlflow_model=described,
                python_model=str(model_code),
                model_config=dict(pointer),
                signature=_signature(pointer),
                pip_requirements=_requirements(),
            )
            self._client.log_model_artifacts(model.model_id, f"{folder}/model")
        return self._client.finalize_logged_model(model.model_id, "READY")

    @contextmanager
    def _refusals(self, doing: str) -> Iterator[None]:
        """Turn whatever MLflow, its database driver or its file store raises into one line."""
        try:
            yield
        except TrackingError:
            raise
        except Exception as error:
            raise TrackingError(
                f"cannot {doing} in MLflow at {self.uri}: {first_line(error)}. Check that the server or database is up "
                "and that its schema is MLflow's ('mlflow db upgrade URI')"
            ) from error


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


def _signature(pointer: Mapping[str, Any]) -> Any:
    """Prompts in, answers out. The column is unnamed, so that MLflow also admits a plain list of strings."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    strings = Schema([ColSpec("string")])
    limit = ParamSpec("max_new_tokens", "long", int(pointer.get("max_new_tokens", 32)))
    return ModelSignature(inputs=strings, outputs=strings, params=ParamSchema([limit]))


def _requirements() -> list[str]:
    """What a server of the model installs, as pinned here; Errata itself must be importable there."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in SERVED_WITH]
