"""The way back where a pointer of a line cannot be read: HEAD, or the object of a version.

What they point to is addressed by content and says itself what it is, so the pointer can be made again.
"""

from tasks.stores.errors import DigestMismatch, NewerFormat, ObjectConflict, ObjectNotFound, RecordError
from tasks.stores.manifest import Manifest, VersionPointer
from tasks.stores.records import read_record, record_bytes
from tasks.stores.snapshots import SnapshotStore, version_key


def repair_line(store: SnapshotStore, line: str, actor: str) -> list[str]:
    """Make the pointers of a line that cannot be read, or are gone, again; says what was done, a line each.

    Safe to repeat. A manifest or tensors that are damaged cannot be made again.

    Raises:
        RecordError: several manifests, or none, say that they are a version whose object is damaged.
        UsageError, NewerFormat, HeadMoved: as `SnapshotStore.repair_head`.
    """
    done = []
    if not _head_is_readable(store, line):
        head = store.repair_head(line, actor)
        done.append(f"HEAD of line '{line}' is version {head.version} again")
    now, numbers = store.head(line), store.numbers(line)
    last = max([*numbers, now.version if now else 0], default=0)  # they are numbered without a gap
    return done + [text for number in range(1, last + 1) if (text := _repair_version(store, line, number))]


def _head_is_readable(store: SnapshotStore, line: str) -> bool:
    try:
        store.head(line)
    except NewerFormat:
        raise
    except RecordError:
        return False
    return True


def _repair_version(store: SnapshotStore, line: str, number: int) -> str:
    key, etag = version_key(line, number), ""
    try:
        data, etag = store.store.get(key)
        read_record(VersionPointer, data, key)
        return ""
    except NewerFormat:
        raise
    except (RecordError, ObjectNotFound):
        snapshot = _snapshot_of(store, line, number)
    pointer = record_bytes(VersionPointer(line=line, version=number, snapshot=snapshot))
    try:
        if etag:
            store.store.put_if_match(key, pointer, etag)
        else:
            store.store.put_if_absent(key, pointer)
    except ObjectConflict:
        return ""  # somebody else repaired it in the meantime
    return f"version {number} of line '{line}' is snapshot {snapshot[:12]} again"


def _snapshot_of(store: SnapshotStore, line: str, number: int) -> str:
    """The manifest that says that it is this version; of several, the one that another or a HEAD builds on.

    A job that lost the race for a number leaves a manifest that nothing ever builds on.
    """
    known = {digest: one for digest in store.snapshots() if (one := _readable(store, digest)) is not None}
    found = [digest for digest, one in known.items() if (one.line, one.version) == (line, number)]
    if len(found) > 1:
        used = {one.parent for one in known.values()} | {head.snapshot for head in store.past_heads(line)}
        found = [digest for digest in found if digest in used]
    if len(found) != 1:
        raise RecordError(
            f"version {number} of line '{line}': {len(found) or 'no'} manifests that say so are built on; "
            f"restore '{version_key(line, number)}' in '{store.store.uri}' from a copy of the store"
        )
    return found[0]


def _readable(store: SnapshotStore, digest: str) -> Manifest | None:
    try:
        return store.manifest(digest)
    except (DigestMismatch, RecordError):
        return None
