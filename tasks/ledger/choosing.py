"""What a job takes up of the queue: what it writes, what it takes out and replaces, and what it refuses or leaves."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from editing.edit import Edit, shown
from editing.errors import InvalidEdit
from editing.request import PRIORITIES, Request, fact_of, make_request
from tasks.ledger.events import RequestState, State
from tasks.ledger.removals import removed_by
from tasks.ledger.table import Ledger
from tasks.ledger.view import LineView, chain
from tasks.stores.manifest import members, open_replacements

OnConflict = Literal["replace", "reject"]
Question = tuple[str, str]
EARLY = "not before "
"""How the reason of a request begins that is left for its `not_before`; the time follows."""


@dataclass(frozen=True)
class Line:
    """What stands on the line that a job takes up requests for."""

    facts: Sequence[Edit] = ()
    """What the ledger knows of the facts that a new version builds on: those in service, and those that wait."""
    held: Collection[str] | None = None
    """All of these by their ids, known or not; None: those that are known."""
    waiting: Collection[str] = ()
    """Those of them that wait for review."""
    known: Collection[str] = ()
    """Every request that the line ever had."""
    departed: Mapping[str, str] = field(default_factory=dict)
    """Facts in service, not held, that versions which wait take out for others, and for which; they come back where
    those are not kept."""


@dataclass(frozen=True)
class Intake:
    """What a job takes up: facts in the order in which they are written, and what becomes of the others."""

    accepted: tuple[Edit, ...]
    rejected: dict[str, str]
    """Reasons by request."""
    removals: dict[str, str] = field(default_factory=dict)
    """The fact that is taken out, by removal."""
    replaced: dict[str, str] = field(default_factory=dict)
    """The request that takes its place, by fact in service."""
    ended: dict[str, tuple[State, str]] = field(default_factory=dict)
    """How others end without being written, and why."""
    left: dict[str, str] = field(default_factory=dict)
    """What stays queued, and why."""


def take(
    queued: Sequence[RequestState],
    line: Line,
    limit: int | None = None,
    on_conflict: OnConflict = "replace",
    only: Collection[str] | None = None,
    now: datetime | None = None,
) -> Intake:
    """Choose from the queue: what is urgent first, then the oldest.

    A request that asks anew what a fact in service answers otherwise takes its place, or, by `on_conflict`, is refused;
    so is what says again what stands already, and what contradicts a request before it in the queue, unless it says
    that it replaces it. Removals are taken up all together: they make one version.
    """
    taking = _Taking(line, on_conflict, [one.request_id for one in queued], now or datetime.now(UTC))
    chosen = [one for one in queued if _is_asked_for(one, only)]
    removals = {one.request_id: fact for one in chosen if (fact := removed_by(one.payload)) is not None}
    for name in sorted(removals, key=lambda name: removals[name] in line.departed):  # what is to replace it comes first
        taking.removal(name, removals[name])
    taking.stand_again()
    for request in sorted(chosen, key=_urgency):
        if removed_by(request.payload) is None:
            if limit is not None and len(taking.accepted) >= limit:
                break
            taking.request(request)
    return Intake(
        tuple(fact_of(edit) for edit in taking.accepted.values()),
        taking.rejected, taking.removals, taking.replaced, taking.ended, taking.left,
    )  # fmt: skip


def left_for_later(ledger: Ledger, view: LineView, queued: Sequence[RequestState]) -> dict[str, str]:
    """What a job would leave in the queue now, and why."""
    held, gone = members(chain(view, view.tip)), departed(view)
    facts = [edit for one in ledger.payloads(view.line, [*held, *gone]).values() if (edit := _made(one)) is not None]
    line = Line(facts, held, held.keys() - view.live.keys(), view.events.standings.keys(), gone)
    return take(queued, line).left


def departed(view: LineView) -> dict[str, str]:
    """As `Line.departed`."""
    held, taken_out = members(chain(view, view.tip)), open_replacements(one.manifest for one in view.waiting)
    return {old: new for old, new in taken_out.items() if old in view.live and old not in held}


def open_since(request: RequestState) -> datetime:
    """Since when a job may take a request up, as far as the request says itself."""
    edit = _made(request.payload)
    early = edit.not_before if isinstance(edit, Request) else None
    return max(request.time, early) if early else request.time


def _made(payload: Mapping[str, Any] | None) -> Edit | None:
    try:
        return make_request(payload) if payload else None
    except InvalidEdit:  # a removal, or what a job refuses
        return None


def question(edit: Edit) -> Question:
    """Two edits ask the same when subject and filled-in prompt agree but for case and spaces."""
    return plain(edit.subject), plain(edit.text)


def plain(text: str) -> str:
    """A text but for case and spaces."""
    return " ".join(text.casefold().split())


def _is_asked_for(request: RequestState, only: Collection[str] | None) -> bool:
    return only is None or request.request_id in only or removed_by(request.payload) in only


def _urgency(request: RequestState) -> int:
    priority = (request.payload or {}).get("priority", "normal")
    return PRIORITIES.index(priority) if priority in PRIORITIES else PRIORITIES.index("normal")


class _Taking:
    """What was taken up so far."""

    def __init__(self, line: Line, on_conflict: OnConflict, order: Sequence[str], now: datetime) -> None:
        self.line, self.on_conflict, self.now = line, on_conflict, now
        self.age = {name: place for place, name in enumerate(order)}
        self.held = frozenset(line.held if line.held is not None else (edit.id for edit in line.facts))
        self.standing = {edit.id: edit for edit in line.facts if edit.id in self.held}
        self.asking = _by_what_they_ask(line.facts)
        self.accepted: dict[str, Edit] = {}
        self.asked: dict[Question, list[str]] = {}
        self.rejected: dict[str, str] = {}
        self.removals: dict[str, str] = {}
        self.replaced: dict[str, str] = {}
        self.ended: dict[str, tuple[State, str]] = {}
        self.left: dict[str, str] = {}

    def stand_again(self) -> None:
        """Facts come back where what was to replace them is gone, or leaves."""
        back = [edit for edit in self.line.facts if self._comes_back(edit.id)]
        self.held |= {edit.id for edit in back}
        self.standing |= {edit.id: edit for edit in back if edit.id not in self.removals.values()}

    def _comes_back(self, fact: str) -> bool:
        heir = self.line.departed.get(fact)
        return heir is not None and (heir not in self.held or heir in self.removals.values())

    def removal(self, name: str, fact: str) -> None:
        if fact in self.held or self._comes_back(fact):
            self.removals[name] = fact
            self.standing.pop(fact, None)
        elif fact in self.line.departed:
            heir = self.line.departed[fact]
            self.left[name] = f"request '{fact}' leaves with what waits for review, for '{heir}': decide on that"
        else:
            self.ended[name] = ("withdrawn", f"request '{fact}' is in no version any more")

    def request(self, queued: RequestState) -> None:
        name = queued.request_id
        if name in self.ended:
            return
        try:
            edit = make_request(queued.payload or {})
        except InvalidEdit as error:
            self.rejected[name] = str(error)
            return
        if self._is_early_or_late(name, edit):
            return
        found = self._in_its_way(edit)
        if found is None:
            return
        for other in found:
            if other in self.held:
                if self.line.departed.get(other) != name:  # else a killed job took it out for this request
                    self.replaced[other] = name
            else:
                self._supersede(other, name)
        self.accepted[name] = edit
        for asked, names in _by_what_they_ask([edit]).items():
            self.asked.setdefault(asked, []).extend(names)

    def _is_early_or_late(self, name: str, edit: Edit) -> bool:
        if not isinstance(edit, Request):
            return False
        if edit.expires is not None and edit.expires <= self.now:
            self.rejected[name] = f"expired {edit.expires:%Y-%m-%d %H:%M} UTC, before a job took it up"
            return True
        if edit.not_before is not None and edit.not_before > self.now:
            self.left[name] = f"{EARLY}{edit.not_before:%Y-%m-%d %H:%M} UTC"
            return True
        return False

    def _in_its_way(self, edit: Edit) -> list[str] | None:
        """The facts and requests whose place it takes; None where it is refused or left, and says why."""
        named = edit.replaces if isinstance(edit, Request) else None
        found = [] if named is None else [named]
        if named is not None and not self._may_replace(edit, named):
            return None
        for other in self._same(edit):
            same = question(other) == question(edit)
            if other.target_new == edit.target_new:
                if same and other.id != named:
                    if named is not None and self.replaced.get(other.id) == named:
                        self._supersede(named, edit.id)
                        self.replaced = {fact: by for fact, by in self.replaced.items() if by != edit.id}
                    self.rejected[edit.id] = f"says the same as request '{other.id}'"
                    return None
            elif other.id in self.line.waiting:
                self.left[edit.id] = f"asks what request '{other.id}' answers, which waits for review: decide on that"
                return None
            elif other.id != named and (other.id in self.accepted or self.on_conflict == "reject"):
                self.rejected[edit.id] = _contradiction(edit, other)
                return None
            elif (heir := self.replaced.get(other.id, edit.id)) not in (edit.id, named):
                if self.accepted[heir].target_new != edit.target_new:
                    self.rejected[edit.id] = _contradiction(edit, self.accepted[heir])
                    return None
            else:
                found.append(other.id)
        return [name for name in dict.fromkeys(found) if name in self.standing or name in self.age]

    def _may_replace(self, edit: Edit, named: str) -> bool:
        what = f"replaces request {shown(named)}"
        if named in self.line.waiting:
            self.left[edit.id] = f"{what}, which waits for review: decide on that"
            return False
        if named in self.age and named not in self.removals and self.age[named] > self.age[edit.id]:
            self.rejected[edit.id] = f"{what}, which is newer than it"
            return False
        if named in self.removals or named not in {*self.held, *self.age, *self.line.known}:
            self.rejected[edit.id] = f"{what}, which the line does not know"
            return False
        return True

    def _same(self, edit: Edit) -> list[Edit]:
        """What stands and asks the same, or lists its question among its paraphrases; and what was taken up."""
        asked, text = question(edit), plain(edit.text)
        same = dict.fromkeys([*self.asking.get(asked, ()), *self.asking.get(("", text), ())])
        taken = dict.fromkeys([*self.asked.get(asked, ()), *self.asked.get(("", text), ())])
        live = [self.standing[name] for name in same if name in self.standing]
        return [*live, *(self.accepted[name] for name in taken if name in self.accepted)]

    def _supersede(self, other: str, name: str) -> None:
        """A request of the queue goes for a newer one, whether or not it was taken up."""
        self.ended[other] = ("superseded", f"replaced by request '{name}' before it was written")
        self.accepted.pop(other, None)
        self.rejected.pop(other, None)
        self.left.pop(other, None)
        for fact in [fact for fact, by in self.replaced.items() if by == other]:
            self.replaced[fact] = name


def _by_what_they_ask(facts: Sequence[Edit]) -> dict[Question, list[str]]:
    """Ids of facts by their question, and by each of their paraphrases, which have no subject of their own."""
    found: dict[Question, list[str]] = {}
    for edit in facts:
        for asked in dict.fromkeys((question(edit), *(("", plain(text)) for text in edit.paraphrases))):
            found.setdefault(asked, []).append(edit.id)
    return found


def _contradiction(edit: Edit, other: Edit) -> str:
    return (
        f"contradicts request '{other.id}': '{edit.text}' is to answer '{other.target_new}' there and "
        f"'{edit.target_new}' here; take the other back first (errata retract {shlex.quote(other.id)}), or say that it "
        "replaces it"
    )
