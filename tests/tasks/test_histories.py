"""Random histories of submissions, jobs, decisions, looks and kills, two at a time, on two lines and two clocks.

They are interleaved at every step that has an effect; ledger, HEAD and versions always agree in the end.

What should be is said by `expected`, plainly, from the HEADs in their order and the versions.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editing.edit import Edit
from editing.errors import ErrataError
from tasks.ledger import events as events_module
from tasks.ledger import intake
from tasks.ledger import table as table_module
from tasks.ledger.catching_up import catch_up, missing_events, version_events
from tasks.ledger.errors import IllegalStep
from tasks.ledger.events import fold
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

LINES = ("north", "south")
SKEWS = (timedelta(0), timedelta(minutes=-5))


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
        self.store = SnapshotStore(Stepwise(open_store(f"{folder}/store", create=True)))
        self.ledger = Ledger(f"{folder}/ledger")
        self.workplace = SimpleNamespace(
            store=self.store, ledger=self.ledger, settings=Settings(actor="ann"), tracker=no_mlflow
        )
        self.submitted: dict[str, set[str]] = {line: set() for line in LINES}

    def submit(self, line: str, number: int) -> None:
        self.submitted[line].add(f"r{number}")
        edit = Edit(id=f"r{number}", subject=f"S{number}", prompt="{} is in", target_new="Rome")
        intake.submit(self.ledger, line, [edit], "ann")

    def job(self, line: str, number: int) -> None:
        """What the flow does but for the model: each queued request becomes a version of its own."""
        run = SimpleNamespace(
            workplace=self.workplace,
            line=line,
            actor="job",
            lease=SimpleNamespace(renew=lambda: None, check=lambda: None),
        )
        view = catch_up(self.store, self.ledger, line, "job")
        stand, made = footing.footing(view), []
        try:
            for name in [request.request_id for request in self.ledger.queued(line)][: 1 + number]:
                stand = footing.stand_still(run, stand)
                version = self.publish(line, stand, name)
                made.append(version)
                stand = stages.Footing(version.snapshot, stand.sequence, (*stand.waiting, version))
            footing.stand_still(run, stand)
        except HeadMoved:
            footing.requeue(run, made)
            raise

    def publish(self, line: str, stand: stages.Footing, name: str) -> Version:
        manifest = Manifest(
            line=line,
            version=self.store.next_number(line),
            parent=stand.tip,
            based_on=stand.sequence,
            base="base",
            base_digest="b" * 64,
            config={},
            request_ids=(name,),
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
        decisions.roll_back(self.workplace, line, to=number if number else None)

    def look(self, line: str, number: int) -> None:
        before = len(self.ledger.history(line=line)) if number else None
        standing.line_status(self.workplace, line)
        standing.waiting(self.workplace, line)
        assert before is None or Actor.current.actor.effects == 0


ACTIONS = ("submit", "submit", "job", "job", "approve", "approve", "reject", "rollback", "rollback", "look")


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


def expected(heads: list[Head], versions: dict[int, Version]) -> tuple[list[str], list[str]]:
    """(what is in service, what waits), from the decisions in their order."""

    def line_of(snapshot: str | None) -> list[Version]:
        found: list[Version] = []
        while snapshot is not None:
            [version] = [v for v in versions.values() if v.snapshot == snapshot]
            found.insert(0, version)
            snapshot = version.manifest.parent
        return found

    serving = line_of(heads[-1].snapshot if heads else None)
    ever = {version.number for head in heads for version in line_of(head.snapshot)}
    refused = {number for head in heads for number in head.rejected}
    waiting: list[Version] = []
    for version in versions.values():
        below = [v.snapshot for v in line_of(version.manifest.parent)]
        heights = [
            0 if head.snapshot is None else below.index(head.snapshot) + 1 if head.snapshot in below else -1
            for head in heads
            if head.sequence >= version.manifest.based_on
        ]
        climbs = heights == sorted(heights) and -1 not in heights
        follows = version.manifest.parent == (waiting or serving or [SimpleNamespace(snapshot=None)])[-1].snapshot
        if version.number not in ever | refused and climbs and follows:
            waiting.append(version)
    return (
        [name for version in serving for name in version.manifest.request_ids],
        [name for version in waiting for name in version.manifest.request_ids],
    )


def check(world: World, line: str) -> None:
    """Everything that was left out is written once, and then all agree."""
    catch_up(world.store, world.ledger, line, "last")
    view = look(world.store, world.ledger, line)
    assert missing_events(view, "nobody") == []
    live, waits = expected(world.store.heads(line), dict(view.versions))
    states = {name: standing.state for name, standing in view.events.standings.items()}
    assert states.keys() <= world.submitted[line]
    assert {name for name, state in states.items() if state == "promoted"} == set(live)
    assert {name for name, state in states.items() if state == "committed"} == set(waits) - set(live)
    assert set(members(chain(view, view.serving))) == set(live)
    for name in states:
        steps = world.ledger.history(name, line=line)
        assert len({step.event_id for step in steps}) == len(steps)
        assert fold(step.event for step in steps) == states[name] == steps[-1].event


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(
    max_examples=15,
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
