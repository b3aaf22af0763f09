"""The ledger: a Delta table of events, appended to and never changed; the state of a request is its latest event.

The table is written by any number of processes at once (one atomic commit an append) and read with DuckDB.
"""

import json
import os
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from tasks.ledger.errors import LedgerError
from tasks.ledger.events import TRANSITIONS, Event, RequestState, State, check_transition
from tasks.stores.objects import check_line

__all__ = ["TRANSITIONS", "Event", "Ledger", "RequestState", "State", "check_transition", "s3_options"]

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("sequence", pa.int32()),
        ("request_id", pa.string()),
        ("event", pa.string()),
        ("line", pa.string()),
        ("version", pa.int64()),
        ("batch", pa.int32()),
        ("actor", pa.string()),
        ("flow_run_id", pa.string()),
        ("mlflow_run_id", pa.string()),
        ("snapshot", pa.string()),
        ("metrics", pa.string()),
        ("reason", pa.string()),
        ("payload", pa.string()),
    ]
)

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TRIES = 8
_PAUSE_SECONDS = 0.05
_COMMIT = CommitProperties(max_commit_retries=30)

# An append whose answer was lost may have been written twice: an event counts once, by its id.
# Columns by name: a later version of Errata may have added one.
_EVENTS = f"""SELECT DISTINCT ON (event_id) {", ".join(SCHEMA.names)}
FROM ledger WHERE ($line IS NULL OR line = $line)"""

# Version, batch, snapshot and metrics are those of the present attempt, which begins when a request is queued.
_STATES = f"""
WITH events AS ({_EVENTS}),
attempts AS (
    SELECT *, count(*) FILTER (WHERE event = 'queued') OVER so_far AS attempt FROM events
    WINDOW so_far AS (PARTITION BY line, request_id ORDER BY time, sequence, event_id)
)
SELECT request_id, line, event AS state, time, sequence, actor, flow_run_id, mlflow_run_id, reason,
    last_value(version IGNORE NULLS) OVER attempt_so_far AS version,
    last_value(batch IGNORE NULLS) OVER attempt_so_far AS batch,
    last_value(snapshot IGNORE NULLS) OVER attempt_so_far AS snapshot,
    last_value(metrics IGNORE NULLS) OVER attempt_so_far AS metrics,
    last_value(CASE WHEN event = 'received' THEN time END IGNORE NULLS) OVER so_far AS received,
    last_value(CASE WHEN event = 'received' THEN payload END IGNORE NULLS) OVER so_far AS payload
FROM attempts
WINDOW so_far AS (PARTITION BY line, request_id ORDER BY time, sequence, event_id),
    attempt_so_far AS (PARTITION BY line, request_id, attempt ORDER BY time, sequence, event_id)
QUALIFY lead(event_id) OVER so_far IS NULL
ORDER BY time, sequence, event_id
"""

_QUEUED = f"SELECT * FROM ({_STATES}) WHERE state = 'queued' ORDER BY time, sequence"

_COUNTS = f"SELECT state, count(*) AS requests FROM ({_STATES}) GROUP BY state ORDER BY state"

_HISTORY = f"""
WITH events AS ({_EVENTS}),
latest AS (
    SELECT * FROM events
    WHERE ($request_id IS NULL OR request_id = $request_id) AND ($version IS NULL OR version = $version)
    ORDER BY time DESC, sequence DESC, event_id DESC LIMIT $limit
)
SELECT * FROM latest ORDER BY time, sequence, event_id
"""

_VERSIONS = f"""
SELECT version, last(event ORDER BY time, sequence, event_id) AS state FROM ({_EVENTS})
WHERE version IS NOT NULL GROUP BY version ORDER BY version
"""

_KNOWN = "SELECT DISTINCT event_id FROM ledger WHERE event_id IN (SELECT unnest($ids))"


def s3_options(endpoint_url: str | None) -> dict[str, str]:
    """Storage options of a ledger on S3; credentials come from the environment."""
    options = {"aws_conditional_put": "etag"}
    if endpoint_url:
        # Both names: the environment variable AWS_ENDPOINT_URL_S3 would override the first.
        options |= {"AWS_ENDPOINT_URL": endpoint_url, "AWS_ENDPOINT_URL_S3": endpoint_url}
        options["AWS_ALLOW_HTTP"] = str(endpoint_url.startswith("http://")).lower()
    return options


