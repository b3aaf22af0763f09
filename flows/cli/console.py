"""What commands print: progress of long work, tables, and JSON for scripts."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tasks.progress import NoteKind, listening

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
COLOURS: dict[NoteKind, str] = {
    "kept": "green",
    "undone": "yellow",
    "quarantined": "yellow",
    "rejected": "red",
    "refused": "red",
    "warning": "yellow",
}
"""How the terminal shows each kind of note."""


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
                self._bars.console.print(f"{what}: {done} of {total} in {seconds:.0f} s")
            return
        if what not in self._rows:
            self._rows[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._rows[what], completed=done, total=total)

    def note(self, text: str, kind: NoteKind) -> None:
        label = f"[{COLOURS[kind]}]{kind}[/] " if kind else ""
        self._bars.console.print(f"{label}{escape(text)}")


@contextmanager
def shown_progress(json: bool = False) -> Iterator[None]:
    """Inside, progress is drawn on the terminal; on standard error where standard output is JSON for a script."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors if json else console, transient=True) as bars, listening(Terminal(bars)):
        yield


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Print rows under a title; `right` names the columns of numbers."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*("" if cell is None else cell if isinstance(cell, str) else str(cell) for cell in row))
    console.print(made)


def text(value: object) -> str:
    """A user's string, so that its brackets are no markup."""
    return escape(" ".join(str(value).split()))


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def as_json(value: Any) -> None:
    """Print JSON on standard output, unstyled."""
    console.file.write(json.dumps(value, indent=1, default=str, ensure_ascii=False) + "\n")
