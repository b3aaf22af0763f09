"""Progress of long work, for whoever listens: the command line draws bars, a server's job stays silent."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` units of `what` are finished."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""


class Silent:
    """Nobody listens."""

    def progress(self, what: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...


_LISTENER: ContextVar[Listener] = ContextVar("listener", default=Silent())  # noqa: B039  # it holds no state


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, `listener` hears the progress of everything that runs in this context."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def progress(what: str, done: int, total: int) -> None:
    _LISTENER.get().progress(what, done, total)


def note(text: str) -> None:
    _LISTENER.get().note(text)
