"""A backup put back into an empty home: checked whole first, written, and published at the end.

HEAD of each line is written last. Until then `restoring.json` stands in the home, no command works on it, and the same
restore goes on where it was killed. MLflow keeps addresses: those of its artifacts and of the store become those here.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from editing.digests import sha256
from editing.edit import shown
from editing.errors import UsageError
from editing.files import write_atomically
from tasks.keeping.places import Files, FolderFiles, Places, places_of
from tasks.keeping.record import (
    ACCOUNTS,
    ARTIFACTS,
    LEDGER,
    MLFLOW,
    PREFECT,
    RECORD,
    RESULTS,
    STORE,
    BackupRecord,
    check_backup,
    read_backup,
)
from tasks.progress import stage
from tasks.review.aliases import sync_aliases
from tasks.settings import Settings
from tasks.workplace import RESTORING, Workplace, open_workplace

ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow's database keeps addresses of artifacts."""
MODEL = "MLmodel"


@dataclass(frozen=True)
class Restored:
    """What was put back."""

    record: BackupRecord
    left_out: tuple[str, ...]
    """What is in the backup and was not put back, and how that is done."""


def restore(settings: Settings, folder: Path) -> Restored:
    """Put a backup into the places that the settings name, which must be empty.

    Raises:
        UsageError: there is no backup, or a place is not empty; nothing was changed.
        DigestMismatch, ObjectNotFound: a file of the backup is damaged or gone; nothing was changed.
    """
    folder = folder.expanduser().absolute()
    record = read_backup(folder)
    places, marker = places_of(settings), settings.home_folder / RESTORING
    this = {"backup": sha256((folder / RECORD).read_bytes())}
    if not _goes_on(marker, this):
        _check_empty(places)
    check_backup(folder, record)
    write_atomically(marker, json.dumps(this).encode())
    open_workplace(settings, restoring=True)  # makes the folder of the store
    put = _Put(FolderFiles(folder), record)
    left_out = put.everything(places, settings)
    workplace = open_workplace(settings, restoring=True)
    if places.mlflow and MLFLOW in record.files:
        _follow_heads(workplace, record)
    marker.unlink()
    return Restored(record, tuple(left_out))


def _goes_on(marker: Path, this: Mapping[str, str]) -> bool:
    """Whether this restore was begun here before."""
    if not marker.exists():
        return False
    if json.loads(marker.read_bytes()) != this:
        raise UsageError(f"another backup was being restored here: go on with that one, or remove '{marker.parent}'")
    return True


def _check_empty(places: Places) -> None:
    """Refuse to write over anything."""
    folders = [one for one in (places.store, places.ledger, places.artifacts, places.results) if one]
    taken = [one.uri for one in folders if one.list()]
    taken += [str(path) for path in (places.mlflow, places.prefect, places.home / ACCOUNTS) if path and path.exists()]
    if taken:
        raise UsageError(f"{shown(taken[0])} is not empty: restore into a new home (ERRATA_HOME); nothing was changed")


@dataclass(frozen=True)
class _Put:
    source: FolderFiles
    record: BackupRecord

    def everything(self, places: Places, settings: Settings) -> list[str]:
        """Write all parts, pointers last; returns what has no place here."""
        left_out = []
        heads = [name for name in self._of(STORE) if name.endswith("/HEAD")]
        self._each("objects of the store", places.store, STORE, set(self._of(STORE)) - {*heads})
        log = [name for name in self._of(LEDGER) if name.startswith("_delta_log/")]
        self._each("ledger", places.ledger, LEDGER, set(self._of(LEDGER)) - {*log})
        moved = Addresses(self.record, settings)
        artifacts = self._of(ARTIFACTS)
        if places.artifacts:
            self._each("artifacts", places.artifacts, ARTIFACTS, artifacts, moved.in_file)
        elif artifacts:
            left_out.append(f"{len(artifacts)} artifacts of MLflow: copy {ARTIFACTS} to where its server keeps them")
        if places.mlflow is None and MLFLOW in self.record.files:
            left_out.append(f"MLflow's database: {MLFLOW} is SQLite's, and these settings name a server")
        elif places.mlflow:
            self._database(MLFLOW, places.mlflow, moved.in_database)
        self._database(PREFECT, places.prefect)
        self._each("results of Prefect", places.results, RESULTS, self._of(RESULTS))
        self._database(ACCOUNTS, places.home / ACCOUNTS)
        self._each("log of the ledger", places.ledger, LEDGER, log)
        self._each("HEADs", places.store, STORE, heads)
        return left_out

    def _of(self, prefix: str) -> list[str]:
        return [name.removeprefix(prefix) for name in self.record.files if name.startswith(prefix)]

    def _each(
        self, what: str, to: Files, prefix: str, names: Iterable[str],
        changed: Callable[[str, bytes], bytes] = lambda _, data: data,
    ) -> None:  # fmt: skip
        ordered = sorted(names)
        with stage(what) as tell:
            for done, name in enumerate(ordered):
                if not to.exists(name):  # a file that is there is whole: it was written by this restore before
                    to.write(name, changed(name, self.source.read(prefix + name)))
                tell(done + 1, len(ordered))

    def _database(self, name: str, to: Path, change: Callable[[Path], None] = lambda _: None) -> None:
        if name not in self.record.files or to.exists():
            return
        with stage(name):
            fresh = to.with_name(f".{to.name}.restored")
            write_atomically(fresh, self.source.read(name))
            change(fresh)
            os.replace(fresh, to)


class Addresses:
    """The addresses in MLflow's database and beside its models, as they become here."""

    def __init__(self, record: BackupRecord, settings: Settings) -> None:
        self.store = (record.store, settings.store_uri)
        self.endpoint = settings.s3_endpoint_url
        self.artifacts = (_address(record.artifacts), _address(settings.artifact_root))

    def in_database(self, path: Path) -> None:
        before, now = self.artifacts
        with closing(sqlite3.connect(path)) as database, database:
            for table, column in ADDRESSES:
                database.execute(
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) WHERE substr("{column}", 1, ?) = ?',
                    (now, len(before) + 1, len(before), before),
                )

    def in_file(self, name: str, data: bytes) -> bytes:
        """The pointer that a model's file holds, to where the snapshots are now."""
        if name.rpartition("/")[2] != MODEL:
            return data
        import yaml  # only models need it, and who reads no YAML does without

        told: dict[str, Any] = yaml.safe_load(data)
        config = told.get("flavors", {}).get("python_function", {}).get("config", {})
        before, now = self.artifacts
        if config.get("store_uri") == self.store[0]:
            config |= {"store_uri": self.store[1], "endpoint_url": self.endpoint}
        if str(told.get("artifact_path", "")).startswith(before):
            told["artifact_path"] = now + told["artifact_path"][len(before) :]
        return str(yaml.safe_dump(told, default_flow_style=False, allow_unicode=True)).encode()


def _address(root: str) -> str:
    """An artifact root as MLflow writes it."""
    return root if urlsplit(root).scheme else Path(root).expanduser().resolve().as_uri()


def _follow_heads(workplace: Workplace, record: BackupRecord) -> None:
    """MLflow's database is of a later moment than HEAD: aliases, and versions that a job had yet to register."""
    tracker = workplace.tracker()
    with stage("MLflow's aliases") as tell:
        for done, line in enumerate(record.lines):
            if workplace.store.numbers(line):
                sync_aliases(tracker, workplace, line)
            tell(done + 1, len(record.lines))
