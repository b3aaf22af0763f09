"""Random histories of submissions, retractions, replacements, expiries, jobs, roots, decisions, looks and kills.

Two at a time, on two lines and by two clocks.

They are interleaved at every step that has an effect; ledger, HEAD and versions always agree in the end.

What should be is said by `expected`, plainly, from the HEADs in their order and the versions; the checker of the races,
which knows nothing of the code, agrees with it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editing.edit import Edit
from editing.errors import ErrataError
from editing.request import Request
from tasks.ledger import events as events_module
from tasks.ledger import intake
from tasks.ledger import table as table_module
from tasks.ledger.catching_up import catch_up, missing_events, version_events
from tasks.ledger.errors import IllegalStep
from tasks.ledger.events import Event, fold
from tasks.ledger.removals import take_out, take_out_expired
from tasks.ledger.reserved import REFUSE, RESERVED
from tasks.ledger.table import Ledger
from tasks.ledger.view import chain, look
from tasks.review import decisions, standing
from tasks.settings import Settings
from tasks.stores.errors import HeadMoved, LineBusy
from tasks.stores.manifest import Head, Manifest, Version, members
from tasks.stores.opening import open_store
from tasks.stores.snapshots import SnapshotStore
from tasks.tracking.errors import TrackingError
from tasks.update import footing, stages
from tests.costs import THOROUGH
from tests.races import checker

LINES = ("north", "south")
SKEWS = (timedelta(0), timedelta(minutes=-5))
OVER = datetime(2999, 1, 1, tzinfo=UTC)
"""When facts that are there for a time only are over."""


class Killed(BaseException):
    """What a process feels of `kill -9`."""


class Actor(threading.Thread):
    """One command or job, that goes on by one effect at a time when it is told to."""

    current = threading.local()

    def __init__(self, work: Callable[[], object], kill_at: int | None, skew: timedelta) -> None:
        super().__init__(daemon=True)
        self.work, self.kill_at, self.skew = work, kill_at, skew
        self.go, self.stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.effects, self.done, self.error = 0, False, None
        self.start()

    def run(self) -> None:
        Actor.current.actor = self
        self.go.acquire()
        try:
            with suppress(Killed, HeadMoved, LineBusy):
                self.work()
        except BaseException as error:
            self.error = error
        self.done = True
        self.stopped.release()

    def step(self) -> None:
        """Let it go on up to its next effect, or to its end."""
        self.go.release()
        self.stopped.acquire()

    def before_effect(self) -> None:
        self.effects += 1
        if self.effects == self.kill_at:
            raise Killed
        self.stopped.release()
        self.go.acquire()


def before_effect() -> None:
    if (actor := getattr(Actor.current, "actor", None)) is not None:
        actor.before_effect()


class Stepwise:
    """An object store that stops before everything it does."""

    def __init__(self, store: Any) -> None:
        self._store, self.uri = store, store.uri

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if not name.startswith("put"):
            return call

        def stepwise(*arguments: Any) -> Any:
            before_effect()
            return call(*arguments)

        return stepwise


class SkewedClock(datetime):
    """The clock of the actor's machine."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        actor = getattr(Actor.current, "actor", None)
        return datetime.now(tz) + (actor.skew if actor else timedelta(0))


def no_mlflow() -> None:
    raise TrackingError("not here")


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    write = table_module.write_deltalake

    def stopped(*arguments: Any, **options: Any) -> None:
        before_effect()
        write(*arguments, **options)

    monkeypatch.setattr(table_module, "write_deltalake", stopped)
    monkeypatch.setattr(events_module, "datetime", SkewedClock)


