"""What commands print: lines, tables, progress of long work, and JSON for scripts.

Everything that is shown may come from a user, a model, a file or an error, so nothing is markup: strings are made
harmless (`plain`) and only what the code itself styles has a colour. Commands print by the functions here alone.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.cli.live import Display
from tasks.progress import NoteKind, listening

if os.environ.get("COLUMNS", "").isdigit() and not int(os.environ["COLUMNS"]):
    del os.environ["COLUMNS"]  # so says a shell without a terminal, and nothing at all would be shown, help included
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
_SHOWN: ContextVar[Display | None] = ContextVar("shown", default=None)
SHORT_WORD = 12
"""Of a cell: is not broken where there is room."""
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
    _wrote()


def warn(text: object) -> None:
    """A warning on standard error."""
    say(text, "warning", to=errors)


def _line(text: object, kind: NoteKind, style: str = "") -> Text:
    line = Text()
    if kind:
        line.append(kind, style=COLOURS[kind]).append(" ")
    return line.append(plain(text), style=style or None)


@contextmanager
def _display(to: Console) -> Iterator[Display]:
    """What shows on this console what goes on: the one that does already, or a new one."""
    shown = _SHOWN.get()
    if shown is not None and shown.console is to:
        yield shown
        return
    with Display(to, _line) as shown:
        token = _SHOWN.set(shown)
        try:
            yield shown
        finally:
            _SHOWN.reset(token)


@contextmanager
def waiting(what: str, to: Console | None = None, until_output: bool = False) -> Iterator[Callable[[str], None]]:
    """Inside, what is waited for is shown: by a spinner, elsewhere by a line now and then if it takes long.

    Gives a function that changes what that is. With `until_output` it is over when the first line is printed.
    """
    with _display(to or console) as display, display.waiting(what, until_output) as change:
        yield change


@contextmanager
def shown_progress(json: bool = False, what: str = "working") -> Iterator[None]:
    """Inside, progress is shown, and `what` where none is reported; on standard error where standard output is JSON
    for a script."""
    with _display(errors if json else console) as display, display.waiting(what), listening(display):
        yield


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Print rows under a title; `right` names the columns of numbers. A cell that is a `Text` keeps its style."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths, padding = _widths([plain(column) for column in columns], cells)
    made = Table(title=_cell(title), title_justify="left", header_style="bold", padding=(0, padding))
    for column, width in zip(columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column in right else "left"
        made.add_column(_cell(column), justify=justify, overflow="fold", width=width)
    for row in cells:
        made.add_row(*row)
    console.print(made)
    _wrote()


def _widths(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> tuple[Sequence[int | None], int]:
    """How wide columns are, and the white space beside a text: no word of a heading is broken where there is room, nor
    a short one of a cell, such as a date.

    What is wider than the console is taken from the widest columns, evenly.
    """
    texts = [[column, *(row[i].plain for row in rows)] for i, column in enumerate(columns)]
    heads = [_longest(column) for column in columns]
    words = [
        max([head, *(n for text in some if (n := _longest(text)) <= SHORT_WORD)])
        for head, some in zip(heads, texts, strict=True)
    ]
    whole = [max(map(cell_len, some)) for some in texts]
    for least, padding in ((words, 1), (words, 0), (heads, 1), (heads, 0)):
        room = console.width - 1 - len(columns) * (1 + 2 * padding)
        if sum(least) > room:
            continue
        most = min(max(whole, default=0), console.width)
        while sum(widths := [max(word, min(width, most)) for word, width in zip(least, whole, strict=True)]) > room:
            most -= 1
        return widths, padding
    return [None] * len(columns), 0


def _longest(text: str) -> int:
    """The width of its longest word."""
    return max(map(cell_len, text.split()), default=0)


def _wrote() -> None:
    if (shown := _SHOWN.get()) is not None:
        shown.wrote()


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
    if (shown := _SHOWN.get()) is not None:
        shown.wrote()
        shown.hide()
    console.file.write(written + "\n")
