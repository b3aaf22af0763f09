"""The events that a killed job or decision left out, and writing them.

A version object is created before its events are written, and HEAD is moved before its events are written. Both carry
all that the events say. All decisions are moves of HEAD, so they have one order, and the events of a move are written
before the next move: only the latest can lack them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

from editing.digests import sha256
from tasks.ledger.errors import LedgerError
from tasks.ledger.events import Event, State, after, is_legal
from tasks.ledger.reserved import REFUSE
from tasks.ledger.standings import Standing
from tasks.ledger.table import Ledger
from tasks.ledger.view import LineView, look, waits
from tasks.stores.manifest import Head, Manifest, Version
from tasks.stores.snapshots import SnapshotStore

BATCH_EVENTS: tuple[State, ...] = ("applied", "validated", "committed")
STRANDED = "built on a version that is out of service or was refused; submit it again"
_MOST_ROUNDS = 100


def missing_events(view: LineView, actor: str) -> list[Event]:
    """The events that a killed job or decision left out; empty where the ledger says all that storage says.

    Of a version that is stranded before its events are written, nothing is said: its requests are queued still, and
    the next job writes them. Said later, it would take back what was submitted again in the meantime.
    """
    lost = {version.number for version in view.stranded}
    made = [
        event
        for version in view.versions.values()
        if version.number not in view.events.committed and version.number not in lost
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
            states[event.request_id] = after(state, event.event)
            found.append(event)
    return found


def standings(view: LineView) -> dict[str, Standing]:
    """Where the requests of a line stand once the events that are missing are written."""
    found = dict(view.events.standings)
    for event in missing_events(view, ""):
        before = found.get(event.request_id)
        if (state := after(before.state if before else None, event.event)) is not None:
            version = event.version or (before.version if before else None)
            found[event.request_id] = Standing(state, version, (before.events if before else 0) + 1)
    return found


def count_states(found: Mapping[str, Standing]) -> dict[str, int]:
    """How many requests are in each state."""
    return dict(sorted(Counter(one.state for one in found.values()).items()))


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
            reason="; ".join([*manifest.findings.get(request_id, ()), *manifest.alike.get(request_id, ())]) or None,
        )
        for event in BATCH_EVENTS
        for request_id in manifest.request_ids
    ]


def moved_events(view: LineView) -> list[Event]:
    """What HEAD means for requests whose events do not say it yet: they are in service, out of it, or refused."""
    if view.head is None:
        return []
    left, stands = _left(view), _stands(view)
    steps: list[tuple[str, int | None, State, str]] = [
        (request, version, event, "")
        for request, version in stands.items()
        for event in _into_service(view, request, version)
    ]
    steps += [(request, *how) for request, how in left.items()]
    steps += [
        (request, standing.version, "rolled_back", "")
        for request, standing in view.events.standings.items()
        if standing.state == "promoted" and request not in stands and request not in left
    ]
    steps += [
        (request, number, "rejected", "")
        for number in view.head.rejected
        for request in view.versions[number].manifest.request_ids
        if waits(view, request, number) and request not in view.live
    ]
    return [_moved(view, view.head, *step) for step in steps]


def _left(view: LineView) -> dict[str, tuple[int, State, str]]:
    """The facts that a root takes out and whose events do not say it yet: the version, how they end, and by whom."""
    found: dict[str, tuple[int, State, str]] = {}
    for one in view.passed:
        for request in one.manifest.removed:
            standing = view.events.standings.get(request)
            # Of a later version, it was written again since.
            if standing is None or request in view.live or (standing.version or 0) >= one.number:
                continue
            if standing.state in ("promoted", "committed"):
                found[request] = (one.number, *_ending(one.manifest, request, standing.state))
    return found


def _ending(manifest: Manifest, request: str, state: State) -> tuple[State, str]:
    if request in manifest.replaced and state == "promoted":
        return "superseded", f"replaced by request '{manifest.replaced[request]}'"
    by = [removal for removal, fact in manifest.removals.items() if fact == request]
    refused = state == "committed" and by and all(removal.startswith(REFUSE) for removal in by)
    return "rejected" if refused else "retracted", f"by request '{by[0]}'" if by else ""


def _moved(view: LineView, head: Head, request: str, version: int | None, event: State, why: str) -> Event:
    return Event(
        event_id=_event_id(f"{head.token} {version} {_count(view, request)}", request, event),
        time=head.moved,
        request_id=request,
        event=event,
        line=head.line,
        version=version,
        actor=head.actor,
        snapshot=head.snapshot,
        reason="; ".join(filter(None, (why, head.reason))) or None,
    )


def _into_service(view: LineView, request: str, version: int) -> tuple[State, ...]:
    """The steps of a request that a version brings into service."""
    standing, own = view.events.standings.get(request), view.versions[version].manifest.request_ids
    if standing is not None and standing.state == "promoted" and (standing.version == version or request not in own):
        return ()
    if version not in view.events.committed or standing is None or standing.state == "committed":
        return ("approved", "promoted")
    return ("promoted",)


def _stranded_events(view: LineView, actor: str) -> list[Event]:
    stands = _stands(view)
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
        if version.number in view.events.committed
        for request in version.manifest.request_ids
        if waits(view, request, version.number) and request not in stands
    ]


def _stands(view: LineView) -> dict[str, int]:
    """What is in service, with the version that brought it: facts, and removals that were carried out on the way."""
    return view.live | {name: one.number for one in view.passed for name in one.manifest.removals}


def _count(view: LineView, request: str) -> int:
    """The events that a request has had: two who catch up from the same state write the same event once."""
    standing = view.events.standings.get(request)
    return standing.events if standing else 0


def _event_id(source: str, request: str, event: str) -> str:
    return sha256(f"{source} {request} {event}".encode())[:32]