class World:
    """A store and a ledger, and what can be done to them."""

    def __init__(self, folder: str) -> None:
        self.home = checker.Home(Path(folder))
        self.store = SnapshotStore(Stepwise(open_store(f"{folder}/snapshots", create=True)))
        self.ledger = Ledger(f"{folder}/ledger")
        self.workplace = SimpleNamespace(
            store=self.store, ledger=self.ledger, settings=Settings(actor="ann"), tracker=no_mlflow
        )
        self.submitted: dict[str, set[str]] = {line: set() for line in LINES}

    def submit(self, line: str, number: int) -> None:
        self._submit(line, Edit(id=f"r{number}", subject=f"S{number}", prompt="{} is in", target_new="Rome"))

    def revise(self, line: str, number: int) -> None:
        """Another answer to what `submit` says, which takes the place of that, or of the other one's."""
        self._submit(line, Edit(id=f"x{number}", subject=f"S{number}", prompt="{} is in", target_new="Oslo"))

    def lease(self, line: str, number: int) -> None:
        """A fact for a time only."""
        told = {"subject": f"T{number}", "prompt": "{} is in", "target_new": "Rome"}
        self._submit(line, Request(id=f"t{number}", expires=OVER, **told))

    def expire(self, line: str, number: int) -> None:
        """A job at a time when what is there for a time only is over."""
        view = catch_up(self.store, self.ledger, line, "job")
        take_out_expired(self.store, self.ledger, view, "job", OVER)
        self.job(line, number)

    def _submit(self, line: str, edit: Edit) -> None:
        self.submitted[line].add(edit.id)
        intake.submit(self.ledger, line, [edit], "ann")

    def retract(self, line: str, number: int) -> None:
        take_out(self.store, self.ledger, line, [f"r{number}"], "ann", "wrong")

    def refuse(self, line: str, number: int) -> None:
        take_out(self.store, self.ledger, line, [f"r{number}"], "eve", "no source", prefix=REFUSE)

    def rebase(self, line: str, number: int) -> None:
        """A job that begins with a root, whether anything leaves or not."""
        self.job(line, number, anew=True)

    def job(self, line: str, number: int, *, anew: bool = False) -> None:
        """What the flow does but for the model: each request becomes a version of its own, what leaves a root.

        Every other one keeps nothing of what is to replace a fact, which is then written back.
        """
        run = SimpleNamespace(
            workplace=self.workplace,
            line=line,
            actor="job",
            flow_run_id="",
            policy=SimpleNamespace(on_conflict="replace"),
            spec=SimpleNamespace(join=None),
            lease=SimpleNamespace(renew=lambda: None, check=lambda: None),
        )
        view = catch_up(self.store, self.ledger, line, "job")
        stand, made = footing.footing(view), []
        taken = stages.take_up(run, view, 1 + number)
        stages.write_rejections(run, taken.rejected, taken.ended)
        session = SimpleNamespace(live=list(members(chain(view, view.tip))))

        def publish(**fields: Any) -> None:
            nonlocal stand
            stand = footing.stand_still(run, stand)
            version = self.publish(line, stand, **fields)
            made.append(version)
            stand = stages.Footing(version.snapshot, stand.sequence, (*stand.waiting, version))
            session.live[:] = members([Manifest.model_construct(live=tuple(session.live), version=0, removed=(),
                                       request_ids=(), removals={}, restored=()), version.manifest])  # fmt: skip

        try:
            leaving = {*taken.removals.values(), *taken.replaced}
            if leaving or (anew and session.live):
                live = tuple(name for name in session.live if name not in leaving)
                root = {"live": live, "after": stand.tip, "removed": tuple(sorted(leaving)), "parent": None}
                names = tuple(taken.removals)
                publish(**root, request_ids=names, removals=taken.removals, replaced=taken.replaced)
            for edit in taken.edits:
                if edit.id in taken.replaced.values() and number % 2:
                    steps = [
                        Event(request_id=edit.id, event=e, line=line, actor="job") for e in ("applied", "quarantined")
                    ]
                    self.ledger.append_possible(steps)
                else:
                    publish(request_ids=(edit.id,))
            for name in stages.unreplaced(session, stand):
                publish(request_ids=(), restored=(name,))
            footing.stand_still(run, stand)
        except HeadMoved:
            footing.requeue(run, made)
            raise

    def publish(self, line: str, stand: stages.Footing, **fields: Any) -> Version:
        manifest = Manifest(
            **{"parent": stand.tip} | fields,
            line=line,
            version=self.store.next_number(line),
            based_on=stand.sequence,
            base="base",
            base_digest="b" * 64,
            config={},
            tensor_digests={},
            batch=1,
        )
        version = self.store.publish(manifest, {"w": torch.zeros(1)})
        self.ledger.append_possible(version_events(version, "job"))
        return version

    def approve(self, line: str, number: int) -> None:
        decisions.approve(self.workplace, line)

    def reject(self, line: str, number: int) -> None:
        decisions.reject(self.workplace, line, reason="no")

    def rollback(self, line: str, number: int) -> None:
        decisions.roll_back(self.workplace, line, to=number if number else None, with_retracted=True)

    def rollback_without(self, line: str, number: int) -> None:
        """What was taken out since and comes back so is to be taken out again."""
        to = number if number else None
        decisions.roll_back(self.workplace, line, to=to, reason="back", without_retracted=True)

    def look(self, line: str, number: int) -> None:
        before = len(self.ledger.history(line=line)) if number else None
        standing.line_status(self.workplace, line)
        standing.waiting(self.workplace, line)
        assert before is None or Actor.current.actor.effects == 0


ACTIONS = (
    "submit", "revise", "revise", "lease", "retract", "retract", "refuse", "job", "job", "job", "expire", "rebase",
    "approve", "approve", "approve", "reject", "rollback", "rollback_without", "look",
)  # fmt: skip


@dataclass(frozen=True)
class Deed:
    """One action on a line, killed before its n-th effect if `kill_at` says so."""

    action: str
    line: str
    number: int
    kill_at: int | None
    skew: timedelta


