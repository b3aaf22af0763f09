"""What can happen to a request, as data: its states, the steps between them, and the event that records one."""

import math
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from tasks.ledger.errors import LedgerError
from tasks.stores.objects import check_line

State = Literal[
    "received",
    "queued",
    "applied",
    "validated",
    "committed",
    "approved",
    "promoted",
    "rejected",
    "quarantined",
    "rolled_back",
    "retracted",
]

TRANSITIONS: dict[State, frozenset[State]] = {
    "received": frozenset({"queued", "rejected"}),
    "queued": frozenset({"applied", "rejected", "quarantined"}),
    "applied": frozenset({"validated", "quarantined"}),
    "validated": frozenset({"committed"}),
    "committed": frozenset({"approved", "rejected", "rolled_back"}),
    "approved": frozenset({"promoted"}),
    "promoted": frozenset({"rolled_back", "retracted"}),
    "rejected": frozenset({"queued"}),  # submitted again, here and below
    "quarantined": frozenset({"queued"}),
    "rolled_back": frozenset({"queued", "promoted"}),  # promoted: rolled forward
    "retracted": frozenset({"queued"}),
}


class _Clock:
    """UTC in microseconds, strictly increasing even when the clock of the machine stands still or steps back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        with self._lock:
            self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
            return self._last


_CLOCK = _Clock()  # one for the process, since order is meant between all events of a process


class Event(BaseModel):
    """One thing that happened to one request. `payload` holds the whole request in `received`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: str = Field(default_factory=lambda: uuid.uuid4().hex, min_length=1)
    time: AwareDatetime = Field(default_factory=_CLOCK.now)
    sequence: int = Field(0, ge=0, description="Order inside one append; set by it.")
    request_id: str = Field(min_length=1)
    event: State
    line: str
    version: int | None = None
    batch: int | None = None
    actor: str
    flow_run_id: str | None = None
    mlflow_run_id: str | None = None
    snapshot: str | None = None
    metrics: Mapping[str, float | None] | None = None
    reason: str | None = None
    payload: Mapping[str, Any] | None = None

    @field_validator("line")
    @classmethod
    def _line(cls, value: str) -> str:
        return check_line(value)

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, value: Mapping[str, float | None] | None) -> Mapping[str, float | None] | None:
        if value is None:
            return None
        return {name: x if x is not None and math.isfinite(x) else None for name, x in value.items()}


class RequestState(BaseModel):
    """Where a request stands. `time`, `actor` and `reason` are those of its latest event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    line: str
    state: State
    time: AwareDatetime
    sequence: int
    received: AwareDatetime | None
    version: int | None
    batch: int | None
    snapshot: str | None
    metrics: Mapping[str, float | None] | None
    reason: str | None
    actor: str
    flow_run_id: str | None
    mlflow_run_id: str | None
    payload: Mapping[str, Any] | None


def check_transition(old: State | None, new: State, request_id: str = "") -> None:
    """Refuse a step that no request can take; `old` None: nothing is known of it. Raises LedgerError."""
    allowed = TRANSITIONS[old] if old else frozenset[State]({"received"})
    if new not in allowed:
        who = f"request '{request_id}'" if request_id else "a request"
        raise LedgerError(f"{who} is {old or 'unknown'} and cannot become {new}; only {', '.join(sorted(allowed))}")
