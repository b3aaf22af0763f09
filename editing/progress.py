"""How far long work is, for whoever calls the library and wants to hear it."""

from collections.abc import Callable

OnProgress = Callable[[int, int], None]
"""Hears how much of some work is done, and of how much."""
FINE = 1000
"""Of a part that is one of few, so many steps are told."""


def unheard(done: int, total: int) -> None:
    """Nobody listens."""


def part_of(on_progress: OnProgress, before: int, size: int, total: int) -> OnProgress:
    """For a part of so much of `total`, after `before` of it, to tell how far it is, as it counts."""
    return lambda done, of: on_progress(FINE * before + FINE * size * done // max(of, 1), FINE * total)


class Told:
    """How far some work is, of `all_of_it`: it begins at nothing and only grows."""

    def __init__(self, on_progress: OnProgress, all_of_it: int) -> None:
        self._on_progress, self._all, self._done = on_progress, all_of_it, 0
        on_progress(0, all_of_it)

    def __call__(self, done: int, total: int) -> None:
        if done > self._done:
            self._done = done
            self._on_progress(done, total)

    def share(self, percent: int, total: int) -> Callable[[int], None]:
        """For a part that takes so much of what is left, to be told each time what it did more of its `total`."""
        begun, left, done = self._done, self._all - self._done, 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            self(begun + left * percent * done // max(100 * total, 1), self._all)

        return tell


def counted(on_progress: OnProgress, total: int) -> Callable[[int], None]:
    """To be told each time what was done more of `total`."""
    return Told(on_progress, total).share(100, total)
