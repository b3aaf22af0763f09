"""One moment of all lines: the ledger's state, HEAD, history and versions, as they stood together while jobs go on.

Everything else is addressed by content, or follows from these. The order is what makes it one moment:

1. HEAD of each line is read;
2. the ledger's state is fixed: its events speak of nothing that the store has not yet, since each is written after the
   version or move that it tells of;
3. what stands below `lines/` is read: versions made meanwhile are whole, and their events are what a killed job leaves
   out, which the next one writes;
4. HEAD is read again. Where it moved, all begins anew: the events of a move are written before the next move, so with
   one move between ledger and HEAD nothing is lost, and with two the first one's could be.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from editing.progress import OnProgress
from tasks.ledger.table import Files, Ledger
from tasks.stores.errors import ObjectNotFound, StorageError
from tasks.stores.manifest import Head, VersionPointer
from tasks.stores.objects import ObjectStore, at_once
from tasks.stores.records import read_record
from tasks.stores.snapshots import SnapshotStore

LINES = "lines/"
LEASE = "job.json"
"""Who works on a line now: true of this home alone."""
_ROUNDS = 50


@dataclass(frozen=True)
class Pointers:
    """The pointers of all lines at one moment."""

    objects: Mapping[str, bytes]
    ledger: Files | None

    def heads(self) -> dict[str, int]:
        """The version in service of each line; 0 is the base."""
        lines = sorted({key.split("/")[1] for key in self.objects})
        heads = {line: self.objects.get(f"{LINES}{line}/HEAD") for line in lines}
        return {line: read_record(Head, data, line).version if data else 0 for line, data in heads.items()}

    def snapshots(self) -> list[str]:
        """What the versions consist of, by the digests of their manifests."""
        return [
            read_record(VersionPointer, data, key).snapshot
            for key, data in self.objects.items()
            if key.split("/")[2] == "versions"
        ]


def pointers(store: ObjectStore, ledger: Ledger) -> Pointers:
    """All lines at one moment.

    Raises:
        StorageError: HEADs move too fast.
        RecordError: a HEAD cannot be read.
    """
    for _ in range(_ROUNDS):
        before = _heads(store)
        state = ledger.files()
        keys = [key for key in store.list(LINES) if not key.endswith((f"/{LEASE}", "/HEAD"))]
        found = _read(store, keys)
        if _heads(store) == before:
            return Pointers(found | before, state)
    raise StorageError("lines change faster than they can be copied: look who moves their HEADs, then repeat")


def keys_of(store: SnapshotStore, snapshots: list[str], tell: OnProgress) -> list[str]:
    """The objects that versions consist of and are built on: manifests and tensors."""
    keys, seen = dict[str, None](), set[str]()
    for done, tip in enumerate(snapshots):
        snapshot: str | None = tip
        while snapshot is not None and snapshot not in seen:
            seen.add(snapshot)
            keys |= dict.fromkeys(sorted(store.keys(snapshot)))
            snapshot = store.manifest(snapshot).parent
        tell(done + 1, len(snapshots))
    return [*keys]


def _heads(store: ObjectStore) -> dict[str, bytes]:
    return _read(store, [f"{LINES}{line}/HEAD" for line in SnapshotStore(store).lines()])


def _read(store: ObjectStore, keys: list[str]) -> dict[str, bytes]:
    def read(key: str) -> bytes | None:
        try:
            return store.get(key)[0]
        except ObjectNotFound:
            return None

    found = zip(keys, at_once(read, keys), strict=True)
    return {key: data for key, data in found if data is not None}
