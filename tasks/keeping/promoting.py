"""An approved version carried from one home to the next, and put in service there: the same bytes under the same names.

The line that it comes to has no jobs of its own: all its versions are those of the other home, up to the one that is
promoted, so each keeps its number, its manifest and its snapshot id. In this order, so that what is killed can be
repeated: the line's definition, tensors and manifests; the version loaded, every digest checked; the report and the
versions in this home's MLflow; the versions; the events of their requests; HEAD, from which all else follows.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from editing.digests import canonical_json, sha256
from editing.edit import shown
from editing.errors import UsageError
from tasks.ledger.events import Event
from tasks.ledger.table import Ledger
from tasks.ledger.view import LineView, lineage, look
from tasks.lines.rules import check_not_frozen, read_rules
from tasks.lines.stored import definition, spec_key, stored_line
from tasks.progress import stage
from tasks.review.decided import By, decided
from tasks.review.decisions import Decision, carry_out
from tasks.review.registering import pointer, register
from tasks.review.votes import votes
from tasks.settings import Settings
from tasks.stores.blobs import Blobs
from tasks.stores.forgotten import forgotten_key
from tasks.stores.lease import holder
from tasks.stores.manifest import Version, VersionPointer, manifest_bytes
from tasks.stores.objects import ObjectStore
from tasks.stores.opening import open_store
from tasks.stores.records import record_bytes
from tasks.stores.snapshots import BLOBS, HYPERNETWORKS, MANIFESTS, SnapshotStore, version_key
from tasks.text import check_length
from tasks.tracking.errors import TrackingError
from tasks.tracking.promotion import carry_report, open_promotion
from tasks.workplace import Workplace


@dataclass(frozen=True)
class Promoted:
    """What came of it."""

    version: int
    snapshot: str
    carried: int
    """How many versions were not here before."""
    decision: Decision
    notes: tuple[str, ...]


def open_other(settings: Settings) -> Workplace:
    """Another home, to read from; nothing of it is made or changed.

    Raises:
        StorageError: there is no store.
    """
    from tasks.ledger.opening import s3_options  # beside the one that opens a workplace to write

    store = open_store(settings.store_uri, endpoint_url=settings.s3_endpoint_url)
    options = s3_options(settings.s3_endpoint_url) if settings.ledger_uri.startswith("s3://") else None
    return Workplace(settings, SnapshotStore(store), Ledger(settings.ledger_uri, options))


def promote(here: Workplace, there: Workplace, line: str, reason: str = "", named: str = "") -> Promoted:
    """Put in service here what is in service there. Safe to repeat.

    Args:
        named: The line's name there; empty, the same. Under another, manifests are written anew, so that snapshot ids
            differ; tensors and the weights that come of them do not.

    Raises:
        UsageError: nothing is in service there, or the line here is not one that only follows that home, is frozen, or
            asks for more reviewers than approved there; nothing was changed.
        DigestMismatch: what is stored there is damaged, or the base here is another; nothing is in service by it.
        HeadMoved: somebody decided here in the meantime.
    """
    check_length(reason)
    if here.store.store.uri == there.store.store.uri:
        raise UsageError(f"'{there.settings.home_folder}' and this home have one store: name another home")
    named = named or line
    source = look(there.store, there.ledger, named)
    versions = _approved(there, source)
    _check_votes(here, there, line, versions[-1])
    renamed = renamed_to(line, source)
    _check(here, there, source, line, renamed)
    present = {*here.store.numbers(line)}
    _copy_objects(there.store.store, here.store.store, line, versions)
    versions = [renamed[version.number] for version in versions]
    for version in versions if named != line else ():
        Blobs(here.store.store, MANIFESTS, ".json").put(manifest_bytes(version.manifest))
    target = versions[-1]
    told = stored_line(here.store.store, line)
    with stage("loading it, every digest checked"):
        from tasks.serving.loading import load_version  # torch takes seconds, and a mistake none

        load_version(pointer(here, target, told), here.settings)
    notes = _register(here, there, line, versions)
    for version in versions:
        made = VersionPointer(line=line, version=version.number, snapshot=version.snapshot)
        here.store.store.put_if_absent(version_key(line, version.number), record_bytes(made))
    here.ledger.append_possible(list(_events(there, named, versions)))
    decision = _decide(here, there, named, target, reason)
    return Promoted(target.number, target.snapshot, len({v.number for v in versions} - present), decision, tuple(notes))


def _approved(there: Workplace, source: LineView) -> list[Version]:
    """The versions up to the one in service there."""
    if source.head is None or not source.head.version:
        home = there.settings.home_folder
        raise UsageError(f"nothing of line '{source.line}' is in service in '{home}': approve it there")
    return [version for number, version in source.versions.items() if number <= source.head.version]


def renamed_to(line: str, source: LineView) -> dict[int, Version]:
    """The versions of a line as they are under a name, by number: each the same wherever and whenever it is made."""
    if line == source.line:
        return dict(source.versions)
    ids: dict[str | None, str | None] = {None: None}
    found = {}
    for number, version in source.versions.items():
        manifest = version.manifest
        parents = {"parent": ids[manifest.parent], "after": ids[manifest.after]}
        changed = manifest.model_copy(update={"line": line, **parents})
        snapshot = sha256(manifest_bytes(changed))
        ids[version.snapshot] = snapshot
        found[number] = Version(number, snapshot, changed)
    return found


def _check(here: Workplace, there: Workplace, source: LineView, line: str, renamed: Mapping[int, Version]) -> None:
    store = here.store.store
    check_not_frozen(store, line)
    if (job := holder(store, line)) is not None and not job.is_free():
        raise UsageError(f"a job works on line '{line}' here (process {job.pid} on {job.host}): a line has one source")
    for number in here.store.numbers(line):
        if number not in renamed or here.store.version(line, number).snapshot != renamed[number].snapshot:
            raise UsageError(
                f"version {number} of line '{line}' is not the one of '{there.settings.home_folder}': a line that is "
                "promoted to has no versions of its own; name another line, the same in both homes"
            )
    if line != source.line and any(
        there.store.store.exists(forgotten_key(v.snapshot)) for v in source.versions.values()
    ):
        raise UsageError(f"a version of line '{source.line}' was forgotten there: promote to a line of the same name")
    if (mine := definition(store, line)) is not None and mine != _definition(there.store.store, source.line, line):
        raise UsageError(f"line '{line}' is defined otherwise here: promote to a line that is not there yet")


def _check_votes(here: Workplace, there: Workplace, line: str, target: Version) -> None:
    said = votes(there.store.store, target.manifest.line, target)
    if (wanted := read_rules(here.store.store, line).reviewers) > 1 and len(said) < wanted:
        raise UsageError(
            f"line '{line}' has reviewers = {wanted} here, and {len(said)} proven people approved version "
            f"{target.number} there"
        )


def _definition(there: ObjectStore, named: str, line: str) -> bytes | None:
    """What defines the line, under its name here."""
    told = definition(there, named)
    return told if told is None or named == line else canonical_json(json.loads(told) | {"line": line})


def _copy_objects(there: ObjectStore, here: ObjectStore, line: str, versions: Sequence[Version]) -> None:
    """Definition, hypernetwork, tensors and manifests, each read by its digest."""
    if (told := _definition(there, versions[0].manifest.line, line)) is not None:
        here.put_if_absent(spec_key(line), told)
    wanted: dict[tuple[str, str, str], None] = {}
    for version in versions:
        if there.exists(forgotten_key(version.snapshot)):
            here.put(forgotten_key(version.snapshot), there.get(forgotten_key(version.snapshot))[0])
            continue
        network = str(version.manifest.config.get("hypernetwork_digest") or "")
        wanted |= {(HYPERNETWORKS, ".safetensors", network): None} if network else {}
        wanted |= {(BLOBS, ".safetensors", digest): None for digest in version.manifest.files.values()}
        wanted[MANIFESTS, ".json", version.snapshot] = None
    with stage("copying what versions consist of") as tell:
        for done, (folder, ending, digest) in enumerate(wanted):
            to = Blobs(here, folder, ending)
            if not to.exists(digest):
                to.put(Blobs(there, folder, ending).get(digest))
            tell(done + 1, len(wanted))


def _register(here: Workplace, there: Workplace, line: str, versions: Sequence[Version]) -> list[str]:
    """In this home's MLflow: a run with the report that was read there, and the versions under it."""
    target, tracker, notes = versions[-1], here.tracker(), list[str]()
    told = {"home": str(there.settings.home_folder), "run": target.manifest.mlflow_run_id or ""}
    run = open_promotion(tracker, line, target.snapshot, f"{line} v{target.number}, promoted", told)
    try:
        if target.manifest.mlflow_run_id:
            carry_report(there.tracker(), target.manifest.mlflow_run_id, tracker, run)
    except TrackingError as error:
        notes.append(f"the report stays where it is: {error}")
    register(tracker, here, line, versions, run)
    tracker.finish_run(run)
    return notes


