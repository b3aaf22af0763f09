"""What goes on now, on one console: bars that redraw themselves on a terminal, a line now and then elsewhere.

A thread of its own shows it, so that work that reports nothing (an import, a server that starts) is seen to go on, too.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from tasks.courses import Course, Courses, described, duration, standing
from tasks.progress import NoteKind

LINE_SECONDS = 7.0
"""After so long without a line, one says what goes on and how far it is; what ends sooner adds none."""
DRAWN_AFTER_SECONDS = 0.3
LOOK_SECONDS = 0.25
DRAWN_A_SECOND = 4


class Display:
    """A listener that shows on `console` what is reported; `line` makes a line that can be shown of any text.

    Use it as a context: nothing is shown before it is entered and after it is left.
    """

    def __init__(self, console: Console, line: Callable[[str, NoteKind], Text]) -> None:
        self.console, self._line, self._courses = console, line, Courses()
        self._until_output = ""
        self._said = time.monotonic()
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look, name="display", daemon=True)
        self._live: Live | None = None
        self._drawing = threading.Lock()
        self._spinner = Spinner("dots")

    def __enter__(self) -> "Display":
        self._looking.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._looking.join()
        self.hide()

    def progress(self, what: str, done: int, total: int) -> None:
        over = self._courses.report(what, done, total)
        if over is not None and over[0].counted and over[1] >= LINE_SECONDS:
            self._print(f"{what}: {over[0].total:,} of {over[0].total:,} in {duration(over[1])}")

    def note(self, text: str, kind: NoteKind) -> None:
        self._print(text, kind)

    @contextmanager
    def waiting(self, what: str, until_output: bool = False) -> Iterator[Callable[[str], None]]:
        """Inside, `what` goes on, up to the first line that is printed where `until_output`; gives a function that
        says what goes on instead."""
        names = [what]
        self._courses.report(what, 0, 1)
        if until_output:
            self._until_output = what

        def change(now: str) -> None:
            if now != names[0]:
                self._courses.report(names[0], 1, 1)
                names[0] = now
                self._courses.report(now, 0, 1)

        try:
            yield change
        finally:
            self._courses.report(names[0], 1, 1)

    def wrote(self) -> None:
        """The command has printed something."""
        self._said = time.monotonic()
        if self._until_output:
            self._courses.report(self._until_output, 1, 1)
            self._until_output = ""

    def hide(self) -> None:
        """Take what is drawn off the terminal, for what is written past rich."""
        with self._drawing:
            if self._live is not None:
                self._live.stop()
            self._live = None

    def _print(self, line: str, kind: NoteKind = "") -> None:
        self._said = time.monotonic()
        with self._drawing:
            if self._live is not None:
                self._live.refresh()  # else the rows as they were last drawn would stand below the line
        self.console.print(self._line(line, kind), soft_wrap=True)

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            going = self._courses.now()
            if self.console.file.isatty() and not self.console.is_dumb_terminal:  # FORCE_COLOR makes none
                self._draw(going)
            elif not going:
                self._said = time.monotonic()  # nobody waits for anything
            elif time.monotonic() - self._said >= LINE_SECONDS:
                self._print("; ".join(described(*one) for one in going))

    def _draw(self, going: list[tuple[Course, float]]) -> None:
        if not going:
            self.hide()
        with self._drawing:
            if self._live is None and any(elapsed >= DRAWN_AFTER_SECONDS for _, elapsed in going):
                self._live = Live(
                    console=self.console,
                    get_renderable=self._rows,
                    refresh_per_second=DRAWN_A_SECOND,
                    transient=True,
                )
                self._live.start()

    def _rows(self) -> Table:
        """A row for each stage whose share is known, and for the latest in any case."""
        latest = [course for course, _ in self._courses.now()[:1]]
        rows = Table.grid(Column(), Column(), Column(ratio=1), Column(no_wrap=True), padding=(0, 1), expand=True)
        for course, elapsed in self._courses.open():
            if elapsed < DRAWN_AFTER_SECONDS or not (course.counted or course in latest):
                continue
            bar = ProgressBar(1.0, course.share) if course.counted else ""
            rows.add_row(self._spinner, self._line(course.what, ""), bar, Text(standing(course, elapsed)))
        return rows
