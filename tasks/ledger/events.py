"""What can happen to a request, as data: its states, the steps between them, and the event that records one."""

import math
import threading
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from tasks.ledger.errors import IllegalStep
from tasks.names import check_line
from tasks.text import Text

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
    "superseded",
    "retracted",
    "withdrawn",
]

Note = Literal["served", "served_other", "exported"]
"""What is told of a request and leaves it where it stands: a server that was asked serves its version, or another; a
version that holds it was written into a folder."""
NOTES: tuple[Note, ...] = get_args(Note)

# Submitted again, the request is received anew, perhaps with other content (`queued` alone: a job requeues it). And
# whatever became of it since, an earlier version that holds its fact can be put back in service: so, too, while queued.
_AGAIN: frozenset[State] = frozenset({"received", "queued", "promoted"})

TRANSITIONS: dict[State, frozenset[State]] = {
    "received": frozenset({"queued", "rejected"}),
    "queued": frozenset({"applied", "rejected", "quarantined", "withdrawn", "superseded", "promoted"}),
    "applied": frozenset({"validated", "quarantined"}),
    "validated": frozenset({"committed"}),
    # retracted: by a version that comes after it and takes the fact out, before anybody put the fact in service
    "committed": frozenset({"approved", "rejected", "rolled_back", "retracted"}),
    "approved": frozenset({"promoted"}),
    "promoted": frozenset({"promoted", "rolled_back", "superseded", "retracted"}),  # promoted: by another version
    "rejected": _AGAIN | {"withdrawn"},
    "quarantined": _AGAIN | {"withdrawn"},
    "rolled_back": _AGAIN,
    "superseded": _AGAIN,
    "retracted": _AGAIN,
    "withdrawn": _AGAIN,
}
FIRST: frozenset[State] = frozenset({"received"})
"""What may be the first event of a request."""


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
    commit: int | None = Field(None, description="Number of the append; set by it. None: written by release 0.1.")
    sequence: int = Field(0, ge=0, description="Order inside one append; set by it.")
    request_id: Text = Field(min_length=1)
    event: State | Note
    line: str
    version: int | None = None
    batch: int | None = None
    actor: Text
    flow_run_id: str | None = None
    mlflow_run_id: str | None = None
    snapshot: str | None = None
    metrics: Mapping[str, float | None] | None = None
    reason: Text | None = None
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
    """Where a request stands. `time`, `actor` and `reason` are those of its latest event.

    `version`, `batch`, `snapshot` and `metrics` are those of the present attempt; `queued` begins one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    line: str
    state: State
    time: AwareDatetime
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


def is_legal(old: State | None, new: State | Note) -> bool:
    """Whether a request in state `old` (None: nothing is known of it) can become `new`, or `new` be told of it."""
    return old is not None if new in NOTES else new in (TRANSITIONS[old] if old else FIRST)


def after(old: State | None, new: State | Note) -> State | None:
    """Where a request stands after a legal step."""
    return old if new in NOTES else cast(State, new)


def check_transition(old: State | None, new: State | Note, request_id: str = "") -> None:
    """Refuse a step that no request can take; `old` None: nothing is known of it. Raises IllegalStep."""
    if not is_legal(old, new):
        who = f"request '{request_id}'" if request_id else "a request"
        allowed = sorted(TRANSITIONS[old] if old else FIRST)
        raise IllegalStep(f"{who} is {old or 'unknown'} and cannot become {new}; only {', '.join(allowed)}")


def fold(events: Iterable[State | Note]) -> State | None:
    """The state that events lead to, in their order; a step that no request can take changes nothing."""
    state: State | None = None
    for event in events:
        state = after(state, event) if is_legal(state, event) else state
    return state
