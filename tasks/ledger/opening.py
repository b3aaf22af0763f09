"""The table of the ledger, opened, made, or brought up from an earlier release."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType

from tasks.ledger import aliases, queries
from tasks.ledger.errors import LedgerError
from tasks.ledger.scanning import ADDED, COLUMNS

FORMAT = 2
"""Counts the changes of the table; one of a higher number is refused."""
FORMAT_KEY = "errata.format"
SCHEMA = Schema([Field(name, PrimitiveType(kind), nullable=True) for name, kind in COLUMNS.items()])

_SPARE_BYTES = 2**18
"""What a commit takes beside its rows, amply."""


def s3_options(endpoint_url: str | None) -> dict[str, str]:
    """Storage options of a ledger on S3; credentials come from the environment."""
    options = {"aws_conditional_put": "etag"}
    if endpoint_url:
        # Both names: the environment variable AWS_ENDPOINT_URL_S3 would override the first.
        options |= {"AWS_ENDPOINT_URL": endpoint_url, "AWS_ENDPOINT_URL_S3": endpoint_url}
        options["AWS_ALLOW_HTTP"] = str(endpoint_url.startswith("http://")).lower()
    return options


def found(uri: str, options: Mapping[str, str]) -> DeltaTable | None:
    """The table, or None where nothing was written yet.

    Raises:
        LedgerError: something else is there, or a newer release wrote the table.
    """
    if not uri.startswith("s3://") and os.path.lexists(uri) and not os.path.isdir(uri):
        raise LedgerError(f"'{uri}' is no folder: choose an empty or new folder for the ledger")
    try:
        table = aliases.opened(uri, lambda address: DeltaTable(address, storage_options=dict(options)))
    except TableNotFoundError:
        _check_empty(uri)
        return None
    missing = set(COLUMNS) - set(ADDED) - {column.name for column in table.schema().fields}
    if missing:
        raise LedgerError(
            f"'{uri}' is a Delta table but no ledger (it has no {', '.join(sorted(missing))}): choose another"
        )
    written = table.metadata().configuration.get(FORMAT_KEY, "1")
    if not written.isdecimal() or int(written) > FORMAT:
        raise LedgerError(
            f"ledger '{uri}' was written by a newer Errata (format {written}, this one knows {FORMAT}): update Errata"
        )
    return table


def check_space(uri: str, rows_bytes: int = 0) -> None:
    """Look for space on a local disk before a commit: Delta Lake panics, in many lines, where it fails inside one.

    Raises:
        LedgerError: there is too little, or nothing may be written.
    """
    if uri.startswith("s3://"):
        return
    present = next(folder for folder in (Path(uri), *Path(uri).parents) if folder.exists())
    if not os.access(present, os.W_OK):
        code = errno.EROFS if os.statvfs(present).f_flag & os.ST_RDONLY else errno.EACCES
        raise LedgerError(
            f"ledger '{uri}' cannot be written ({os.strerror(code)}): make the folder writable, or set another ledger"
        )
    needed = rows_bytes + _SPARE_BYTES
    if (free := shutil.disk_usage(present).free) < needed:
        raise LedgerError(
            f"ledger '{uri}' cannot be written (No space left on device: {free:,} bytes are free, {needed:,} needed): "
            "free some space and repeat"
        )


def created(uri: str, options: Mapping[str, str]) -> DeltaTable:
    """A new table, or that of another process that was faster."""
    check_space(uri)
    try:
        if aliases.misread(uri):
            Path(uri, "_delta_log").mkdir(parents=True, exist_ok=True)
        return _marked(aliases.opened(uri, lambda address: _made(address, options)))
    except DeltaError:
        table = found(uri, options)
        if table is None:
            raise
        return table


def _made(address: str, options: Mapping[str, str]) -> DeltaTable:
    configuration = {"delta.appendOnly": "true"}
    return DeltaTable.create(address, SCHEMA, configuration=configuration, storage_options=dict(options))


def upgraded(table: DeltaTable) -> DeltaTable:
    """The table with the columns that release 0.1 did not have; that release cannot write to it any more."""
    present = {column.name for column in table.schema().fields}
    if missing := [name for name in ADDED if name not in present]:
        fields = [Field(name, PrimitiveType(COLUMNS[name]), nullable=True) for name in missing]
        table.alter.add_columns(fields, **aliases.hooks(table))
    return _marked(table)  # after the columns: that release writes nothing any more that could be missed by the count


def _marked(table: DeltaTable) -> DeltaTable:
    if table.metadata().configuration.get(FORMAT_KEY) != str(FORMAT):
        [(events,)] = queries.run(table, queries.REPEATED)
        properties = {FORMAT_KEY: str(FORMAT), queries.REPEATED_KEY: str(events)}
        table.alter.set_table_properties(properties, raise_if_not_exists=False, **aliases.hooks(table))
    return table


def _check_empty(uri: str) -> None:
    """Refuse a local path that holds something else, or a table whose log is lost."""
    if uri.startswith("s3://") or not os.path.lexists(uri):
        return
    if set(os.listdir(uri)) - {"_delta_log"}:
        raise LedgerError(f"'{uri}' is no Delta table and not empty: choose an empty folder for the ledger")
