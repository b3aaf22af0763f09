"""One watch over a line: what was decided elsewhere is carried out, then everything is looked at, then who is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from editing.errors import ErrataError
from tasks.ledger.removals import take_out_expired
from tasks.ledger.view import LineView, look
from tasks.lines.stored import check_known
from tasks.progress import note, stage
from tasks.review.pending import EXPIRED, carry_out
from tasks.tracking.errors import TrackingError
from tasks.watch.alerts import Alarm
from tasks.watch.checks import check_aliases, check_lease, check_queue
from tasks.watch.findings import Finding, WatchReport
from tasks.watch.memory import Memory
from tasks.watch.policy import WatchPolicy
from tasks.watch.series import log_numbers
from tasks.workplace import Workplace


@dataclass(frozen=True)
class Watch:
    """What a watch is to do."""

    line: str
    policy: WatchPolicy
    ask: bool = True
    """Load the version in service and ask it."""
    sample: int = 50
    """Most facts to ask; more are sampled, always the same."""
    server: bool = False
    """There is a Prefect server: its schedules are looked at, and events are sent to it."""
    link: str = ""
    """Where people who are told may look."""


def watch_over(workplace: Workplace, watch: Watch) -> WatchReport:
    """Look after a line once. What cannot be looked at is a finding of its own, and keeps nothing else back.

    Safe to repeat and beside everything; killed in between, the next watch finds the same.

    Raises:
        UsageError: there is no such line.
        StorageError, LedgerError: neither can be asked whether there is.
    """
    check_known(workplace.store, workplace.ledger, watch.line)
    seen, view = _Seen(), None
    with seen.or_said("decisions made elsewhere"):
        seen.done += _carry_out(workplace, watch.line)
    with seen.or_said("where the line stands"):
        view = look(workplace.store, workplace.ledger, watch.line)
    if view is not None:
        with seen.or_said("what has expired"):
            gone = take_out_expired(workplace.store, workplace.ledger, view, EXPIRED.actor)
            seen.done += [f"{name}: expired, to be taken out by the next job" for name in gone]
        _look_around(workplace, watch, view, seen)
    _tell(workplace, watch, view, seen)  # before MLflow is asked, whose absence takes a while to find out
    if view is not None and view.versions:
        found = len(seen.findings)
        with seen.or_said("MLflow"), stage("MLflow"):
            seen.findings += check_aliases(workplace, view)
            numbers = seen.numbers | {"version": float(view.head.version if view.head else 0)}
            log_numbers(workplace.tracker(), Memory(workplace.store.store, watch.line), numbers)
        _tell(workplace, watch, view, seen, found)
    return WatchReport(
        line=watch.line,
        version=view.head.version if view and view.head else 0,
        waiting=tuple((version.number, version.snapshot) for version in view.waiting) if view else (),
        asked=seen.asked,
        numbers=seen.numbers,
        findings=tuple(seen.findings),
        done=tuple(seen.done),
    )


def _tell(workplace: Workplace, watch: Watch, view: LineView | None, seen: "_Seen", since: int = 0) -> None:
    """Tell of what was found, but of no breach where somebody has decided since: it says nothing of what serves now."""
    with seen.or_said("telling"):
        head = workplace.store.head(watch.line) if view is not None else None
        if view is not None and (head.sequence if head else 0) != view.sequence:
            seen.findings = [one for one in seen.findings if one.weight != "breach"]
        memory = Memory(workplace.store.store, watch.line)
        Alarm(workplace.settings, memory, watch.server, watch.link).raise_for(seen.findings[since:], head)


@dataclass
class _Seen:
    """What was seen so far."""

    findings: list[Finding] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    asked: int = 0

    @contextmanager
    def or_said(self, what: str) -> Iterator[None]:
        """Inside, what cannot be reached or read becomes a finding; MLflow is away once, whoever asked."""
        try:
            yield
        except (ErrataError, OSError) as error:
            about = "MLflow" if isinstance(error, TrackingError) else what
            text = f"{about}: {' '.join(str(error).split())}"
            if not any((one.kind, one.about) == ("not seen", about) for one in self.findings):
                self.findings.append(Finding(kind="not seen", weight="late", about=about, text=text))


def _carry_out(workplace: Workplace, line: str) -> list[str]:
    """What was decided in MLflow, or by time."""
    carried = carry_out(workplace, line)
    for text in carried:
        note(text)
    return carried


def _look_around(workplace: Workplace, watch: Watch, view: LineView, seen: _Seen) -> None:
    with seen.or_said("the queue"):
        numbers, found = check_queue(workplace, view, watch.policy)
        seen.numbers |= numbers
        seen.findings += found
    with seen.or_said("the lease"):
        seen.findings += check_lease(workplace, watch.line)
    if watch.server:
        with seen.or_said("Prefect's server"), stage("schedules"):
            # Here, since a watch without a server does without Prefect, which takes a while to import.
            from tasks.watch.schedules import check_schedules

            seen.findings += check_schedules(watch.line, watch.policy)
    if watch.ask and view.serving is not None:
        with seen.or_said("the version in service"):
            _ask_unless_held(workplace, watch, view, seen)


def _ask_unless_held(workplace: Workplace, watch: Watch, view: LineView, seen: _Seen) -> None:
    """A version answers the same as long as its bytes are the same: one that held lately is not asked at each watch."""
    memory, now = Memory(workplace.store.store, watch.line), datetime.now(UTC)
    last = memory.read()
    lately = last.held_at is not None and now - last.held_at < timedelta(hours=watch.policy.ask_hours)
    if lately and last.held == view.sequence:
        return
    found = len(seen.findings)
    _ask(workplace, watch, view, seen)
    if len(seen.findings) == found:
        memory.change(lambda then: then.model_copy(update={"held": view.sequence, "held_at": now}))


def _ask(workplace: Workplace, watch: Watch, view: LineView, seen: _Seen) -> None:
    # Here, since torch and transformers take seconds to import, and a watch that asks nothing does without.
    from tasks.lines.specs import read_line
    from tasks.watch.asking import ask_champion

    spec = read_line(workplace.store.store, watch.line)
    assert spec is not None, "a line with a version in service is defined"
    asked = ask_champion(workplace, view, spec, watch.sample, watch.policy)
    seen.asked = asked.count
    seen.numbers |= asked.numbers
    seen.findings += asked.findings
