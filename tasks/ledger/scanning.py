"""The rows of the ledger's table as a relation of DuckDB, with what was asked for alone.

A table in a folder is read by DuckDB itself, which is quick and needs nothing else. Everything else goes by way of
Arrow: DuckDB's own way to S3 is an extension that it would fetch from the network. Which files belong to the table is
for its log to say in both cases.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import duckdb
from deltalake import DeltaTable

COLUMNS = {
    "event_id": "string",
    "time": "timestamp",
    "sequence": "integer",
    "request_id": "string",
    "event": "string",
    "line": "string",
    "version": "long",
    "batch": "integer",
    "actor": "string",
    "flow_run_id": "string",
    "mlflow_run_id": "string",
    "snapshot": "string",
    "metrics": "string",
    "reason": "string",
    "payload": "string",
    "commit": "long",
    "digest": "string",
}
"""The columns of an event, with Delta's name of their type."""
ADDED = ("commit", "digest")
"""Columns that tables of release 0.1 lack."""

_TYPES = {"string": "VARCHAR", "timestamp": "TIMESTAMPTZ", "integer": "INTEGER", "long": "BIGINT"}
_NO_ROWS = "SELECT " + ", ".join(f'NULL::{_TYPES[kind]} AS "{name}"' for name, kind in COLUMNS.items()) + " WHERE false"
_PLAIN_READER = 1
"""The version of Delta's protocol whose files are rows as they lie there: nothing marks some as deleted."""


class Wanted(NamedTuple):
    """Which events are asked for; without anything all of them."""

    line: str | None = None
    requests: Sequence[str] | None = None
    after: int | None = None
    """The number of a commit: those of later ones."""


def relation(connection: duckdb.DuckDBPyConnection, table: DeltaTable, wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """SQL of the table's events that are wanted, with all columns, and its parameters.

    What users wrote (`line`, `requests`) is a parameter, never SQL.
    """
    files = [unquote(uri) for uri in table.file_uris()]
    if not files:
        return _NO_ROWS, {}
    if "://" in files[0] or table.protocol().min_reader_version != _PLAIN_READER:
        connection.register("written", _by_arrow(table, wanted))
        return f"{_NO_ROWS} UNION ALL BY NAME SELECT * FROM written", {}
    # By name: a file of release 0.1 lacks columns. A folder that is called `a=b` is no column.
    # Footers are read whenever this is bound, so it stands in the question itself, not in a view.
    rows = "SELECT * FROM read_parquet($files, union_by_name = true, hive_partitioning = false)"
    values: dict[str, Any] = {"files": files}
    conditions: list[str] = []
    if wanted.line is not None:
        values["line"] = wanted.line
        conditions.append("line = $line")
    if wanted.requests is not None:
        values["requests"] = list(wanted.requests)
        conditions.append("request_id IN (SELECT unnest($requests::VARCHAR[]))")
    if wanted.after is not None:
        values["after"] = wanted.after
        conditions.append('"commit" > $after')
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"{_NO_ROWS} UNION ALL BY NAME {rows}{where}", values


def _by_arrow(table: DeltaTable, wanted: Wanted) -> Any:
    import pyarrow.compute as pc  # takes as long as all else that a look needs, and a ledger in a folder does without

    dataset = table.to_pyarrow_dataset()
    # Arrow's filter skips what it can by the statistics of the files before a row is made.
    if wanted.line is not None:
        dataset = dataset.filter(pc.field("line") == wanted.line)
    if wanted.requests is not None:
        dataset = dataset.filter(pc.field("request_id").isin(list(wanted.requests)))
    if wanted.after is not None:
        dataset = dataset.filter(pc.field("commit") > wanted.after)
    return dataset
