"""Python's collector of garbage, held still where there is none to find."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def not_collected() -> Iterator[None]:
    """Inside, nothing is looked through for garbage; for what is short and imports much.

    Importing MLflow makes half a million objects, and all of them stay: to look through them again and again as they
    grow takes a fifth of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