def _events(there: Workplace, named: str, versions: Sequence[Version]) -> Iterator[Event]:
    """What happened to the requests of these versions, up to the last one that each got into.

    What was decided on that one is for this home to say, by its HEAD.
    """
    names = {name for version in versions for name in version.manifest.request_ids}
    events = [one for one in there.ledger.history(line=named) if one.request_id in names]
    last = {
        one.request_id: number
        for number, one in enumerate(events)
        if one.event == "committed" and one.version is not None and one.version <= versions[-1].number
    }
    line, snapshots = versions[-1].manifest.line, {version.number: version.snapshot for version in versions}
    for number, one in enumerate(events):
        if number <= last.get(one.request_id, -1):
            snapshot = snapshots.get(one.version or 0, one.snapshot)
            yield one if line == named else one.model_copy(update={"line": line, "snapshot": snapshot})


def _decide(here: Workplace, there: Workplace, named: str, target: Version, reason: str) -> Decision:
    """HEAD to the version; what was left aside there is refused here."""
    line = target.manifest.line
    view = look(here.store, here.ledger, line)
    version = view.versions[target.number]
    if view.serving == version.snapshot and view.head is not None:
        told = f"version {version.number} of line '{line}' is in service here already"
        return Decision((version.number,), view.head, done_before=told)
    below = {one.number for one in lineage(view, version.snapshot)}
    refused = tuple(one.number for one in view.undecided if one.number not in below)
    made = decided(there.store, look(there.store, there.ledger, named), target.number)
    why = "; ".join(filter(None, (reason.strip(), made.sentence if made else "")))
    whence = there.settings.home_folder if named == line else there.settings.home_folder / named
    told = f"promoted from {shown(str(whence))}, snapshot {target.snapshot[:12]}"
    by = By(here.settings.who, "promotion")
    return carry_out(here, view, "promote", version, f"{told}: {why}" if why else told, (version.number,), by, refused)
