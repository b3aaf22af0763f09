"""Progress of long work, for whoever listens: the command line draws bars, a server's job stays silent.

What is reported are values: a kind out of a fixed set, and plain text that may hold anything. How they look is the
listener's business.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol

NoteKind = Literal["", "kept", "undone", "quarantined", "rejected", "refused", "warning"]
"""What a note is about; empty: nothing in particular."""


class Listener(Protocol):
    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` units of `what` are finished."""

    def note(self, text: str, kind: NoteKind) -> None:
        """Something worth a line happened. `text` may hold whatever a user wrote, and is no markup."""


class Silent:
    """Nobody listens."""

    def progress(self, what: str, done: int, total: int) -> None: ...

    def note(self, text: str, kind: NoteKind) -> None: ...


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


def note(text: str, kind: NoteKind = "") -> None:
    _LISTENER.get().note(text, kind)
