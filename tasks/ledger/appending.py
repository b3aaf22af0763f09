"""What may be appended, given what is known of the requests, and the rows that it becomes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from tasks.ledger.events import Event, State, check_transition, is_legal
from tasks.ledger.opening import SCHEMA

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Known:
    """What the ledger knows of one request, when an append is judged."""

    state: State | None = None
    payload: Mapping[str, Any] | None = None
    """The request as it was received last."""
    event_ids: frozenset[str] = frozenset()


Request = tuple[str, str]
"""A request is named by (line, id)."""
Decide = Callable[[Mapping[Request, Known]], Sequence[Event]]
"""What to write, given what is known of the requests; asked again whenever another process wrote in between."""


def checked(events: Sequence[Event], known: Mapping[Request, Known], *, only_possible: bool = False) -> list[Event]:
    """The events that are not in the table yet.

    Raises:
        IllegalStep: one is no step that its request can take; with `only_possible` it is left out instead.
    """
    states = {request: found.state for request, found in known.items()}
    seen: set[str] = set()
    fitting = []
    for event in events:
        request = (event.line, event.request_id)
        if event.event_id in seen or event.event_id in known[request].event_ids:
            continue
        if only_possible and not is_legal(states[request], event.event):
            continue
        check_transition(states[request], event.event, event.request_id)
        seen.add(event.event_id)
        states[request] = event.event
        fitting.append(event)
    return fitting


def rows(events: Sequence[Event], commit: int) -> "pa.Table":
    """The events as they are written, in the append that becomes commit number `commit`."""
    import pyarrow as pa  # takes as long as all else that a look needs, and who only looks does without

    records = []
    for sequence, event in enumerate(events):
        record = event.model_dump() | {"commit": commit, "sequence": sequence, "time": event.time.astimezone(UTC)}
        for name in ("metrics", "payload"):
            if record[name] is not None:
                record[name] = json.dumps(record[name], allow_nan=False, ensure_ascii=False)
        records.append(record)
    return pa.Table.from_pylist(records, schema=pa.schema(SCHEMA.to_arrow()))
