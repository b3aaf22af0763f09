"""The demo's steps, one entry each. Later work adds an entry where its command belongs.

A step that was killed is begun again, and one whose effect stands already is passed over: what stands is read from the
line, never remembered.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rich.text import Text

from deployments.demo import answers
from deployments.demo.changes import Changes, ask_for, changes_of
from deployments.demo.facts import Candidate
from deployments.demo.home import DemoHome
from editing.edit import Edit
from editing.models import LoadedModel
from flows.cli import history, jobs, lines, requests, versions
from flows.cli.console import console, say, waiting
from tasks.lines.specs import resolve_line
from tasks.review import standing
from tasks.review.asking import load_base
from tasks.workplace import Workplace

LINE = "demo"
ASKED_AGAIN = 5
"""Questions that are asked once more when the corrections are taken back."""


def nothing() -> None:
    """There is nothing to wait for."""


@dataclass(frozen=True)
class Demo:
    """What the steps work with."""

    home: DemoHome
    workplace: Workplace
    model: str
    requests: Path
    edits: Sequence[Edit]
    """The requests of that file, but for the malformed one."""
    facts: dict[str, Candidate]
    """What is known of each, by its id."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """What changes again in the second act: the next answers, by the ids of the facts."""
    started: Callable[[], None] = nothing
    """Waits until the job's server has started."""

    @property
    def serving(self) -> int:
        """The version in service; 0 is the base."""
        head = self.workplace.store.head(LINE)
        return head.version if head else 0

    @cached_property
    def base(self) -> LoadedModel:
        """The model before any correction, loaded once for all questions."""
        spec = resolve_line(self.workplace.store.store, self.workplace.settings, LINE)
        return load_base(self.workplace, spec)

    @property
    def asking(self) -> str:
        """What a person types to ask the first of the questions: in the model's chat, where it has one."""
        chat = " --chat" if self.base.tokenizer.chat_template else ""
        return f"errata ask{chat} {shlex.quote(self.rows[0].question)} --line {LINE}"

    @property
    def changes(self) -> Changes | None:
        """What changes in the second act."""
        return changes_of(self.workplace.ledger, LINE, self.edits, self.targets)

    @property
    def changing(self) -> str:
        """What a person types for it."""
        return self.changes.commands(LINE) if self.changes else "errata submit …"

    @property
    def rows(self) -> list[answers.Asked]:
        return answers.rows_of(self.edits, self.facts)


@dataclass(frozen=True)
class Step:
    """A part of the demo."""

    name: str
    """In the record of what is done."""
    says: str
    command: str
    """What a person types for the same; filled in with the fields of the demo."""
    action: Callable[[Demo], None]
    needless: Callable[[Demo], str] = lambda demo: ""
    """Why there is nothing to do, if so."""


def _submit(demo: Demo) -> None:
    requests.submit([demo.requests], LINE)


def _run(demo: Demo) -> None:
    demo.started()
    jobs.run(LINE, model=demo.model)


def _review(demo: Demo) -> None:
    versions.review(LINE)


def _nothing_waits(demo: Demo) -> str:
    return "" if standing.waiting(demo.workplace, LINE) else "nothing waits"


def _approve(demo: Demo) -> None:
    versions.approve(LINE, reason="the demo says so")


def _compare(demo: Demo) -> None:
    said = answers.ask(demo.workplace, LINE, demo.base, demo.rows)
    answers.keep(said, demo.home.answers)
    answers.show_corrected(demo.rows, said)


def _nothing_changes(demo: Demo) -> str:
    return "" if demo.changes else "of the facts that change again none is in service"


def _change(demo: Demo) -> None:
    if changes := demo.changes:
        ask_for(changes, demo.workplace.ledger, LINE)


def _compare_changed(demo: Demo) -> None:
    changes = demo.changes
    if changes is None:
        return
    now = answers.ask(demo.workplace, LINE, demo.base, demo.rows)
    questions = [demo.facts[edit.id].question for edit in (changes.replaced, changes.leaves)]
    answers.show_changed(demo.rows, answers.kept(demo.home.answers), now, (questions[0], changes.target), questions[1])


def _base_serves(demo: Demo) -> str:
    return "" if demo.serving else "the base is in service"


def _roll_back(demo: Demo) -> None:
    versions.rollback(LINE, to=0, reason="the demo takes it back")


def _ask_again(demo: Demo) -> None:
    rows = demo.rows[:ASKED_AGAIN]
    now = answers.ask(demo.workplace, LINE, demo.base, rows)
    answers.show_taken_back(rows, answers.kept(demo.home.answers), now)


def _never_served(demo: Demo) -> str:
    return "" if demo.home.answers.exists() else "nothing was in service"


def _history(demo: Demo) -> None:
    history.history(demo.edits[0].id, LINE)


def _status(demo: Demo) -> None:
    lines.status(LINE)


SECOND_ACT = (
    Step("change", "Facts live: one changes again, another is to leave", "{demo.changing}", _change, _nothing_changes),
    Step(
        "run-changed",
        "What stays is made anew from stored values, then what is new is written",
        "errata run demo",
        _run,
        _nothing_changes,
    ),
    Step("approve-changed", "Approved", "errata approve demo", _approve, _nothing_waits),
    Step("compare-changed", "Asked again", "{demo.asking}", _compare_changed, _nothing_changes),
)
"""What facts that live go through; only where it is asked for, since it is another job."""
STEPS = (
    Step("submit", "Corrections come in", "errata submit {requests.name} --line demo", _submit),
    Step(
        "run",
        "The job writes them into the model, ten at a time; what fails is undone",
        "errata run demo --model {model}",
        _run,
    ),
    Step("review", "What waits for a person", "errata review demo", _review, _nothing_waits),
    Step("approve", "Approved: the new version is in service", "errata approve demo", _approve, _nothing_waits),
    Step(
        "compare",
        "What it is for: questions as a person asks them, before and after",
        "{demo.asking}",
        _compare,
        _base_serves,
    ),
    Step("rollback", "All of it taken back", "errata rollback demo --to 0", _roll_back, _base_serves),
    Step("ask-again", "And asked once more", "{demo.asking}", _ask_again, _never_served),
    Step(
        "history",
        "What happened to one request",
        "errata history {edits[0].id} --line demo",
        _history,
    ),
    Step("status", "Where the line stands", "errata status demo", _status),
)


def steps_of(changes: bool) -> list[Step]:
    """The demo's steps, with its second act or without."""
    first = [step.name for step in STEPS].index("compare") + 1
    return [*STEPS[:first], *(SECOND_ACT if changes else ()), *STEPS[first:]]


def do(demo: Demo, steps: Sequence[Step] = STEPS) -> None:
    """Every step in its turn; what an earlier run of this demo has done is only named."""
    for number, step in enumerate(steps, start=1):
        title = f"{number}. {step.says}"
        if step.name in demo.home.record.done:
            say(f"{title}: done before", style="dim")
            continue
        with demo.home.step(step.name):
            console.rule(Text(title, "bold"), align="left")
            for command in step.command.format(demo=demo, **vars(demo)).splitlines():
                say(f"$ {command}", style="dim")
            if why := step.needless(demo):
                say(f"nothing to do: {why}")
            else:
                with waiting(step.says):
                    step.action(demo)
            say("")
