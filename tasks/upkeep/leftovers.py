"""A leftover: something that nothing refers to and that is old enough. It is found first, and taken afterwards.

What is taken is looked at once more right before: whoever uses it in the meantime has made it young, and it stays.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from tasks.stores.objects import Entry, ObjectStore

Kind = Literal["tensors", "manifest", "checkpoint", "searched value", "cached result", "temporary file", "ledger file"]


@dataclass(frozen=True)
class Leftover:
    """What could be taken."""

    kind: Kind
    name: str
    size: int
    """Bytes."""
    used: datetime
    """When it was last written, or used where that is known."""
    take: Callable[[], bool] = field(repr=False, compare=False)
    """Removes it if it is still as old; whether it did."""


def left_object(kind: Kind, store: ObjectStore, entry: Entry, before: datetime) -> Leftover:
    """An object of a store that was written before a moment."""

    def take() -> bool:
        now = [one for one in store.entries(entry.key) if one.key == entry.key]
        if not now or now[0].written >= before:
            return False
        store.delete(entry.key)
        return True

    return Leftover(kind, entry.key, entry.size, entry.written, take)


def left_file(kind: Kind, path: Path, size: int, used: datetime, before: datetime) -> Leftover:
    """A file of this machine that was used before a moment."""

    def take() -> bool:
        try:
            if path.stat().st_mtime >= before.timestamp():
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    return Leftover(kind, str(path), size, used, take)