class Ledger:
    """The table at a local path or `s3://bucket/path`; it is created by the first append."""

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri if uri.startswith("s3://") else str(Path(uri).expanduser().absolute())
        self._options = dict(storage_options or {})

    def append(self, events: Sequence[Event], once: bool = False) -> None:
        """Write all events or none, in one commit. Raises LedgerError.

        `once` leaves out events whose `event_id` the table has: for writing again after a crash. An append that
        raised may have been written; to repeat it, pass the same events and `once`.
        """
        if not events:
            return
        with self._explained("written"):
            rows = _rows(events)
            for attempt in range(_TRIES):
                table = self._open() or self._create()
                pending = self._unknown(table, rows) if once or attempt else rows
                try:
                    if pending.num_rows:
                        write_deltalake(table, pending, mode="append", commit_properties=_COMMIT)
                    return
                except CommitFailedError:
                    if attempt == _TRIES - 1:
                        raise
                    time.sleep(random.uniform(0, _PAUSE_SECONDS * 2**attempt))

    def states(self, line: str | None = None) -> dict[str, RequestState]:
        """The state of every request, the one that changed last at the end. Ids are expected to differ over lines."""
        return {state.request_id: state for state in self._states(_STATES, line and check_line(line))}

    def queued(self, line: str) -> list[RequestState]:
        """The requests that wait, in the order in which they were queued."""
        return self._states(_QUEUED, check_line(line))

    def history(
        self,
        request_id: str | None = None,
        version: int | None = None,
        line: str | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """Events in the order in which they happened; with `limit` the latest ones."""
        wanted = {"request_id": request_id, "version": version, "line": line and check_line(line), "limit": limit}
        with self._explained("read"):
            return [Event.model_validate(_decoded(row)) for row in self._query(_HISTORY, wanted)]

    def counts(self, line: str) -> dict[State, int]:
        """How many requests of the line are in each state; states without any are left out."""
        return {row["state"]: row["requests"] for row in self._query(_COUNTS, {"line": check_line(line)})}

    def version_states(self, line: str) -> dict[int, State]:
        """The latest event of every version of the line; its requests share it."""
        return {row["version"]: row["state"] for row in self._query(_VERSIONS, {"line": check_line(line)})}

    def compact(self, more_than: int = 64) -> bool:
        """Join the files of many small appends when there are more than so many. Returns whether it did."""
        with self._explained("compacted"):
            table = self._open()
            if table is None or len(table.file_uris()) <= more_than:
                return False
            try:
                table.optimize.compact(commit_properties=_COMMIT)
            except CommitFailedError:
                return False  # another process is at it; the next job tries again
            table.vacuum(dry_run=False)  # keeps what a reader of the last seven days may hold
            return True

    def _states(self, sql: str, line: str | None) -> list[RequestState]:
        with self._explained("read"):
            return [RequestState.model_validate(_decoded(row)) for row in self._query(sql, {"line": line})]

    def _query(self, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        with self._explained("read"):
            table = self._open()
            return [] if table is None else _run(table, sql, parameters)

    def _unknown(self, table: DeltaTable, rows: pa.Table) -> pa.Table:
        known = {row["event_id"] for row in _run(table, _KNOWN, {"ids": rows["event_id"].to_pylist()})}
        return rows.filter(pa.array([event_id not in known for event_id in rows["event_id"].to_pylist()]))

    def _open(self) -> DeltaTable | None:
        """The table, or None where nothing was written yet."""
        if not self.uri.startswith("s3://") and os.path.lexists(self.uri) and not os.path.isdir(self.uri):
            raise LedgerError(f"'{self.uri}' is no folder: choose an empty or new folder for the ledger")
        try:
            table = DeltaTable(self.uri, storage_options=self._options)
        except TableNotFoundError:
            self._check_empty()
            return None
        missing = set(SCHEMA.names) - {field.name for field in table.schema().fields}
        if missing:
            raise LedgerError(
                f"'{self.uri}' is a Delta table but no ledger (it has no {', '.join(sorted(missing))}): choose another"
            )
        return table

    def _create(self) -> DeltaTable:
        try:
            return DeltaTable.create(
                self.uri, SCHEMA, configuration={"delta.appendOnly": "true"}, storage_options=self._options
            )
        except DeltaError:
            table = self._open()  # another process was faster
            if table is None:
                raise
            return table

    def _check_empty(self) -> None:
        """Refuse a local path that holds something else, or a table whose log is lost."""
        if self.uri.startswith("s3://") or not os.path.lexists(self.uri):
            return
        if set(os.listdir(self.uri)) - {"_delta_log"}:
            raise LedgerError(f"'{self.uri}' is no Delta table and not empty: choose an empty folder for the ledger")

    @contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """Turn what the table's libraries raise into one line; their reports have many and repeat requests."""
        try:
            yield
        except (DeltaError, OSError, duckdb.Error, pa.ArrowException, ValueError) as error:
            where = "the endpoint and the AWS_* variables" if self.uri.startswith("s3://") else "the folder"
            raise LedgerError(
                f"ledger '{self.uri}' cannot be {verb} ({type(error).__name__}: {_one_line(error)}): "
                f"look at {where}, or set another ledger"
            ) from error


def _one_line(error: Exception) -> str:
    """The beginning of a report, without the colours, the tree and the server's own answer that come with it."""
    text = _COLOURS.sub("", str(error)).partition("<?xml")[0]
    return " ".join(text.replace("↳", " ").split())[:200]


def _run(table: DeltaTable, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    # The relation is registered by name; a replacement scan would look through the variables of all callers.
    with duckdb.connect(":memory:") as connection:
        connection.register("ledger", table.to_pyarrow_dataset())
        rows: list[dict[str, Any]] = connection.sql(sql, params=parameters).to_arrow_table().to_pylist()
    return rows


def _rows(events: Sequence[Event]) -> pa.Table:
    records = []
    for sequence, event in enumerate(events):
        record = event.model_dump() | {"sequence": sequence, "time": event.time.astimezone(UTC)}
        for name in ("metrics", "payload"):
            if record[name] is not None:
                record[name] = json.dumps(record[name], allow_nan=False, ensure_ascii=False)
        records.append(record)
    return pa.Table.from_pylist(records, schema=SCHEMA)


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: json.loads(row[name]) for name in ("metrics", "payload") if row.get(name) is not None}
