"""One look at a line, and what follows from it by arithmetic.

`look` reads HEAD, the versions and where every request stands, once. What waits for review, what can wait no longer and
which events a killed process left out are functions of that view: a look writes nothing. Whoever decides or runs begins
with `catch_up`, which writes what is missing.

A version object is created before its events are written, and HEAD is moved before its events are written. Both carry
all that the events say. All decisions are moves of HEAD, so they have one order, and the events of a move are written
before the next move: only the latest can lack them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from tasks.ledger.errors import LedgerError
from tasks.ledger.events import Event, State, is_legal
from tasks.ledger.table import Ledger, LineEvents, Standing
from tasks.stores.manifest import Head, Manifest, Version
from tasks.stores.snapshots import SnapshotStore

BATCH_EVENTS: tuple[State, ...] = ("applied", "validated", "committed")
_MOST_ROUNDS = 100
STRANDED = "built on a version that is out of service or was refused; submit it again"


@dataclass(frozen=True)
class LineView:
    """A line at one moment."""

    line: str
    head: Head | None
    heads: tuple[Head, ...]
    """HEADs from the one on that the oldest undecided version was made for; the present one is the last."""
    versions: Mapping[int, Version]
    """By number, rising."""
    events: LineEvents

    @property
    def sequence(self) -> int:
        """The number of the present HEAD; 0 before the first."""
        return self.head.sequence if self.head else 0

    @property
    def serving(self) -> str | None:
        """The snapshot in service; None is the base."""
        return self.head.snapshot if self.head else None

    @cached_property
    def by_snapshot(self) -> dict[str, Version]:
        return {version.snapshot: version for version in self.versions.values()}

    @cached_property
    def served(self) -> frozenset[int]:
        """The version in service and those that it is built on."""
        return frozenset(manifest.version for manifest in chain(self, self.serving))

    @cached_property
    def live(self) -> dict[str, int]:
        """The facts in service, oldest first, with the version that each is of."""
        return members(chain(self, self.serving))

    @cached_property
    def undecided(self) -> list[Version]:
        """The versions that nobody put in service or refused."""
        return [version for version in self.versions.values() if _is_undecided(self, version)]

    @cached_property
    def waiting(self) -> list[Version]:
        """The versions that wait for review, oldest first: undecided, one built on the other from HEAD on."""
        found: list[Version] = []
        tip = self.serving
        for version in self.undecided:
            if follows(self, version) == tip and _climbed(self, version):
                found.append(version)
                tip = version.snapshot
        return found

    @cached_property
    def stranded(self) -> list[Version]:
        """The undecided versions that nobody could put in service any more."""
        waiting = {version.number for version in self.waiting}
        return [version for version in self.undecided if version.number not in waiting]

    @property
    def tip(self) -> str | None:
        """The newest snapshot that waits, or the one in service: what a new batch builds on."""
        return self.waiting[-1].snapshot if self.waiting else self.serving

    def holds(self, tip: str | None) -> bool:
        """Whether what was built on `tip` can still be put in service: it waits, or is in service itself."""
        return tip == self.serving or tip in {version.snapshot for version in self.waiting}


def look(store: SnapshotStore, ledger: Ledger, line: str, known: Mapping[str, LineEvents] | None = None) -> LineView:
    """The line as it stands now. `known`: what `ledger.look()` has just said, where several lines are looked at.

    In this order, whatever others do meanwhile: an event is written after the version or move that it tells of, and a
    version after the HEAD that it is made for.
    """
    events = (ledger.look() if known is None else known).get(line, LineEvents())
    versions = {version.number: version for version in store.versions(line)}
    head = store.head(line)
    if head is not None and head.version not in {0, *versions}:  # it was made and put in service in between
        versions = {version.number: version for version in store.versions(line)}
        store.version(line, head.version)  # or it is lost, which this says
    view = LineView(line, head, (head,) if head else (), versions, events)
    made_for = [v.manifest.based_on for v in view.undecided if v.manifest.based_on is not None]
    if head is None or not made_for or min(made_for) >= head.sequence:
        return view
    past = [one for one in store.heads(line, since=min(made_for)) if one.sequence < head.sequence]
    return LineView(line, head, (*past, head), versions, events)


def chain(view: LineView, snapshot: str | None) -> list[Manifest]:
    """The manifests from the base up to this snapshot, oldest first."""
    manifests: list[Manifest] = []
    while snapshot is not None:
        manifests.append(view.by_snapshot[snapshot].manifest)
        snapshot = manifests[-1].parent
    return manifests[::-1]


def members(manifests: Iterable[Manifest]) -> dict[str, int]:
    """The facts of a chain of manifests, oldest first, with the version that each is of."""
    found: dict[str, int] = {}
    for manifest in manifests:
        if manifest.live is not None:
            found = dict.fromkeys(manifest.live, manifest.version)
        found |= dict.fromkeys(manifest.request_ids, manifest.version)
    return found


def follows(view: LineView, version: Version) -> str | None:
    """The snapshot that a version comes after: its parent, or what was in service when it was made from the base."""
    if version.manifest.live is None:
        return version.manifest.parent
    made_for = [head for head in view.heads if head.sequence == version.manifest.based_on]
    return made_for[0].snapshot if made_for else None


def missing_events(view: LineView, actor: str) -> list[Event]:
    """The events that a killed job or decision left out; empty where the ledger says all that storage says."""
    made = [
        event
        for version in view.versions.values()
        if version.number not in view.events.committed
        for event in version_events(version, actor)
    ]
    return _legal(view, [*made, *moved_events(view), *_stranded_events(view, actor)])


def _legal(view: LineView, events: Iterable[Event]) -> list[Event]:
    """Without what a ledger of release 0.1 makes impossible: nothing there says it twice."""
    states: dict[str, State | None] = {}
    found = []
    for event in events:
        standing = view.events.standings.get(event.request_id)
        state = states.get(event.request_id, standing.state if standing else None)
        if is_legal(state, event.event):
            states[event.request_id] = event.event
            found.append(event)
    return found


def standings(view: LineView) -> dict[str, Standing]:
    """Where the requests of a line stand once the events that are missing are written."""
    found = dict(view.events.standings)
    for event in missing_events(view, ""):
        before = found[event.request_id] if event.request_id in found else Standing(event.event, None, 0)
        found[event.request_id] = Standing(event.event, event.version or before.version, before.events + 1)
    return found


def catch_up(store: SnapshotStore, ledger: Ledger, line: str, actor: str) -> LineView:
    """Write the events that a killed job or decision left out; returns the line as it stands then.

    Raises:
        LedgerError: others are always faster.
    """
    for _ in range(_MOST_ROUNDS):
        view = look(store, ledger, line)
        events = missing_events(view, actor)
        if not events:
            return view
        ledger.append_unchanged(events, view.events.standings)
    raise LedgerError(
        f"line '{line}': HEAD moves faster than its events can be written; look who moves it, then repeat"
    )


def version_events(version: Version, actor: str) -> list[Event]:
    """What happened to the requests of a version when it was made."""
    manifest = version.manifest
    return [
        Event(
            event_id=_event_id(version.snapshot, request_id, event),
            time=datetime.fromisoformat(manifest.created),
            request_id=request_id,
            event=event,
            line=manifest.line,
            version=version.number,
            batch=manifest.batch,
            actor=actor,
            flow_run_id=manifest.flow_run_id,
            mlflow_run_id=manifest.mlflow_run_id,
            snapshot=version.snapshot,
            metrics=dict(manifest.request_metrics.get(request_id, {})),
        )
        for event in BATCH_EVENTS
        for request_id in manifest.request_ids
    ]


def moved_events(view: LineView) -> list[Event]:
    """What HEAD means for requests whose events do not say it yet: they are in service, out of it, or refused."""
    if view.head is None:
        return []
    steps: list[tuple[str, int | None, State]] = [
        (request, version, event)
        for request, version in view.live.items()
        for event in _into_service(view, request, version)
    ]
    removed = set(view.by_snapshot[view.serving].manifest.removed) if view.serving else set()
    steps += [
        (request, standing.version, "retracted" if request in removed else "rolled_back")
        for request, standing in view.events.standings.items()
        if standing.state == "promoted" and request not in view.live
    ]
    steps += [
        (request, number, "rejected")
        for number in view.head.rejected
        for request in view.versions[number].manifest.request_ids
        if _waits(view, request, number) and request not in view.live
    ]
    return [_moved(view, view.head, *step) for step in steps]


def _moved(view: LineView, head: Head, request: str, version: int | None, event: State) -> Event:
    return Event(
        event_id=_event_id(f"{head.token} {version} {_count(view, request)}", request, event),
        time=head.moved,
        request_id=request,
        event=event,
        line=head.line,
        version=version,
        actor=head.actor,
        snapshot=head.snapshot,
        reason=head.reason or None,
    )


def _into_service(view: LineView, request: str, version: int) -> tuple[State, ...]:
    """The steps of a request that a version brings into service."""
    standing = view.events.standings.get(request)
    if version not in view.events.committed or standing is None or standing.state == "committed":
        return ("approved", "promoted")
    if standing.state == "promoted" and (
        standing.version == version or request not in view.versions[version].manifest.request_ids
    ):
        return ()
    return ("promoted",)


def _stranded_events(view: LineView, actor: str) -> list[Event]:
    return [
        Event(
            event_id=_event_id(f"{version.snapshot} {_count(view, request)}", request, "stranded"),
            request_id=request,
            event="rolled_back",
            line=view.line,
            version=version.number,
            batch=version.manifest.batch,
            actor=actor,
            snapshot=version.snapshot,
            reason=STRANDED,
        )
        for version in view.stranded
        for request in version.manifest.request_ids
        if _waits(view, request, version.number) and request not in view.live
    ]


def _is_undecided(view: LineView, version: Version) -> bool:
    if view.head and version.number in view.head.rejected:
        return False
    if version.number in view.served:
        return False
    return any(_waits(view, request, version.number) for request in version.manifest.request_ids)


def _waits(view: LineView, request: str, version: int) -> bool:
    """Whether the request is one of a version that the ledger knows no decision about."""
    if version not in view.events.committed:
        return True
    standing = view.events.standings.get(request)
    return standing is not None and standing.state == "committed" and standing.version == version


def _climbed(view: LineView, version: Version) -> bool:
    """Whether HEAD, since the version was made, only moved up what it is built on.

    A rollback below and forward again takes facts out in between: what was built on them is not brought back by it.
    """
    if version.manifest.based_on is None:
        return True  # of release 0.1, which writes `rolled_back` at every move of HEAD that strands a version
    below = [None, *(view.by_snapshot[s].snapshot for s in _snapshots(view, follows(view, version)))]
    places = {snapshot: place for place, snapshot in enumerate(below)}
    reached = 0
    for head in view.heads:
        if head.sequence >= version.manifest.based_on:
            place = places.get(head.snapshot, -1)
            if place < reached:
                return False
            reached = place
    return True


def _snapshots(view: LineView, snapshot: str | None) -> list[str]:
    found: list[str] = []
    while snapshot is not None:
        found.append(snapshot)
        snapshot = view.by_snapshot[snapshot].manifest.parent
    return found[::-1]


def _count(view: LineView, request: str) -> int:
    """The events that a request has had: two who catch up from the same state write the same event once."""
    standing = view.events.standings.get(request)
    return standing.events if standing else 0


def _event_id(source: str, request: str, event: str) -> str:
    return hashlib.sha256(f"{source} {request} {event}".encode()).hexdigest()[:32]


def count_states(found: Mapping[str, Standing]) -> dict[str, int]:
    """How many requests are in each state."""
    return dict(sorted(Counter(one.state for one in found.values()).items()))
