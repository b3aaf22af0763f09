"""Versions whose tensors were taken away because a fact of theirs was forgotten: what is left of each, and why.

forgotten/<snapshot>.json     in the place of its manifest: who, when, why, and the manifest without what it said

Later versions name it as what they come after, so that it was is still known. It can be served no more.
"""

from datetime import UTC, datetime
from typing import ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from editing.digests import json_digest
from tasks.stores.errors import ObjectNotFound, RecordError
from tasks.stores.manifest import Manifest
from tasks.stores.objects import ObjectStore
from tasks.stores.records import RESTORE, read_record, record_bytes
from tasks.text import Text

FOLDER = "forgotten"


class ForgottenVersion(BaseModel):
    """What is left of a version."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    FORMAT: ClassVar[int] = 1

    format: Literal[1] = 1
    snapshot: str = Field(pattern="^[0-9a-f]{64}$")
    manifest: Manifest
    actor: Text
    reason: Text
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    digest: str = Field("", description="sha256 of the other fields; filled when it is written.")

    def proven(self) -> str:
        """What `digest` has to be."""
        return json_digest(self.model_dump(mode="json", exclude={"digest"}))

    @property
    def sentence(self) -> str:
        """Why it cannot be served, for a person."""
        return (
            f"version {self.manifest.version} of line '{self.manifest.line}' held what {self.actor} has forgotten at "
            f"{self.time:%Y-%m-%d %H:%M:%S} UTC ({self.reason}), and can be served no more"
        )


def forgotten_key(snapshot: str) -> str:
    return f"{FOLDER}/{snapshot}.json"


def read_forgotten(store: ObjectStore, snapshot: str) -> ForgottenVersion | None:
    """What is left of a version; None where nothing of it was forgotten."""
    key = forgotten_key(snapshot)
    try:
        record = read_record(ForgottenVersion, store.get(key)[0], where := f"'{key}' in '{store.uri}'")
    except ObjectNotFound:
        return None
    if record.digest != record.proven() or record.snapshot != snapshot:
        raise RecordError(f"{where} is not as it was written, it is damaged: {RESTORE}")
    return record


def write_forgotten(store: ObjectStore, record: ForgottenVersion) -> None:
    whole = record.model_copy(update={"digest": record.proven()})
    store.put(forgotten_key(record.snapshot), record_bytes(whole))


def without_text(manifest: Manifest) -> Manifest:
    """A manifest without what it says of single requests, but for their ids, and without files."""
    return manifest.model_copy(
        update={
            "request_metrics": {},
            "findings": {},
            "alike": {},
            "judged": {},
            "standing": {},
            "values": (),
            "files": {},
        }
    )
