"""MLflow's SQLite database as it first comes to be: made beside its place and put there whole.

MLflow makes its tables by dozens of migrations, each of which stands at once. Killed among them it leaves a database
that no release can open or upgrade; and two commands at once in a new home take each other's tables for their own.
"""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock

from tasks.addresses import database_address, database_file
from tasks.tracking.address import first_line
from tasks.tracking.errors import TrackingError

SECONDS = 60.0
"""How long another process's first start, or a lock, is waited for."""


def make_whole(tracking_uri: str) -> None:
    """Make the database at this address, unless it is there, or is none of SQLite.

    Raises:
        TrackingError: it cannot be made there.
    """
    place = database_file(tracking_uri)
    if place is None:
        return
    place = place.absolute()
    try:
        if _has_tables(place):
            return
        with FileLock(place.with_name(f".{place.name}.lock"), timeout=SECONDS):
            if not _has_tables(place):
                _make(place)
    except Exception as error:  # of SQLite, of its driver, of a migration, of the disk
        raise TrackingError(
            f"MLflow database {str(place)!r} cannot be made or read ({first_line(error)}): make room, choose a place "
            "that can be written, or restore the file from a backup"
        ) from error


def _has_tables(place: Path) -> bool:
    if not place.exists() or not place.stat().st_size:
        return False
    with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True, timeout=SECONDS)) as database:
        return bool(database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _make(place: Path) -> None:
    folder = place.with_name(f".{place.name}.making")
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    folder.mkdir(parents=True)
    try:
        _migrate(folder / "migrated.db")
        whole = folder / "whole.db"
        with (
            closing(sqlite3.connect(folder / "migrated.db", timeout=SECONDS)) as migrated,
            closing(sqlite3.connect(whole)) as copy,
        ):
            migrated.backup(copy)  # what is still in its journal, too
        with whole.open("rb+") as file:
            os.fsync(file.fileno())
        whole.replace(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _migrate(place: Path) -> None:
    from mlflow.db import upgrade  # it takes seconds, and only a new home needs it

    assert upgrade.callback is not None  # it is the command `mlflow db upgrade`, which makes what is empty
    upgrade.callback(database_address(place))
