"""Rows of the ledger written anew, for what is forgotten: the one way in which it is not appended to alone.

Commits keep their numbers, rows their places, and each changed row gets the digest of what it says now. Then what the
table no longer consists of goes: files of rows, and the log before a checkpoint, which holds the least and greatest
text of each file.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from tasks.ledger import aliases, opening, queries
from tasks.ledger.appending import table_of
from tasks.ledger.errors import LedgerError
from tasks.ledger.table import Ledger
from tasks.stores.objects import ObjectStore

Row = Mapping[str, Any]
Change = Callable[[Row], Row | None]
"""What a row is to say; None: as it does."""
AT_ONCE = 500
FORGOTTEN = "forgotten"
"""The field of a payload that stands in the place of what a request said."""
_ROUNDS = 100
_ONCE = CommitProperties(max_commit_retries=0)
_APPEND_ONLY = "delta.appendOnly"
_NUMBERED = re.compile(r"_delta_log/(\d{20})\.")
_WRITER_HOURS = 1
"""What no commit names may be somebody's who is about to commit it, unless it is older."""


def rewrite(ledger: Ledger, change: Change) -> int:
    """Change rows of the table where they stand, until no row is to change; returns how many were.

    Others may append meanwhile. Killed, the same again does what is missing.

    Raises:
        LedgerError: others are always faster, or the table cannot be written.
    """
    changed = 0
    with ledger._explained("rewritten"):
        for _ in range(_ROUNDS):
            table = opening.found(ledger.uri, ledger._options)
            if table is None:
                return changed
            rows = [new for row in queries.each_named(table, queries.ROWS) if (new := change(row)) is not None]
            try:
                if rows:
                    _write(opening.upgraded(table), rows)
                    changed += len(rows)
                    continue
                _make_append_only(table)
                return changed
            except CommitFailedError:
                continue  # another process was faster: all is read again
    raise LedgerError(f"ledger '{ledger.uri}': other processes always write first; repeat it when they are done")


def drop_history(ledger: Ledger, objects: ObjectStore) -> None:
    """Take away what the table no longer consists of; `objects` are those below its address.

    What a reader is at just then may be gone under it: it reads again.
    """
    with ledger._explained("tidied up"):
        table = opening.found(ledger.uri, ledger._options)
        if table is None:
            return
        aliases.checkpoint(table)
        last = table.version()
        options: dict[str, Any] = {"enforce_retention_duration": False, "dry_run": False, **aliases.hooks(table)}
        table.vacuum(retention_hours=0, **options)
        table.vacuum(retention_hours=_WRITER_HOURS, full=True, **options)
        for key in objects.list("_delta_log/"):
            if (number := _NUMBERED.match(key)) and int(number[1]) < last:
                objects.delete(key)


def _write(table: DeltaTable, rows: list[Row]) -> None:
    if table.metadata().configuration.get(_APPEND_ONLY) == "true":
        table.alter.set_table_properties({_APPEND_ONLY: "false"}, **aliases.hooks(table))
    for begin in range(0, len(rows), AT_ONCE):
        some = rows[begin : begin + AT_ONCE]
        names = ", ".join("'" + str(row["event_id"]).replace("'", "''") + "'" for row in some)
        options = {"predicate": f"event_id IN ({names})", "commit_properties": _ONCE, **aliases.hooks(table)}
        write_deltalake(table, table_of(some), mode="overwrite", **options)
        table.update_incremental()


def _make_append_only(table: DeltaTable) -> None:
    if table.metadata().configuration.get(_APPEND_ONLY) != "true":
        table.alter.set_table_properties({_APPEND_ONLY: "true"}, **aliases.hooks(table))
