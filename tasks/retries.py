"""Which steps Prefect tries again, and when: only those that talk to storage, to the ledger or to MLflow."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from editing.errors import ErrataError
from tasks.ledger.errors import LedgerError
from tasks.progress import note
from tasks.stores.errors import StorageError
from tasks.tracking.errors import TrackingError, TrackingUnavailable

T = TypeVar("T")
PAUSES = (2.0, 8.0, 20.0, 40.0)
"""Seconds before each further try: together longer than a server takes to start anew on a busy machine."""
_PASSING = (StorageError, LedgerError, TrackingError, TrackingUnavailable)


def may_pass(error: object) -> bool:
    """True for what a network or a disk can do and leave off.

    Their subclasses say that trying again does not help: a lost race, a stolen lease, a wrong digest.
    """
    return type(error) in _PASSING


def _retry_condition(task: object, run: object, state: object) -> bool:
    """`state` holds the exception as the step raised it; what caused that one says nothing about trying again."""
    return may_pass(getattr(state, "data", None))


RETRIES: dict[str, Any] = {
    "retries": len(PAUSES),
    "retry_delay_seconds": list(PAUSES),
    "retry_condition_fn": _retry_condition,
}
"""Options of a task that talks to an outside system."""


def outlasting(work: Callable[[], T], passes: Callable[[object], bool] = may_pass) -> T:
    """What `work` gives, tried again like a task; for what is a part of one, and safe to repeat where the task is not.

    Args:
        passes: Whether to try again after an error.
    """
    for pause in PAUSES:
        try:
            return work()
        except ErrataError as error:
            if not passes(error):
                raise
            note(f"{error}; again in {pause:g} s", "warning")
            time.sleep(pause)
    return work()
