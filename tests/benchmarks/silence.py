"""Whether long work says all the while what it does, how far it is and how long it will still take, and is right.

    python -m tests.benchmarks.silence [--way terminal] [--way pipe] [-- COMMAND ...]

Runs a command (without one: the demo) in a pseudo-terminal and in a pipe, times whatever comes out, and prints a table
of the stages. Exit code 1 where nothing was said for more than 10 seconds; where a figure fell within a stage; and,
for a stage of more than 10 seconds, where it was not said how far it is, no time left was named, or the one named at a
quarter of the way was wrong by more than a factor of two (and two seconds: times are shown in whole ones). Run it on a
quiet machine.
"""

import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

LONG_SECONDS = 10.0
FACTOR, GRACE_SECONDS = 2.0, 2.0
ROWS, COLUMNS = 40, 120
DEMO = (sys.executable, "-m", "deployments.demo")

ERASED = "\x1b[2K"
"""A row is taken off the terminal; what comes then begins a line, whatever stood before."""
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
TIME = r"(?:\d+ h(?: \d+ min)?|\d+ min(?: \d+ s)?|\d+ s)"
SHOWN = re.compile(
    # A row of a terminal has a bar between the name and the figures, or nothing; a line has a colon or a comma.
    r"(?P<what>[^\n;:,━╸╺\u2800-\u28ff]+?)(?:[:,] |[ ━╸╺]+)"
    rf"(?:(?P<done>[\d,]+) of (?P<total>[\d,]+) \((?P<share>\d+) %\), )?(?P<passed>{TIME}) so far"
    rf"(?:, about (?P<left>{TIME}) left)?"
    rf"|(?P<ended>[^\n;:━╸╺\u2800-\u28ff]+): (?P<all>[\d,]+) of (?P=all) in (?P<took>{TIME})"
)
Way = Literal["terminal", "pipe"]


@dataclass(frozen=True)
class Chunk:
    """What came out at once, `at` seconds after the start."""

    at: float
    text: str


@dataclass(frozen=True)
class Figure:
    """What one line or row says of a stage at a time."""

    at: float
    what: str
    passed: float
    done: int | None = None
    total: int | None = None
    share: int | None = None
    left: float | None = None
    over: bool = False


@dataclass
class Stage:
    """One stage as it was shown, from its first figure to its last."""

    what: str
    figures: list[Figure] = field(default_factory=list)

    @property
    def began(self) -> float:
        return self.figures[0].at - self.figures[0].passed

    @property
    def seconds(self) -> float:
        last = self.figures[-1]
        return last.passed if last.over else last.at - self.began

    @property
    def foretold(self) -> Figure | None:
        """The first time left that is named when a quarter is done."""
        return next((one for one in self.figures if one.left is not None and (one.share or 0) >= 25), None)

    @property
    def real(self) -> float | None:
        """What was left then."""
        return None if self.foretold is None else self.began + self.seconds - self.foretold.at

    def faults(self, said: Sequence[Figure]) -> Iterator[str]:
        """What is wrong with it, `said` being all that was said of any stage."""
        for a, b in pairwise(self.figures):
            if (a.done or 0) > (b.done or 0) or (a.share or 0) > (b.share or 0):
                yield f"fell from {a.done} ({a.share} %) to {b.done} ({b.share} %)"
        if self.seconds > LONG_SECONDS:
            if self.figures[0].done is None:
                if self._uncounted(said) > LONG_SECONDS:
                    yield "did not say how far it is"
            elif self.foretold is None or self.real is None:
                yield "named no time left"
            elif not self.real / FACTOR - GRACE_SECONDS <= self.foretold.left <= FACTOR * self.real + GRACE_SECONDS:
                yield "foretold wrongly"

    def _uncounted(self, said: Sequence[Figure]) -> float:
        """The longest time of this stage in which no other told how far it is either: those in it and around it."""
        end = self.began + self.seconds
        counted = [one.at for one in said if one.done is not None and self.began < one.at < end]
        return max(b - a for a, b in pairwise([self.began, *counted, end]))


def record(command: Sequence[str], way: Way) -> tuple[list[Chunk], float, int]:
    """Run a command; returns what came out (standard output and error) with its times, the seconds and the exit code.

    Killing this process ends the command, too: its terminal or pipe closes.
    """
    if way == "terminal":
        mine, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    else:
        mine, theirs = os.pipe()
    environment = {**os.environ, "TERM": "xterm-256color"}
    started = time.monotonic()
    chunks: list[Chunk] = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        while data := _read(mine):
            chunks.append(Chunk(time.monotonic() - started, data.decode(errors="replace")))
    os.close(mine)
    return chunks, time.monotonic() - started, process.returncode


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # so the end of a terminal reads on Linux
        return b""


