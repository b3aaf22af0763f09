"""Text taken out of an SQLite database that a server may have open, and its file without what was there."""

import sqlite3
from contextlib import closing
from pathlib import Path

from editing.progress import OnProgress, unheard
from tasks.keeping.needles import Needles
from tasks.stores.errors import StorageError

SECONDS = 60.0
"""How long a lock is waited for."""


def sweep(path: Path, needles: Needles, tell: OnProgress = unheard) -> int:
    """Replace what is looked for in every text of every table, then write the file anew; returns how many cells.

    `tell` hears how many tables are done.

    Deleted rows leave their bytes in the file until it is written anew, so that is done in any case.

    Raises:
        StorageError: the database is locked or damaged.
    """
    try:
        with closing(sqlite3.connect(path, timeout=SECONDS)) as database:
            with database:
                changed = 0
                for done, table in enumerate(tables := _tables(database)):
                    changed += _sweep_table(database, table, needles)
                    tell(done + 1, len(tables) + 1)  # and the file that is written anew
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return changed
    except sqlite3.Error as error:
        raise StorageError(f"database '{path}' cannot be written ({error}): end what holds it, then repeat") from error


def _tables(database: sqlite3.Connection) -> list[str]:
    found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return [name for (name,) in found.fetchall()]


def _sweep_table(database: sqlite3.Connection, table: str, needles: Needles) -> int:
    changed = 0
    for _, column, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
        holds = " OR ".join(f'instr("{column}", ?) > 0' for _ in needles.spellings) or "0"
        question = (
            f'SELECT rowid, "{column}" FROM "{table}" WHERE typeof("{column}") IN (\'text\', \'blob\') AND ({holds})'
        )
        for row, value in database.execute(question, needles.spellings).fetchall():
            text = value if isinstance(value, str) else bytes(value).decode("utf-8", "surrogateescape")
            if (new := needles.replaced(text)) != text:
                stored = new if isinstance(value, str) else new.encode("utf-8", "surrogateescape")
                database.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (stored, row))
                changed += 1
    return changed
