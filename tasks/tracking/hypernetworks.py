"""Trainings and trained hypernetworks in MLflow: one run a training, one registered model a name."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from editing.errors import NoSuchHypernetwork
from tasks.tracking.address import first_line
from tasks.tracking.client import Tracker
from tasks.tracking.connection import NOT_THERE, guarded
from tasks.tracking.registry import LINE

TRAINING, HYPERNETWORK, BASE = "errata.training", "errata.hypernetwork", "errata.base_digest"
ARTIFACT = "hypernetwork/hypernetwork.safetensors"
_MODEL = re.compile(r"models:/([^/@]+)(?:/(\d+)|@(.+))")
_RUN = re.compile(r"runs:/([^/]+)(?:/(.+))?")


def check_reference(reference: str) -> None:
    """Raises NoSuchHypernetwork unless `reference` has a form that `HypernetworkTracker.locate` knows."""
    if not (_MODEL.fullmatch(reference) or _RUN.fullmatch(reference)):
        raise _unknown(reference)


def _unknown(reference: str) -> NoSuchHypernetwork:
    return NoSuchHypernetwork(
        f"'{reference}' names no hypernetwork; write models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH"
    )


@contextmanager
def _named(reference: str) -> Iterator[None]:
    """What MLflow does not have is a mistake of whoever named it, and nothing to try again."""
    from mlflow.exceptions import MlflowException  # it takes seconds

    try:
        yield
    except MlflowException as error:
        # Of an alias that is not there MLflow says that the value is invalid.
        if error.error_code not in (NOT_THERE, "INVALID_PARAMETER_VALUE" if "@" in reference else NOT_THERE):
            raise
        raise NoSuchHypernetwork(
            f"MLflow has no '{reference}': {first_line(error).rstrip('.')}; look at its page of models"
        ) from error


class HypernetworkTracker(Tracker):
    """The tracker of trainings."""

    def open_run(self, name: str, training: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """The run of a training: the one that was interrupted goes on, or a new one begins. Returns its id."""
        known = self._interrupted(training)
        return known or self.start_run(name, f"train {name} {training[:8]}", params, {TRAINING: training, **tags})

    @guarded("look for the run of training {training!r}")
    def _interrupted(self, training: str) -> str | None:
        known = self._client.search_runs([self.experiment_id], f"tags.`{TRAINING}` = '{training}'", max_results=1)
        if not known:
            return None
        self._client.update_run(known[0].info.run_id, "RUNNING")
        return str(known[0].info.run_id)

    @guarded("look for hypernetwork {digest} of {name!r}")
    def registered(self, name: str, digest: str) -> int | None:
        """The version under which this hypernetwork is registered, if it is."""
        return self._registered(name, digest)

    def _registered(self, name: str, digest: str) -> int | None:
        found = self._client.search_model_versions(f"name = '{name}' and tags.`{HYPERNETWORK}` = '{digest}'")
        return max((int(version.version) for version in found), default=None)

    @guarded("register hypernetwork {digest} as {name!r}")
    def register_hypernetwork(self, name: str, run_id: str, data: bytes, digest: str, tags: Mapping[str, str]) -> int:
        """Log the file with the run and register it as a version of `name`; once. Returns MLflow's version number."""
        if (known := self._registered(name, digest)) is not None:
            return known
        folder, _, file = ARTIFACT.rpartition("/")
        with tempfile.TemporaryDirectory() as local:
            Path(local, file).write_bytes(data)
            self._client.log_artifact(run_id, f"{local}/{file}", folder)
        self._ensure_line(name)
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{folder}"
        marked = {LINE: name, HYPERNETWORK: digest, **tags}
        return int(self._client.create_model_version(name, source=source, run_id=run_id, tags=marked).version)

    @guarded("find {reference}")
    def locate(self, reference: str) -> tuple[str, str, str | None]:
        """Run id, path of the artifact and, of a registered version, the sha256 that `models:/` or `runs:/` names.

        Raises:
            NoSuchHypernetwork: the reference is none, MLflow has nothing under it, or its version is no hypernetwork.
        """
        with _named(reference):
            return self._located(reference)

    def _located(self, reference: str) -> tuple[str, str, str | None]:
        if match := _MODEL.fullmatch(reference):
            name, number, alias = match.groups()
            version = (
                self._client.get_model_version_by_alias(name, alias)
                if alias
                else self._client.get_model_version(name, number)
            )
            if HYPERNETWORK not in version.tags:
                raise NoSuchHypernetwork(f"{reference} is no hypernetwork (no tag {HYPERNETWORK}); name another model")
            return str(version.run_id), ARTIFACT, str(version.tags[HYPERNETWORK])
        if match := _RUN.fullmatch(reference):
            return str(self._client.get_run(match[1]).info.run_id), match[2] or ARTIFACT, None
        raise _unknown(reference)

    @guarded("fetch '{path}' of run {run_id}")
    def download(self, run_id: str, path: str) -> bytes:
        """The bytes of an artifact: a file, or the one .safetensors file of a folder."""
        with tempfile.TemporaryDirectory() as folder:
            found = Path(self._client.download_artifacts(run_id, path, folder))
            files = sorted(found.glob("*.safetensors")) if found.is_dir() else [found]
            if len(files) == 1:
                return files[0].read_bytes()
        raise NoSuchHypernetwork(
            f"'{path}' of run {run_id} holds {len(files)} .safetensors files, not one; name the file"
        )