DEEDS = st.builds(
    Deed,
    st.sampled_from(ACTIONS),
    st.sampled_from((*LINES, LINES[0], LINES[0])),  # two on one line meet more often
    st.integers(0, 3),
    st.none() | st.none() | st.integers(1, 6),
    st.sampled_from(SKEWS),
)


def meanwhile(world: World, deeds: tuple[Deed, ...], turns: Iterator[int]) -> None:
    """The deeds at once, their effects in the order that `turns` gives."""

    def doing(deed: Deed) -> Callable[[], object]:
        return lambda: getattr(world, deed.action)(deed.line, deed.number)

    actors = [Actor(doing(deed), deed.kill_at, deed.skew) for deed in deeds]
    while remaining := [actor for actor in actors if not actor.done]:
        remaining[next(turns, 0) % len(remaining)].step()
    for actor in actors:
        if actor.error is not None and (
            not isinstance(actor.error, ErrataError) or isinstance(actor.error, IllegalStep)
        ):
            raise actor.error


@dataclass(frozen=True)
class Expected:
    """What is in service, what waits, and which removals are in force, from the decisions in their order."""

    live: set[str]
    waiting: set[str]
    removals: set[str]


def expected(heads: list[Head], versions: dict[int, Version]) -> Expected:
    by_snapshot = {version.snapshot: version for version in versions.values()}

    def comes_after(version: Version) -> str | None:
        return version.manifest.parent if version.manifest.live is None else version.manifest.after

    def line_of(snapshot: str | None) -> list[Version]:
        """One after the other, by way of roots, too."""
        found: list[Version] = []
        while snapshot is not None:
            found.insert(0, by_snapshot[snapshot])
            snapshot = comes_after(found[0])
        return found

    serving = line_of(heads[-1].snapshot if heads else None)
    ever = {version.number for head in heads for version in line_of(head.snapshot)}
    refused = {number for head in heads for number in head.rejected}
    waiting: list[Version] = []
    for version in versions.values():
        below = [v.snapshot for v in line_of(comes_after(version))]
        heights = [
            0 if head.snapshot is None else below.index(head.snapshot) + 1 if head.snapshot in below else -1
            for head in heads
            if head.sequence >= version.manifest.based_on
        ]
        climbs = heights == sorted(heights) and -1 not in heights
        follows = comes_after(version) == (waiting or serving or [SimpleNamespace(snapshot=None)])[-1].snapshot
        if version.number not in ever | refused and climbs and follows:
            waiting.append(version)
    live: set[str] = set()
    for manifest in (version.manifest for version in serving):
        own = {*manifest.request_ids} - manifest.removals.keys() | {*manifest.restored}
        live = {*manifest.live, *own} if manifest.live is not None else live | own
    return Expected(
        live,
        {name for version in waiting for name in version.manifest.request_ids},
        {name for version in serving for name in version.manifest.removals},
    )


def check(world: World, line: str) -> None:
    """Everything that was left out is written once, and then all agree."""
    catch_up(world.store, world.ledger, line, "last")
    view = look(world.store, world.ledger, line)
    assert missing_events(view, "nobody") == []
    assert checker.faults(world.home, line, aliases=False) == []
    right = expected(world.store.heads(line), dict(view.versions))
    states = {name: standing.state for name, standing in view.events.standings.items()}
    assert {name for name in states if not name.startswith(RESERVED)} <= world.submitted[line]
    assert {name for name, state in states.items() if state == "promoted"} == right.live | right.removals
    committed = {name for name, state in states.items() if state == "committed"}
    assert committed <= right.waiting - right.live
    # Called back while a job wrote it, perhaps submitted again since: the version that holds it waits all the same.
    assert {states[name] for name in right.waiting - right.live - committed} <= {"withdrawn", "queued", "rejected"}
    assert set(members(chain(view, view.serving))) == right.live
    for manifest in chain(view, view.serving):  # nobody is left with neither
        assert all(right.live & {*pair} for pair in manifest.replaced.items())
    for name in states:
        steps = world.ledger.history(name, line=line)
        assert len({step.event_id for step in steps}) == len(steps)
        assert fold(step.event for step in steps) == states[name] == steps[-1].event


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(
    max_examples=60 if THOROUGH else 4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(st.tuples(DEEDS, DEEDS), min_size=3, max_size=9),
    st.lists(st.integers(0, 1), max_size=120),
)
def test_ledger_head_and_versions_agree_after_any_history(stepwise, pairs, turns):
    with TemporaryDirectory() as folder:
        world, order = World(folder), iter(turns)
        for line in LINES:
            for number in range(4):
                world.submit(line, number)
            world.job(line, 1)
        for pair in pairs:
            meanwhile(world, pair, order)
        for line in LINES:
            check(world, line)
