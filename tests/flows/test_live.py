"""What goes on is said: in a line now and then in a pipe or a file, in rows on a terminal, and never more than that."""

import io
import json
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console
from rich.text import Text

from flows.cli import console, live
from flows.cli.console import as_json, say, shown_progress, waiting
from tasks.progress import note, progress, stage
from tests.waiting import until


@pytest.fixture
def quick(monkeypatch):
    """Lines and rows come a hundred times as soon as for a person."""
    for name in ("LINE_SECONDS", "DRAWN_AFTER_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(live, name, getattr(live, name) / 100)


class Screen(io.StringIO):
    """A terminal, and what is written on it."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """What is written on a terminal of 90 columns."""
    shown = Screen()
    monkeypatch.setattr(console, "console", Console(file=shown, force_terminal=True, width=90, highlight=False))
    return shown


def test_work_that_reports_nothing_is_named_in_a_pipe_as_long_as_it_lasts(quick, capsys):
    said = []

    def lines():
        said.extend(capsys.readouterr().out.splitlines())
        return said

    with waiting("starting the [red]server") as change:
        until(lambda: len(lines()) >= 2)
        change("setting up the database")
        until(lambda: lines()[-1].startswith("setting"))
    assert all(re.fullmatch(r"starting the \[red\]server, \d+ s so far", line) for line in said[:2])
    assert "[red]" not in said[-1]


def test_a_terminal_that_cannot_draw_is_told_in_lines(quick, monkeypatch):
    shown = Screen()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(console, "console", Console(file=shown, force_terminal=True, highlight=False))
    with waiting("starting the server"):
        until(lambda: "starting the server, 0 s so far\n" in shown.getvalue(), seconds=10.0)


def test_a_pipe_that_wants_colors_is_told_in_lines(quick, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(console, "console", Console(file=shown, highlight=False))
    with waiting("starting the server"):
        until(lambda: "starting the server, 0 s so far\n" in shown.getvalue(), seconds=10.0)
    assert "\x1b[?25l" not in shown.getvalue()  # no cursor was hidden to draw


def test_what_ends_soon_adds_no_line(capsys):
    with waiting("starting"), shown_progress():
        progress("values", 0, 10)
        progress("values", 10, 10)
        with stage("register"):
            note("batch 1 of [b]", "kept")
    assert capsys.readouterr().out == "kept batch 1 of [b]\n"


def test_a_line_says_how_far_the_stage_is_and_the_whole_and_another_what_it_took(quick, capsys):
    said = []

    def lines():
        said.extend(capsys.readouterr().out.splitlines())
        return said

    with shown_progress():
        progress("edits", 0, 28)
        with stage("values") as tell:
            time.sleep(0.05)
            tell(3, 12)
            until(lambda: any("(25 %)" in line for line in lines()))
            tell(12, 12)
        until(lambda: any(re.fullmatch(r"values: 12 of 12 in \d+ s", line) for line in lines()))
        until(lambda: lines()[-1].startswith("edits"))
    line = next(line for line in said if "(25 %)" in line)
    figures = r"values: 3 of 12 \(25 %\), \d+ s so far, about \d+ s left; edits: 0 of 28 \(0 %\), \d+ s so far"
    assert re.fullmatch(figures, line)


def test_a_command_that_has_printed_is_no_longer_waited_for(quick, capsys):
    with waiting("errata ui", until_output=True):
        until(lambda: "errata ui" in capsys.readouterr().out)
        say("Ctrl-C ends both")
        capsys.readouterr()
        time.sleep(3 * live.LINE_SECONDS)
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_bars_with_the_time_left_and_nothing_of_them_stays(quick, terminal):
    with shown_progress():
        progress("values", 0, 12)
        time.sleep(0.05)
        progress("values", 3, 12)
        until(lambda: re.search(r"3 of 12 \(25 %\), \d+ s so far, about \d+ s left", terminal.getvalue()))
        with stage("register [b]\x1b[2J"):
            until(lambda: "register [b]\\x1b[2J" in terminal.getvalue())
        note("batch 1", "kept")
    assert "\x1b[2J" not in terminal.getvalue()
    assert drawn(terminal.getvalue()) == ["kept batch 1"]


def test_json_is_whole_where_a_terminal_shows_what_goes_on(quick, terminal):
    found = {"text": "x" * 200}
    with waiting("errata ask", until_output=True):
        until(lambda: "errata ask" in terminal.getvalue())
        as_json(found)
    assert json.loads("\n".join(drawn(terminal.getvalue()))) == found


def drawn(written: str) -> list[str]:
    """The lines that a terminal shows at the end: those that are erased are gone."""
    lines, at = [""], 0
    for part in re.findall(r"\x1b\[[?0-9;]*[a-zA-Z]|[\r\n]|[^\x1b\r\n]+", written):
        if part == "\n":
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[at] = ""
        elif part == "\x1b[1A":
            at -= 1
        elif part[0] not in "\x1b\r":
            lines[at] = part if not lines[at] else lines[at] + part
    return [Text.from_ansi(line).plain for line in lines if line]


def test_the_console_is_there_before_anything_heavy():
    heavy = {"torch", "transformers", "prefect", "mlflow", "numpy", "pydantic"}
    code = "import sys, flows.cli.console; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert heavy.isdisjoint(names)
