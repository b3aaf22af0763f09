"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.01, 0.3, 1.3
"""Seconds between two looks: a look costs whoever is asked as much time as the asker, who may be many."""


def until(
    found: Callable[[], T],
    seconds: float = 90,
    what: str | Callable[[], str] = "it did not come about",
    away: tuple[type[Exception], ...] = (),
) -> T:
    """What is found, once it is true; an error of those in `away` is nothing found. `what` is said if it never is."""
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
    while True:
        with suppress(*away):
            if it := found():
                return it
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(pause)
        pause = min(pause * GROWTH, LONGEST_PAUSE)
