"""Requests that take a fact out: called back where it was in no version yet, else queued as removals.

A removal is a request of its own, with events and a reason. Its id names its fact and how many events that has had, so
two who take out the same at once write one removal.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from editing.edit import shown
from editing.errors import InvalidEdit, UsageError
from editing.request import Request, make_request
from tasks.ledger.appending import Known
from tasks.ledger.appending import Request as Named
from tasks.ledger.catching_up import catch_up
from tasks.ledger.events import Event, State
from tasks.ledger.reserved import REFUSE, RESERVED, RETRACT
from tasks.ledger.standings import Standing
from tasks.ledger.table import Ledger
from tasks.ledger.view import LineView, chain
from tasks.stores.lease import holder
from tasks.stores.manifest import members
from tasks.stores.snapshots import SnapshotStore

UNWRITTEN: frozenset[State] = frozenset({"queued", "quarantined", "rejected"})
WRITTEN: frozenset[State] = frozenset({"applied", "validated", "committed", "approved", "promoted"})
OPEN: frozenset[State] = frozenset({"received", "queued", "applied", "validated", "committed", "approved"})
"""States of a removal that has not happened yet."""
_TRIES = 20


class CannotTakeOut(UsageError):
    """Requests that cannot be taken out: why, a line each in `faults`."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


@dataclass
class TakenOut:
    """What became of the facts that were to go."""

    withdrawn: list[str] = field(default_factory=list)
    """Those that no version holds: they are called back."""
    queued: dict[str, str] = field(default_factory=dict)
    """The others, each with the removal that the next job carries out."""


def removed_by(payload: Mapping[str, Any] | None) -> str | None:
    """The fact that a request takes out; None where the request is one itself."""
    fact = (payload or {}).get("removes")
    return fact if isinstance(fact, str) else None


def take_out(
    store: SnapshotStore, ledger: Ledger, line: str, requests: Sequence[str], actor: str, reason: str, *,
    prefix: str = RETRACT,
) -> TakenOut:  # fmt: skip
    """Take facts out of a line: all of them, or, where one of them cannot be, none.

    Killed in between, the same again does what is missing.

    Args:
        prefix: `REFUSE`, where a reviewer leaves facts out of versions that wait.

    Raises:
        CannotTakeOut: some cannot; nothing was changed.
        UsageError: the line changes too fast.
    """
    names = list(dict.fromkeys(requests))
    for _ in range(_TRIES):
        view = catch_up(store, ledger, line, actor)
        pending = pending_removals(view.events.standings)
        if faults := [why for name in names if (why := _fault(view, pending, name, prefix)) is not None]:
            raise CannotTakeOut(faults)
        done, events = _to_write(view, names, actor, reason, prefix)
        if _write(ledger, view, events):
            return _followed(store, ledger, view, done, (actor, reason))
    raise UsageError(f"line '{line}' changes faster than facts of it can be taken out; repeat it")


def take_out_withdrawn(store: SnapshotStore, ledger: Ledger, view: LineView, actor: str) -> list[str]:
    """Queue removals of what was called back while a job wrote it; returns those facts, by their ids."""
    held, seen, pending = members(chain(view, view.tip)), view.events.standings, pending_removals(view.events.standings)
    gone = [n for n in held if n in seen and seen[n].state == "withdrawn" and n not in pending]
    for name in gone:
        reason = "it was called back while a job wrote it"
        ledger.append_possible(removal_events(view.line, name, seen[name].events, actor, reason))
    return gone


def take_out_again(ledger: Ledger, view: LineView, facts: Collection[str], actor: str, reason: str) -> dict[str, str]:
    """Queue removals of facts that a move of HEAD is about to bring back; returns each fact with its removal.

    Written before HEAD moves, so that it never brings them back without. Where it does not move after all, the next job
    ends them: no version holds their facts.
    """
    pending, events, seen = pending_removals(view.events.standings), list[Event](), view.events.standings
    for name in [name for name in facts if name not in pending]:
        events += removal_events(view.line, name, seen[name].events, actor, reason)
        pending[name] = events[-1].request_id
    ledger.append_possible(events)
    return {name: pending[name] for name in facts}


def take_out_expired(
    store: SnapshotStore, ledger: Ledger, view: LineView, actor: str, now: datetime | None = None
) -> list[str]:
    """Take out the facts in service, or in a version that waits, whose time is over; returns those, by their ids."""
    line, held = view.line, list(members(chain(view, view.tip)))
    until = {name: expiry_of(payload) for name, payload in ledger.payloads(line, held).items()}
    over = [name for name, end in until.items() if end and end <= (now or datetime.now(UTC))]
    pending = pending_removals(view.events.standings)
    gone = [name for name in over if view.events.standings[name].state in WRITTEN and name not in pending]
    for name in gone:
        take_out(store, ledger, line, [name], actor, f"expired {until[name]:%Y-%m-%d %H:%M} UTC")
    return gone


