"""Checkpoints of a training: whole or passed over, few of them, and the last whole one is found whatever was killed.

    trainings/<id>/training.json                  what is trained, for whoever looks
    trainings/<id>/blobs/<sha256>.safetensors     hypernetwork, optimiser and progress
    trainings/<id>/checkpoints/<8 digits>.json    created once, after its blob: the commit of a checkpoint

What stays is the best by validation and the last two.
"""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from editing.digests import canonical_json, sha256
from tasks.progress import note
from tasks.stores.blobs import Blobs
from tasks.stores.errors import DigestMismatch, LineBusy, NewerFormat, ObjectConflict, ObjectNotFound, RecordError
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record, record_bytes

LAST = 2
"""How many checkpoints stay beside the best one."""

logger = logging.getLogger(__name__)


class Checkpoint(BaseModel):
    """How far a training was, and how good."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: int = Field(ge=1)
    sha256: str = Field("", description="Digest of the blob; filled by `publish`.")
    seconds: float = Field(ge=0, description="Trained so far, all runs together.")
    validation: dict[str, float]
    best_score: float = Field(description="The best score so far, this one included.")
    stale: int = Field(ge=0, description="Validations since the best.")

    @property
    def score(self) -> float:
        return self.validation["score"]


class Checkpoints:
    """The checkpoints of one training in an object store."""

    def __init__(self, store: ObjectStore, training: str) -> None:
        self.store, self.training = store, training
        self._folder = f"trainings/{training}"
        self._blobs = Blobs(store, f"{self._folder}/blobs")

    def describe(self, description: Mapping[str, Any]) -> None:
        """Say what is trained here; once."""
        self.store.put_if_absent(f"{self._folder}/training.json", canonical_json(description))

    def publish(self, checkpoint: Checkpoint, data: bytes) -> Checkpoint:
        """Store the blob, then create the checkpoint, then remove what is not to stay.

        Raises:
            LineBusy: another process trains the same and was here before.
            RecordError: a number of the checkpoint is not finite; nothing was stored.
        """
        checkpoint = checkpoint.model_copy(update={"sha256": sha256(data)})
        record = record_bytes(checkpoint)
        self._blobs.put(data)
        try:
            self.store.put_if_absent(self._key(checkpoint.step), record)
        except ObjectConflict as error:
            raise LineBusy(
                f"training '{self.training}' has a checkpoint of step {checkpoint.step} already: another process "
                "trains the same; let one of them go on"
            ) from error
        self._tidy()
        return checkpoint

    def look(self) -> dict[str, Checkpoint]:
        """The checkpoints that can be read, by their keys. Nothing is removed. Raises NewerFormat."""
        found = {}
        for key in self.store.list(f"{self._folder}/checkpoints/"):
            try:
                found[key] = self._read(key)
            except NewerFormat:
                raise
            except (ObjectNotFound, RecordError) as error:
                logger.debug("checkpoint %s is broken: %s", key, error)
        return found

    def blob_key(self, checkpoint: Checkpoint) -> str:
        """Where the tensors of a checkpoint are."""
        return self._blobs.key(checkpoint.sha256)

    def newest(self) -> tuple[Checkpoint, bytes] | None:
        """The last whole checkpoint; what is broken is passed over with a warning and removed."""
        return self._first(sorted(self._all(), key=lambda one: -one.step))

    def best(self) -> tuple[Checkpoint, bytes] | None:
        """The whole checkpoint with the best score, the earliest of several."""
        return self._first(sorted(self._all(), key=lambda one: (-one.score, one.step)))

    def _first(self, checkpoints: list[Checkpoint]) -> tuple[Checkpoint, bytes] | None:
        for checkpoint in checkpoints:
            try:
                return checkpoint, self._blobs.get(checkpoint.sha256)
            except (ObjectNotFound, DigestMismatch) as error:
                self._pass_over(self._key(checkpoint.step), str(error))
        return None

    def _all(self) -> list[Checkpoint]:
        found = []
        for key in self.store.list(f"{self._folder}/checkpoints/"):
            try:
                found.append(self._read(key))
            except NewerFormat:
                raise
            except RecordError as error:
                self._pass_over(key, str(error))
        return found

    def _read(self, key: str) -> Checkpoint:
        return read_record(Checkpoint, self.store.get(key)[0], f"'{key}' in '{self.store.uri}'")

    def _pass_over(self, key: str, why: str) -> None:
        """Removed, so that the training can publish this step again."""
        note(f"checkpoint {key} is broken and passed over: {why}", "warning")
        logger.warning("checkpoint %s is broken and passed over: %s", key, why)
        self.store.delete(key)

    def _tidy(self) -> None:
        present = sorted(self._all(), key=lambda one: one.step)
        best = min(present, key=lambda one: (-one.score, one.step))
        kept = [best, *present[-LAST:]]
        for checkpoint in present:
            if checkpoint not in kept:
                self.store.delete(self._key(checkpoint.step))
        # Blobs by the list: a killed process may have left some that no checkpoint names.
        for digest in set(self._blobs.list()) - {checkpoint.sha256 for checkpoint in kept}:
            self._blobs.delete(digest)

    def _key(self, step: int) -> str:
        return f"{self._folder}/checkpoints/{step:08d}.json"
