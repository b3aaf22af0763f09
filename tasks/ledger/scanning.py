"""The rows of the ledger's table as a relation of DuckDB, with what was asked for alone.

A table in a folder is read by DuckDB itself, which is quick and needs nothing else. Everything else goes by way of
Arrow: DuckDB's own way to S3 is an extension that it would fetch from the network. Which files belong to the table is
for its log to say in both cases.
"""

from collections.abc import Sequence
from typing import Any
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


def relation(
    connection: duckdb.DuckDBPyConnection,
    table: DeltaTable,
    line: str | None,
    requests: Sequence[str] | None,
    after: int | None = None,
) -> tuple[str, dict[str, Any]]:
    """SQL of the table's events with all columns, or of those of a line, of some requests or after a commit, and its
    parameters.

    What users wrote (`line`, `requests`) is a parameter, never SQL.
    """
    files = [unquote(uri) for uri in table.file_uris()]
    if not files:
        return _NO_ROWS, {}
    if "://" in files[0] or table.protocol().min_reader_version != _PLAIN_READER:
        connection.register("written", _by_arrow(table, line, requests, after))
        return f"{_NO_ROWS} UNION ALL BY NAME SELECT * FROM written", {}
    # By name: a file of release 0.1 lacks columns. A folder that is called `a=b` is no column.
    # Footers are read whenever this is bound, so it stands in the question itself, not in a view.
    rows = "SELECT * FROM read_parquet($files, union_by_name = true, hive_partitioning = false)"
    wanted: dict[str, Any] = {}
    conditions: list[str] = []
    if line is not None:
        wanted["line"] = line
        conditions.append("line = $line")
    if requests is not None:
        wanted["requests"] = list(requests)
        conditions.append("request_id IN (SELECT unnest($requests::VARCHAR[]))")
    if after is not None:
        wanted["after"] = after
        conditions.append('"commit" > $after')
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"{_NO_ROWS} UNION ALL BY NAME {rows}{where}", {"files": files, **wanted}


def _by_arrow(table: DeltaTable, line: str | None, requests: Sequence[str] | None, after: int | None) -> Any:
    import pyarrow.compute as pc  # takes as long as all else that a look needs, and a ledger in a folder does without

    dataset = table.to_pyarrow_dataset()
    # Arrow's filter skips what it can by the statistics of the files before a row is made.
    if line is not None:
        dataset = dataset.filter(pc.field("line") == line)
    if requests is not None:
        dataset = dataset.filter(pc.field("request_id").isin(list(requests)))
    if after is not None:
        dataset = dataset.filter(pc.field("commit") > after)
    return dataset
