"""What may be appended, given what is known of the requests, and the rows that it becomes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from arro3.core import Array, DataType, Table

from editing.digests import sha256
from tasks.ledger.events import Event, State, after, check_transition, is_legal
from tasks.ledger.scanning import COLUMNS

ARROW = {
    "string": (DataType.string(), DataType.string()),
    "integer": (DataType.int32(), DataType.int32()),
    "long": (DataType.int64(), DataType.int64()),
    "timestamp": (DataType.int64(), DataType.timestamp("us", tz="UTC")),
}
"""By Delta's types: Arrow's of the values as they are given, and as they are stored."""


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
        states[request] = after(states[request], event.event)
        fitting.append(event)
    return fitting


def rows(events: Sequence[Event], commit: int) -> Table:
    """The events as they are written, in the append that becomes commit number `commit`.

    Made with arro3, which deltalake brings: pyarrow would import NumPy and pandas to look whether it was given theirs.
    """
    records = []
    for sequence, event in enumerate(events):
        record = event.model_dump() | {"commit": commit, "sequence": sequence, "time": _microseconds(event.time)}
        for name in ("metrics", "payload"):
            if record[name] is not None:
                record[name] = json.dumps(record[name], allow_nan=False, ensure_ascii=False)
        records.append(record)
    return table_of(records)


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    """Rows as they are stored, `time` in microseconds and text as it stands; each gets the digest of what it says."""
    digested = [{**record, "digest": row_digest(record)} for record in records]
    return Table.from_arrays(
        [_column([record[name] for record in digested], kind) for name, kind in COLUMNS.items()], names=[*COLUMNS]
    )


def row_digest(row: Mapping[str, Any]) -> str:
    """By which a row proves that it is what was written: half a sha256 over its other columns, `time` in microseconds.

    Parquet and Delta's log have no checksum of their own.
    """
    stored = {name: row[name] for name in COLUMNS if name != "digest"}
    return sha256(json.dumps(stored, ensure_ascii=False, separators=(",", ":")).encode())[:32]


def _microseconds(time: datetime) -> int:
    """Since 1970, exactly."""
    return (time - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def _column(values: Sequence[Any], kind: str) -> Array:
    """`values` as an Arrow array of one of Delta's types."""
    given, stored = ARROW[kind]
    return Array(values, type=given).cast(stored)