def expiry_of(payload: Mapping[str, Any] | None) -> datetime | None:
    """When a request is over; None: never."""
    if not payload or "expires" not in payload:
        return None
    try:
        request = make_request(payload)
    except InvalidEdit:
        return None
    return request.expires if isinstance(request, Request) else None


def removal_events(line: str, fact: str, events: int, actor: str, reason: str, prefix: str = RETRACT) -> list[Event]:
    """A removal as it is queued; `events`: how many its fact has had."""
    removal = f"{prefix}{fact}@{events}"
    payload = {"id": removal, "removes": fact, "reason": reason}
    return [
        Event(request_id=removal, event="received", line=line, actor=actor, payload=payload),
        Event(request_id=removal, event="queued", line=line, actor=actor, reason=reason or None),
    ]


def removals_of(ledger: Ledger, line: str, fact: str) -> list[str]:
    """The removals that were ever asked for of a fact."""
    found = ledger.look(line).get(line)
    return [name for name in found.standings if _fact_of(name) == fact] if found else []


def pending_removals(standings: Mapping[str, Standing]) -> dict[str, str]:
    """The facts with a removal that has not happened yet, and the first such."""
    found: dict[str, str] = {}
    for name, one in standings.items():
        if one.state in OPEN and (fact := _fact_of(name)) is not None:
            found.setdefault(fact, name)
    return found


def _fact_of(name: str) -> str | None:
    """The fact that a request takes out, by its id; None where it is no removal."""
    begin = next((prefix for prefix in RESERVED if name.startswith(prefix)), None)
    fact, _, events = name.removeprefix(begin or "").rpartition("@")
    return fact if begin and events.isdecimal() else None


def _fault(view: LineView, pending: Mapping[str, str], name: str, prefix: str) -> str | None:
    """Why a request cannot be taken out, in one line."""
    standing, what = view.events.standings.get(name), f"request {shown(name)}"
    if standing is None:
        return f"line '{view.line}' knows no {what}; see errata history --line {view.line}"
    if name.startswith(RESERVED) and standing.state not in UNWRITTEN:
        return f"{what} takes a fact out and is {standing.state}: reject its version to keep the fact, while it waits"
    if (removal := pending.get(name)) is not None and standing.state in WRITTEN:
        by = view.events.standings[removal]
        if by.state == "committed":
            return f"{what} is taken out already by version {by.version}, which waits for review: decide on that"
        return f"{what} is to be taken out already, by request {shown(removal)}: the next job does it"
    waits = standing.state in WRITTEN and name in members(chain(view, view.tip)) and name not in view.live
    if prefix == REFUSE and not waits:
        return f"{what} is in no version that waits for review on line '{view.line}': it is {standing.state}"
    if standing.state not in UNWRITTEN | WRITTEN:
        return f"{what} is {standing.state}: it is neither in service nor on its way, so there is nothing to take out"
    return None


def _to_write(
    view: LineView, names: Sequence[str], actor: str, reason: str, prefix: str
) -> tuple[TakenOut, list[Event]]:
    done, events = TakenOut(), list[Event]()
    for name in names:
        standing = view.events.standings[name]
        if standing.state in UNWRITTEN:
            done.withdrawn.append(name)
            events.append(Event(request_id=name, event="withdrawn", line=view.line, actor=actor, reason=reason or None))
            continue
        removal = removal_events(view.line, name, standing.events, actor, reason, prefix)
        done.queued[name] = removal[0].request_id
        events += removal
    return done, events


def _write(ledger: Ledger, view: LineView, events: Sequence[Event]) -> bool:
    """Write them all, if every request stands as it was seen; else nothing."""
    facts = {event.request_id for event in events} | {removed_by(event.payload) or event.request_id for event in events}

    def unchanged(known: Mapping[Named, Known]) -> Sequence[Event]:
        seen: Mapping[str, Standing] = view.events.standings
        counts = {name: seen[name].events if name in seen else 0 for name in facts}
        return events if all(len(known[view.line, n].event_ids) == count for n, count in counts.items()) else []

    return bool(ledger.write([(view.line, name) for name in sorted(facts)], unchanged))


def _followed(store: SnapshotStore, ledger: Ledger, before: LineView, done: TakenOut, by: tuple[str, str]) -> TakenOut:
    """A job that had taken up what was called back meanwhile may write it yet: then it is to be removed as well."""
    line, (actor, reason) = before.line, by
    queued = [name for name in done.withdrawn if before.events.standings[name].state == "queued"]
    facts = [name for name in queued if not name.startswith(RESERVED)]
    if not facts:
        return done
    running, view = holder(store.store, line), catch_up(store, ledger, line, actor)
    busy, held = running is not None and not running.is_free(), members(chain(view, view.tip))
    for name in facts:
        if busy or name in held:
            events = removal_events(line, name, view.events.standings[name].events, actor, reason)
            ledger.append_possible(events)
            done.queued[name] = events[0].request_id
    done.withdrawn = [name for name in done.withdrawn if name not in done.queued]
    return done
