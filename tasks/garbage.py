"""Python's collector of garbage, called less often: for processes that import much and live shortly."""

import gc

YOUNG = 100_000
"""Objects made, and not yet gone, after which the young ones are looked through."""


def collect_rarely() -> None:
    """For a process of ours to call first.

    Importing torch, transformers, Prefect or MLflow makes hundreds of thousands of objects, and all of them stay: to
    look through them after every 700, as Python does by itself, takes a fifth of the time.
    """
    gc.set_threshold(YOUNG, 10, 10)
