"""Progress of long work, for whoever listens: the command line draws bars or writes lines, Prefect's page follows.

What is reported are values: a kind out of a fixed set, and plain text that may hold anything. How they look, how fast
the work goes and how long it will still take is the listener's business (`tasks.courses`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol

from editing.progress import OnProgress

NoteKind = Literal["", "kept", "undone", "quarantined", "rejected", "refused", "warning"]
"""What a note is about; empty: nothing in particular."""


class Listener(Protocol):
    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` units of `what` are finished."""

    def note(self, text: str, kind: NoteKind) -> None:
        """Something worth a line happened. `text` may hold whatever a user wrote, and is no markup."""


class Silent:
    """Hears, and says nothing; a listener that cares for one thing alone builds on it."""

    def progress(self, what: str, done: int, total: int) -> None: ...

    def note(self, text: str, kind: NoteKind) -> None: ...


_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, `listener` hears the progress of everything that runs in this context, beside those that hear already."""
    hearing = _LISTENERS.get()
    token = _LISTENERS.set(hearing if listener in hearing else (*hearing, listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def progress(what: str, done: int, total: int) -> None:
    """Report that `done` of `total` units of the stage `what` are finished.

    A stage begins with `done` = 0 and ends with `done` = `total`. In between, report about every two seconds of work,
    in units that take about equally long; the listener sees to it that not too much is shown.
    """
    for listener in _LISTENERS.get():
        listener.progress(what, done, total)


def note(text: str, kind: NoteKind = "") -> None:
    for listener in _LISTENERS.get():
        listener.note(text, kind)


@contextmanager
def stage(what: str) -> Iterator[OnProgress]:
    """Inside, `what` goes on; it ends here even where it fails. Gives a function that tells how far it is: done, total.

    Until that is called nobody knows how far it is.
    """
    progress(what, 0, 1)
    try:
        yield lambda done, total: progress(what, done, total)
    finally:
        progress(what, 1, 1)
