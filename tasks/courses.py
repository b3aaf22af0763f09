"""How far long work is and how long it will still take, from what is reported of it: done, total and the time passed.

The pace is that of the latter half of the time so far: what the first unit costs beyond the others (memory, warm-up)
and what was finished before the first report (found in a cache) are forgotten as soon as they can be.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable

MOST_REPORTS = 256
"""Reports that a course remembers; where there are more, every other one is forgotten."""
SHORTEST = 1e-6
"""Seconds of work that a pace can be told from."""


class Course:
    """One stage from its first report to its last: what was done when. Times are seconds since the first report.

    What is shown never falls: a report of less than before, or a total corrected upwards, leaves done and share as
    they were until the work has caught up.
    """

    def __init__(self, what: str, done: int, total: int) -> None:
        self.what, self.done, self.total = what, max(done, 0), max(total, done, 1)
        self.share = self.done / self.total
        self._reports: list[tuple[float, int]] = [(0.0, self.done)]

    @property
    def ended(self) -> bool:
        return self.done >= self.total

    @property
    def counted(self) -> bool:
        """False where only beginning and end are reported: nobody knows how far it is."""
        return self.total > 1

    def report(self, done: int, total: int, elapsed: float) -> None:
        """`done` of `total` units are finished `elapsed` seconds after the first report."""
        done = max(done, self.done)
        self.total = max(total, done, 1)
        self.share = max(self.share, done / self.total)
        if done > self.done:
            self.done = done
            self._reports.append((max(elapsed, self._reports[-1][0]), done))
        if len(self._reports) > MOST_REPORTS:
            del self._reports[1:-1:2]

    def left(self, elapsed: float) -> float | None:
        """Seconds that the rest will take, seen `elapsed` seconds after the first report; None: it cannot be told.

        Nor can it where the last part is under way and would have been done by now: it takes longer than the others.
        """
        if self.ended:
            return 0.0
        reports = list(self._reports)  # more may come meanwhile, from another thread
        (now, done), (since, before) = reports[-1], _reference(reports)
        if now - since < SHORTEST:
            return None
        rate, unheard = (done - before) / (now - since), max(elapsed - now, 0.0)
        step = done - reports[-2][1]
        if step >= self.total - done < rate * unheard:
            return None
        # What has been done since the last report: at most as much as is reported at once, or it would have been.
        ahead = min(rate * unheard, step)
        if rate * unheard > step:
            rate = (done - before + step) / (now - since + unheard)
        return max(self.total - done - ahead, 0.0) / rate


def _reference(reports: list[tuple[float, int]]) -> tuple[float, int]:
    """The report that the pace is measured from: of the latter half of the time where that holds enough."""
    now = reports[-1][0]
    first = bisect_left(reports, (now / 2, 0))
    if now - reports[first][0] < now / 4:
        first -= 1
    return reports[max(first, 0)]


class Courses:
    """The stages that go on now, in the order in which they began; safe to ask from another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._open: dict[str, tuple[Course, float]] = {}
        self._latest = ""

    def report(self, what: str, done: int, total: int) -> tuple[Course, float] | None:
        """Take in a report; returns the course and its seconds where this one ends it.

        A report of nothing done begins the stage anew, whatever became of the one before.
        """
        now = self._clock()
        with self._lock:
            if what not in self._open or done <= 0:
                self._open.pop(what, None)
                if done >= total:  # it has ended already, or there is nothing to do
                    return None
                self._open[what] = Course(what, done, total), now
            else:
                course, begun = self._open[what]
                course.report(done, total, now - begun)
                if course.ended:
                    del self._open[what]
                    return course, now - begun
            self._latest = what
            return None

    def open(self) -> list[tuple[Course, float]]:
        """Each stage that goes on, with the seconds since it began."""
        now = self._clock()
        with self._lock:
            return [(course, now - begun) for course, begun in self._open.values()]

    def now(self) -> list[tuple[Course, float]]:
        """What a line says: the stage that was reported last, and the outermost one whose share is known."""
        going = self.open()
        if not going:
            return []
        latest = next((one for one in going if one[0].what == self._latest), going[-1])
        outer = next((one for one in going if one[0].counted), latest)
        return [latest] if outer is latest else [latest, outer]


def described(course: Course, elapsed: float) -> str:
    """`values: 12 of 28 (43 %), 34 s so far, about 45 s left`; without a share where there is none."""
    return f"{course.what}{': ' if course.counted else ', '}{standing(course, elapsed)}"


def standing(course: Course, elapsed: float) -> str:
    """`12 of 28 (43 %), 34 s so far, about 45 s left`; `34 s so far`"""
    passed = f"{duration(elapsed)} so far"
    if not course.counted:
        return passed
    percent = 100 if course.ended else min(round(100 * course.share), 99)
    words, left = f"{course.done:,} of {course.total:,} ({percent} %), {passed}", course.left(elapsed)
    return words if left is None else f"{words}, about {duration(max(left, 1.0))} left"


def duration(seconds: float) -> str:
    """`45 s`, `2 min 10 s`, `1 h 20 min`: to about a twentieth."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        minutes, rest = divmod(10 * round(seconds / 10), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
