"""What takes long when facts are written tells how far it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from editing.edit import Edit
from editing.methods.shared.interface import MethodInput
from tasks.meter import Meter


@contextmanager
def told(given: MethodInput, edits: Sequence[Edit], what: str = "writing") -> Iterator[MethodInput]:
    """What to give a method inside, so that it is heard how far it is with these edits."""
    size = len(edits) * len(given.layers)
    with Meter(what, size) as meter:
        yield replace(given, on_progress=meter.part(size))
