"""Which steps Prefect tries again, and when: only those that talk to storage, to the ledger or to MLflow."""

from typing import Any

from tasks.ledger.errors import LedgerError
from tasks.stores.errors import StorageError
from tasks.tracking.errors import TrackingError, TrackingUnavailable

_PASSING = (StorageError, LedgerError, TrackingError, TrackingUnavailable)


def may_pass(error: object) -> bool:
    """True for what a network or a disk can do and leave off.

    Their subclasses say that trying again does not help: a lost race, a stolen lease, a wrong digest.
    """
    return type(error) in _PASSING


def _retry_condition(task: object, run: object, state: object) -> bool:
    """`state` holds the exception as the step raised it; what caused that one says nothing about trying again."""
    return may_pass(getattr(state, "data", None))


RETRIES: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [2, 10], "retry_condition_fn": _retry_condition}
"""Options of a task that talks to an outside system."""
