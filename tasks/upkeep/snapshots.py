"""What killed jobs left in the store: tensors and manifests that no version leads to.

A version leads to its manifest, to those that it builds on, and to their tensors; HEAD and its history name versions.
So whatever was ever committed, in service or refused, stays as it is. A job puts its tensors and its manifest anew,
whatever lies there, right before it commits: what it works on is never old.
"""

from datetime import datetime

from tasks.stores.errors import RecordError
from tasks.stores.heads import REPAIR
from tasks.stores.objects import ObjectStore
from tasks.stores.snapshots import BLOBS, MANIFESTS, SnapshotStore
from tasks.upkeep.leftovers import Leftover, left_object


def left_by_jobs(store: ObjectStore, before: datetime) -> list[Leftover]:
    """Tensors and manifests that no version leads to, written before a moment.

    Raises:
        RecordError: a version, HEAD or manifest cannot be read or is gone; then nobody knows what it leads to.
    """
    # Listed first: what a job commits in between leads to objects that are younger than this list.
    old = {
        kind: [entry for entry in store.entries(f"{folder}/") if entry.written < before]
        for kind, folder in (("tensors", BLOBS), ("manifest", MANIFESTS))
    }
    if not any(old.values()):
        return []
    used = _used_keys(SnapshotStore(store))  # a new one, which remembers nothing
    tensors = [left_object("tensors", store, entry, before) for entry in old["tensors"] if entry.key not in used]
    # The manifest goes before the tensors that it names: killed in between, no manifest names what is gone.
    manifests = [left_object("manifest", store, entry, before) for entry in old["manifest"] if entry.key not in used]
    return [*manifests, *tensors]


def _used_keys(store: SnapshotStore) -> set[str]:
    used: set[str] = set()
    for line in store.lines():
        versions = store.versions(line)
        _check_whole(store, line, [version.number for version in versions])
        for tip in [*(version.snapshot for version in versions), *(head.snapshot for head in store.heads(line))]:
            snapshot = tip
            while snapshot is not None and snapshot not in used:
                used.add(snapshot)
                snapshot = store.manifest(snapshot).parent
    return {key for snapshot in used for key in store.keys(snapshot)}


def _check_whole(store: SnapshotStore, line: str, numbers: list[int]) -> None:
    head = store.head(line)
    last = max([*numbers, head.version if head else 0], default=0)  # they are numbered without a gap
    if lost := set(range(1, last + 1)) - {*numbers}:
        raise RecordError(
            f"version {min(lost)} of line '{line}' is gone, so nobody knows what it led to and nothing is taken: "
            f"'{REPAIR} {line}' makes its object again"
        )
