"""The demo from its first words to its last."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from deployments.demo import CANDIDATES, REQUESTS, pace
from deployments.demo.facts import Candidate, dump_requests, make_requests, read_table
from deployments.demo.home import DemoHome, processor_seconds
from deployments.demo.steps import Demo, Step, do, steps_of
from editing.edit import Edit
from editing.files import write_atomically
from editing.models import EMBEDDED
from editing.readers import good_and_bad, read_edits
from flows.cli.console import say, shown_progress, table, waiting
from tasks.base_model import loaded_base
from tasks.settings import Settings, load_settings
from tasks.workplace import open_workplace

DOCS = Path(__file__).parents[2] / "docs" / "index.md"


def play(home: DemoHome, model: str, candidates: Path, started: Callable[[], None] | None, changes: bool) -> None:
    """Every step that is not done yet, then where to go from here; arguments as for `begin`.

    `started` waits until the job's server has started, where one does.
    """
    settings = load_settings()
    steps = steps_of(changes)
    _announce(home, settings, model, steps)
    home.note_cost(step="start", seconds=_since_start(), processor_seconds=processor_seconds())
    demo = _prepared(home, settings, model, candidates)
    if any(not demo.facts[edit.id].shows for edit in demo.edits):
        do(replace(demo, started=started or demo.started), steps)
        _show_where_to_go(demo, changes)
    else:
        say(f"there is nothing to correct: {model} knows it all")
    home.finish()
    say(f"done in {_since_start():.0f} s")


def _since_start() -> float:
    """Seconds that this process has lived: imports count, too."""
    return time.time() - psutil.Process().create_time()


def _announce(home: DemoHome, settings: Settings, model: str, steps: Sequence[Step]) -> None:
    """How long it will take here."""
    with waiting("measuring this machine"):
        found = pace.measure()
    cached = pace.spared(settings.cache_folder, model)
    seconds = pace.expected(
        found, cached, ["start", *(step.name for step in steps if step.name not in home.record.done)]
    )
    say(pace.announced(seconds, cached, bool(home.record.done), model), style="bold")


def _prepared(home: DemoHome, settings: Settings, model: str, candidates: Path) -> Demo:
    """The requests: the committed ones, or for another model what it gets wrong."""
    facts, requests = read_table(candidates), REQUESTS
    if model != EMBEDDED or candidates != CANDIDATES:
        requests = home.folder / REQUESTS.name
        if not requests.exists():
            with shown_progress():
                loaded = loaded_base(model, settings.dtype, settings)
                made = make_requests(loaded, facts)
            write_atomically(requests, dump_requests(made).encode())
    by_id = facts.by_id()
    edits, _ = good_and_bad(read_edits(requests))
    if requests != REQUESTS:
        say(_wrong(model, edits, by_id))
    return Demo(home, open_workplace(settings), model, requests, edits, by_id, facts.changes)


def _wrong(model: str, edits: Sequence[Edit], facts: Mapping[str, Candidate]) -> str:
    """How much of the table another model knows."""
    true = sum(not candidate.shows for candidate in facts.values())
    wrong = sum(not facts[edit.id].shows for edit in edits)
    return f"of {true} true facts, {model} is corrected on {wrong} that it gets wrong"


def _show_where_to_go(demo: Demo, changes: bool) -> None:
    folder = demo.home.folder
    report = next(folder.glob("artifacts/**/report.html"), None)
    rows: list[list[object]] = [
        ["the report of the job", report or "none: nothing was kept"],
        ["the ledger (Delta table)", folder / "ledger"],
        ["the snapshots", folder / "snapshots"],
        ["the facts, with their sources", CANDIDATES],
        ["what each step cost", folder / "stages.jsonl"],
    ]
    table("places to look", ["what", "where"], rows)
    say("next steps", style="bold")
    for number, (what, command) in enumerate(_next_steps(folder, changes), start=1):
        say(f"{number}. {what}")
        say(f"   {command}", style="cyan")


def _next_steps(folder: Path, changes: bool) -> Iterator[tuple[str, str]]:
    errata = shlex.quote(str(Path(sys.executable).with_name("errata")))
    home = f"ERRATA_HOME={shlex.quote(str(folder))}"
    own = '--subject Montenegro --prompt "The capital city of {} is" --target Podgorica '
    own += '--question "What is the capital city of {}?"'
    if not changes:
        yield "see a fact change again, and another taken out", "make demo DEMO_ARGS=--changes"
    yield "correct a fact of your own", f"{errata} submit {own} && {errata} run && {errata} review"
    yield "look at the jobs, their reports and the versions in a browser", f"{home} {errata} ui"
    yield "read how it works, and when not to edit", f"less {shlex.quote(str(DOCS))}"