def figures(chunks: Sequence[Chunk]) -> list[Figure]:
    """Everything that is said about stages, in order; what is cut by the end of a chunk counts when it is whole."""
    texts = [ESCAPE.sub("", chunk.text.replace(ERASED, "\n")) for chunk in chunks]
    ends = [0]
    for text in texts:
        ends.append(ends[-1] + len(text))
    return [_figure(found, chunks[bisect_left(ends, found.end()) - 1].at) for found in SHOWN.finditer("".join(texts))]


def _figure(found: "re.Match[str]", at: float) -> Figure:
    if ended := found["ended"]:
        total = _number(found["all"])
        return Figure(at, ended.strip(), _seconds(found["took"]), total, total, 100, over=True)
    what, passed = found["what"].strip(), _seconds(found["passed"])
    if found["done"] is None:
        return Figure(at, what, passed)
    left = None if found["left"] is None else _seconds(found["left"])
    return Figure(at, what, passed, _number(found["done"]), _number(found["total"]), int(found["share"]), left)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _seconds(text: str) -> float:
    units = {"h": 3600, "min": 60, "s": 1}
    words = text.split()
    return float(sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True)))


def stages(said: Sequence[Figure]) -> list[Stage]:
    """The stages in the order in which they were first shown; one whose time begins anew is another one."""
    found: list[Stage] = []
    going: dict[str, Stage] = {}
    for one in said:
        stage = going.get(one.what)
        if stage is None or one.passed < stage.figures[-1].passed:
            stage = going[one.what] = Stage(one.what)
            found.append(stage)
        stage.figures.append(one)
        if one.over:
            del going[one.what]
    return found


def silences(chunks: Sequence[Chunk], seconds: float) -> list[tuple[float, float]]:
    """When each silence began and how long it lasted: times in which nothing came that a person can see."""
    seen = [chunk.at for chunk in chunks if ESCAPE.sub("", chunk.text).strip()]
    return [(a, b - a) for a, b in pairwise([0.0, *seen, seconds])]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.silence", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--way", action="append", choices=["terminal", "pipe"], help="both without one")
    parser.add_argument("command", nargs="*", help="after --; the demo without one")
    arguments = parser.parse_args()
    command = arguments.command or list(DEMO)
    faults = [fault for way in arguments.way or ("terminal", "pipe") for fault in _look(command, way)]
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


def _look(command: Sequence[str], way: Way) -> list[str]:
    """Run it, print the table of its stages, and return what was wrong."""
    chunks, seconds, code = record(command, way)
    quiet = silences(chunks, seconds)
    faults = [f"{way}: ended with exit code {code}: {''.join(c.text for c in chunks)[-400:]}"] if code else []
    faults += [
        f"{way}: silent for {lasted:.1f} s from second {at:.0f}" for at, lasted in quiet if lasted > LONG_SECONDS
    ]
    shown = Table(title=Text(f"{' '.join(command)} in a {way}"), title_justify="left")
    for column in ("stage", "from", "seconds", "longest silence", "foretold", "real", ""):
        shown.add_column(column, justify="left" if column in ("stage", "") else "right")
    said = figures(chunks)
    for stage in stages(said):
        until = stage.began + stage.seconds
        longest = max((lasted for at, lasted in quiet if stage.began <= at <= until), default=0.0)
        wrong = list(dict.fromkeys(stage.faults(said)))
        faults += [f"{way}: {stage.what}: {fault}" for fault in wrong]
        told, real = stage.foretold, stage.real
        row: list[Text | str] = [Text(stage.what), f"{stage.began:.0f}", f"{stage.seconds:.1f}", f"{longest:.1f}"]
        row += ["" if told is None else f"{told.left:.0f} at {told.share} %", "" if real is None else f"{real:.0f}"]
        shown.add_row(*row, "; ".join(wrong) or "holds")
    shown.add_row("all", "0", f"{seconds:.1f}", f"{max(lasted for _, lasted in quiet):.1f}", "", "", "")
    Console(width=COLUMNS).print(shown)
    return faults


if __name__ == "__main__":
    main()
