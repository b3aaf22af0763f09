"""Which steps Prefect tries again, and when: only those that talk to storage or to MLflow."""

from typing import Any

from tasks.stores.errors import StorageError
from tasks.tracking.errors import TrackingError

_TWICE: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [2, 10]}


def _is_plain_storage_error(state: object) -> bool:
    """Retry what a network can do; a lost race, a stolen lease or a wrong digest stays lost."""
    error = getattr(getattr(state, "data", None), "__cause__", None) or getattr(state, "data", None)
    return type(error) is StorageError


STORAGE_RETRIES: dict[str, Any] = {
    **_TWICE,
    "retry_condition_fn": lambda task, run, state: _is_plain_storage_error(state),
}
TRACKING_RETRIES: dict[str, Any] = {
    **_TWICE,
    "retry_condition_fn": lambda task, run, state: isinstance(getattr(state, "data", None), TrackingError),
}
"""Options of a task."""
