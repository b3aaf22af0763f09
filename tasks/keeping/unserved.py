"""Versions that held what is forgotten: which they are, and how they are taken away so that nobody serves them."""

from collections.abc import Callable, Sequence

from editing.progress import OnProgress
from tasks.ledger.view import LineView, chain
from tasks.stores.blobs import Blobs
from tasks.stores.errors import HeadMoved, ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.forgotten import FOLDER, ForgottenVersion, read_forgotten, without_text, write_forgotten
from tasks.stores.heads import past_key
from tasks.stores.manifest import Head, Version, head_bytes, members
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record
from tasks.stores.snapshots import BLOBS, MANIFESTS, SnapshotStore

MARKED = "facts that earlier versions held were forgotten"
_ROUNDS = 20


def holders(view: LineView, requests: Sequence[str]) -> list[Version]:
    """The versions that hold, or whose batch wrote, one of these facts; those built on them included."""
    wanted = {*requests}
    held: list[Version] = []
    for version in view.versions.values():
        every = chain(view, version.snapshot)
        written = {name for manifest in every for name in (*manifest.request_ids, *(manifest.live or ()))}
        if wanted & (written | members(every).keys()):
            held.append(version)
    return held


def needed(view: LineView) -> list[str]:
    """The snapshots that the version in service, and those that wait, consist of."""
    tips = [view.serving, *(version.snapshot for version in view.waiting)]
    found: dict[str, None] = {}
    for snapshot in tips:
        while snapshot is not None:
            found[snapshot] = None
            snapshot = view.by_snapshot[snapshot].manifest.parent
    return [*found]


def take_away(
    store: ObjectStore,
    view: LineView,
    held: Sequence[Version],
    actor: str,
    reason: str,
    tell: OnProgress,
) -> None:
    """Say of each of these versions that it is forgotten, close HEAD to them, then remove what they consist of.

    `tell` hears how many are marked and removed, of twice as many.

    Raises:
        HeadMoved: somebody put one of them in service, or made one wait, in the meantime; it stays.
    """
    snapshots = SnapshotStore(store)
    blobs, manifests = Blobs(store, BLOBS), Blobs(store, MANIFESTS, ".json")
    present = [version for version in held if manifests.exists(version.snapshot)]
    files = {version.snapshot: dict(version.manifest.files) for version in present}
    for done, version in enumerate(present):
        tell(done, 2 * len(present))
        if read_forgotten(store, version.snapshot) is None:
            record = ForgottenVersion(
                snapshot=version.snapshot, manifest=without_text(version.manifest), actor=actor, reason=reason
            )
            write_forgotten(store, record)
    if present and view.head is not None:
        _close(snapshots, view, actor)
    others = _used_by_others(snapshots, {version.snapshot for version in held})
    for done, version in enumerate(present, len(present)):
        tell(done, 2 * len(present))
        # Tensors first: killed in between, the manifest says once more what is to go.
        for digest in {*files[version.snapshot].values()} - others:
            blobs.delete(digest)
        manifests.delete(version.snapshot)


def _close(snapshots: SnapshotStore, view: LineView, actor: str) -> None:
    """Move HEAD to where it is: whoever read it before the versions were marked is refused, whoever reads it now sees
    the marks."""
    head = snapshots.head(view.line)
    if head is None or (view.head is not None and head.token != view.head.token):
        raise HeadMoved(f"HEAD of line '{view.line}' was moved in the meantime: repeat it")
    version = snapshots.version(view.line, head.version) if head.version else None
    snapshots.move_head(view.line, version, head, "reject", actor, MARKED)


def _used_by_others(snapshots: SnapshotStore, held: set[str]) -> set[str]:
    """Tensors of versions that stay, of any line."""
    used: set[str] = set()
    for line in snapshots.lines():
        for version in snapshots.versions(line):
            if version.snapshot not in held:
                used |= {*version.manifest.files.values()}
    return used


def rewrite_forgotten(store: ObjectStore, change: Callable[[str], str]) -> None:
    """Reasons for which versions were taken away before."""
    for key in store.list(f"{FOLDER}/"):
        record = read_forgotten(store, key.removeprefix(f"{FOLDER}/").removesuffix(".json"))
        if record is not None and (new := change(record.reason)) != record.reason:
            write_forgotten(store, record.model_copy(update={"reason": new}))


def rewrite_heads(store: ObjectStore, line: str, change: Callable[[str], str]) -> None:
    """Reasons of moves, in every HEAD of a line that is recorded, and in the present one."""
    for _ in range(_ROUNDS):
        try:
            _rewrite_present(store, line, change)
            break
        except ObjectConflict:
            continue  # it was moved in the meantime: the new one is looked at
    else:
        raise StorageError(f"HEAD of line '{line}' moves faster than it can be rewritten: repeat it")
    for key in store.list(f"lines/{line}/heads/"):
        head = read_record(Head, store.get(key)[0], f"'{key}' in '{store.uri}'")
        if (new := change(head.reason)) != head.reason:
            again = head.model_copy(update={"reason": new})
            store.put(past_key(again), head_bytes(again))
            store.delete(key)


def _rewrite_present(store: ObjectStore, line: str, change: Callable[[str], str]) -> None:
    key = f"lines/{line}/HEAD"
    try:
        data, etag = store.get(key)
    except ObjectNotFound:
        return
    head = read_record(Head, data, f"'{key}' in '{store.uri}'")
    if (new := change(head.reason)) != head.reason:
        store.put_if_match(key, head_bytes(head.model_copy(update={"reason": new})), etag)
