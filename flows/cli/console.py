"""What commands print: lines, tables, progress of long work, and JSON for scripts.

Everything that is shown may come from a user, a model, a file or an error, so nothing is markup: strings are made
harmless (`plain`) and only what the code itself styles has a colour. Commands print by the functions here alone.
"""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tasks.progress import NoteKind, listening

console = Console(highlight=False, markup=False, emoji=False)
errors = Console(highlight=False, markup=False, emoji=False, stderr=True)
COLOURS: dict[NoteKind, str] = {
    "kept": "green",
    "undone": "yellow",
    "quarantined": "yellow",
    "rejected": "red",
    "refused": "red",
    "warning": "yellow",
}
"""How the terminal shows each kind of note."""
QUIET_SECONDS = 5.0
"""Where no spinner turns, a line says what is waited for after so long."""
JOINERS = "\u200c\u200d"
"""Invisible characters that scripts and emoji need."""


def replace_what_cannot_be_shown() -> None:
    """A terminal or pipe whose encoding lacks a character shows another in its place; no command dies of an arrow."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def plain(value: object) -> str:
    """Any text on one line; what would steer the terminal (escapes, directions, half characters) is written out."""
    line = " ".join(str(value).split())
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode() for c in line)


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in JOINERS


def say(text: object, kind: NoteKind = "", style: str = "", to: Console | None = None) -> None:
    """Print one line, the kind in front in its colour. Long lines are left to the terminal, so that scripts find them
    whole."""
    (to or console).print(_line(text, kind, style), soft_wrap=True)


def warn(text: object) -> None:
    """A warning on standard error."""
    say(text, "warning", to=errors)


def _line(text: object, kind: NoteKind, style: str = "") -> Text:
    line = Text()
    if kind:
        line.append(kind, style=COLOURS[kind]).append(" ")
    return line.append(plain(text), style=style or None)


@contextmanager
def waiting(what: str, to: Console = console) -> Iterator[Callable[[str], None]]:
    """Inside, what is waited for is shown: by a spinner, elsewhere by a line if it takes long. Gives a function that
    changes what that is."""
    if to.is_terminal:
        with to.status(_line(what, "")) as spinner:
            yield lambda now: spinner.update(_line(now, ""))
        return
    running: list[Timer] = []

    def begin(now: str) -> None:
        for timer in running:
            timer.cancel()
        running[:] = [Timer(QUIET_SECONDS, say, [now], {"to": to})]
        running[0].start()

    begin(what)
    try:
        yield begin
    finally:
        running[0].cancel()


class Terminal:
    """A listener that draws a bar for each kind of work, and prints notes above the bars.

    Where the output is no terminal, the bars are left out and a line says when each kind of work is done.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars, self._rows, self._started = bars, dict[str, TaskID](), dict[str, float]()

    def progress(self, what: str, done: int, total: int) -> None:
        self._started.setdefault(what, time.monotonic())
        if not self._bars.console.is_terminal:
            if done >= total and (seconds := time.monotonic() - self._started.pop(what)) > 2 and what != "edits":
                say(f"{what}: {done} of {total} in {seconds:.0f} s", to=self._bars.console)
            return
        if what not in self._rows:
            self._rows[what] = self._bars.add_task(plain(what), total=total)
        self._bars.update(self._rows[what], completed=done, total=total)

    def note(self, text: str, kind: NoteKind) -> None:
        say(text, kind, to=self._bars.console)


@contextmanager
def shown_progress(json: bool = False) -> Iterator[None]:
    """Inside, progress is drawn on the terminal; on standard error where standard output is JSON for a script."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors if json else console, transient=True) as bars, listening(Terminal(bars)):
        yield


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Print rows under a title; `right` names the columns of numbers. A cell that is a `Text` keeps its style."""
    made = Table(title=_cell(title), title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(_cell(column), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row))
    console.print(made)


def _cell(value: object) -> Text:
    return value if isinstance(value, Text) else Text("" if value is None else plain(value))


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def as_json(value: Any) -> None:
    """Print JSON on standard output, unstyled.

    What the output's encoding lacks, or what would steer a terminal, is written as \\uXXXX: the same JSON.
    """
    written = json.dumps(value, indent=1, default=str, ensure_ascii=False)
    written = "".join(c if c == "\n" or _is_shown(c) or ord(c) > 0xFFFF else f"\\u{ord(c):04x}" for c in written)
    try:
        written.encode(getattr(console.file, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        written = json.dumps(value, indent=1, default=str)
    console.file.write(written + "\n")
