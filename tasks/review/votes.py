"""Votes: what reviewers said of a version where two different people have to approve.

lines/<line>/votes/<8 digits>-<12>/<16>.json     one object a reviewer, created once: the first word counts

Only who is proven counts: whom MLflow's server has let in with a password. A tag carries no user, and a name in a form
or in a variable is whatever somebody typed.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from editing.digests import sha256
from tasks.names import check_line
from tasks.stores.errors import ObjectConflict
from tasks.stores.manifest import Version
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record, record_bytes
from tasks.text import Text


class StoredVote(BaseModel):
    """What one reviewer said of one version. To refuse takes no second one, so only approvals are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reviewer: Text
    decision: Literal["approve"] = "approve"
    comment: Text = ""
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


def cast(store: ObjectStore, line: str, version: Version, vote: StoredVote) -> bool:
    """Write a proven vote down, once; whether it is new. What the reviewer said first stands."""
    name = sha256(vote.reviewer.encode())[:16]
    try:
        store.put_if_absent(f"{_folder(line, version)}{name}.json", record_bytes(vote))
    except ObjectConflict:
        return False
    return True


def votes(store: ObjectStore, line: str, version: Version) -> list[StoredVote]:
    """All that was said of a version, oldest first."""
    return _read(store, store.list(_folder(line, version)))


class Votes:
    """All votes of a line, for whoever asks about many versions: they are listed once."""

    def __init__(self, store: ObjectStore, line: str) -> None:
        self.store, self.line = store, line
        self._keys = store.list(f"lines/{check_line(line)}/votes/")

    def of(self, version: Version) -> list[StoredVote]:
        """As `votes`."""
        folder = _folder(self.line, version)
        return _read(self.store, [key for key in self._keys if key.startswith(folder)])


def _read(store: ObjectStore, keys: Sequence[str]) -> list[StoredVote]:
    found = [read_record(StoredVote, store.get(key)[0], f"'{key}' in '{store.uri}'") for key in keys]
    return sorted(found, key=lambda vote: vote.time)


def _folder(line: str, version: Version) -> str:
    return f"lines/{check_line(line)}/votes/{version.number:08d}-{version.snapshot[:12]}/"
