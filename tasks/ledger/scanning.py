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
}
"""The columns of an event, with Delta's name of their type."""
ADDED = ("commit",)
"""Columns that tables of release 0.1 lack."""

_TYPES = {"string": "VARCHAR", "timestamp": "TIMESTAMPTZ", "integer": "INTEGER", "long": "BIGINT"}
_NO_ROWS = "SELECT " + ", ".join(f'NULL::{_TYPES[kind]} AS "{name}"' for name, kind in COLUMNS.items()) + " WHERE false"
_PLAIN_READER = 1
"""The version of Delta's protocol whose files are rows as they lie there: nothing marks some as deleted."""


def view_events(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    table: DeltaTable,
    line: str | None = None,
    requests: Sequence[str] | None = None,
) -> None:
    """Make a view of the table's events, of all columns, or of those of a line or of some requests.

    What users wrote (`line`, `requests`) is passed as a value, never as SQL.
    """
    files = [unquote(uri) for uri in table.file_uris()]
    if not files:
        connection.execute(f"CREATE VIEW {name} AS {_NO_ROWS}")
        return
    in_folder = "://" not in files[0]
    if in_folder and table.protocol().min_reader_version == _PLAIN_READER:
        rows = _of_files(connection, files, line, requests)
    else:
        rows = _by_arrow(connection, table, line, requests)
    rows.create_view(f"{name}_written")
    connection.execute(f"CREATE VIEW {name} AS {_NO_ROWS} UNION ALL BY NAME SELECT * FROM {name}_written")


def _of_files(
    connection: duckdb.DuckDBPyConnection, files: list[str], line: str | None, requests: Sequence[str] | None
) -> Any:
    # By name: a file of release 0.1 lacks columns. A folder that is called `a=b` is not a column.
    rows = connection.read_parquet(files, union_by_name=True, hive_partitioning=False)
    if line is not None:
        rows = rows.filter(duckdb.ColumnExpression("line") == duckdb.ConstantExpression(line))
    if requests is not None:
        wanted = [duckdb.ConstantExpression(request) for request in requests]
        rows = rows.filter(duckdb.ColumnExpression("request_id").isin(*wanted))
    return rows


def _by_arrow(
    connection: duckdb.DuckDBPyConnection, table: DeltaTable, line: str | None, requests: Sequence[str] | None
) -> Any:
    import pyarrow.compute as pc  # takes as long as all else that a look needs, and a ledger in a folder does without

    dataset = table.to_pyarrow_dataset()
    # Arrow's filter skips what it can by the statistics of the files before a row is made.
    if line is not None:
        dataset = dataset.filter(pc.field("line") == line)
    if requests is not None:
        dataset = dataset.filter(pc.field("request_id").isin(list(requests)))
    return connection.from_arrow(dataset)
