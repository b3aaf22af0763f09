"""A backup of an installation, taken while jobs run: pointers of one moment first, then what they point to.

1. HEADs, versions and the ledger's state, of one moment (`pointers`).
2. MLflow's database: the runs that versions name are in it, since a run is begun before its versions.
3. What versions consist of, and the ledger's files of that state: written once, never changed, and taken by no upkeep.
4. Hypernetworks, trainings, MLflow's artifacts, Prefect's database.

It is written beside its place and renamed at the end; what is killed leaves `TO.partial`, and the same again goes on.
"""

import importlib.metadata
import json
import os
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from editing.digests import sha256
from editing.edit import shown
from editing.errors import UsageError
from tasks.keeping.places import Files, FolderFiles, Places, places_of
from tasks.keeping.pointers import Pointers, keys_of, pointers
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
    Part,
    part_of,
    record_data,
)
from tasks.progress import stage
from tasks.secrets import without_secrets
from tasks.settings import Settings
from tasks.stores.checkpoints import Checkpoints
from tasks.stores.errors import DigestMismatch, ObjectNotFound, StorageError
from tasks.stores.snapshots import CALIBRATIONS, HYPERNETWORKS, SnapshotStore
from tasks.workplace import Workplace

PARTIAL = ".partial"
LOCK = ".lock"
_LOG = "_delta_log/"
_NUMBERED = re.compile(r"_delta_log/(\d{20})\.")
_ADDRESSED = re.compile(r"(?:blobs|manifests|hypernetworks)/([0-9a-f]{64})\.(?:safetensors|json)$")
_ROUNDS = 5


def backup(workplace: Workplace, to: Path) -> BackupRecord:
    """Copy everything of an installation into a new folder, as one consistent set.

    Raises:
        UsageError: the folder is there already, or lies in what is copied, or another process writes it.
        DigestMismatch, ObjectNotFound: something that is to be copied is damaged or gone.
    """
    settings, places = workplace.settings, places_of(workplace.settings)
    to = to.expanduser().absolute()
    _check_target(to, places)
    partial = to.with_name(to.name + PARTIAL)
    partial.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with FileLock(partial / LOCK, timeout=0, fallback_to_soft=False):
            record = _copied(workplace, places, settings, partial)
            (partial / LOCK).unlink()
            os.rename(partial, to)
    except Timeout as error:
        raise UsageError(f"another process writes the backup '{to}': wait for it, or name another folder") from error
    return record


def _check_target(to: Path, places: Places) -> None:
    if to.exists():
        raise UsageError(f"{shown(str(to))} is there already: a backup is written once, name a new folder")
    for folder in places.folders:
        if to.is_relative_to(folder):
            raise UsageError(f"{shown(str(to))} lies in '{folder}', which is copied: name a folder elsewhere")


def _copied(workplace: Workplace, places: Places, settings: Settings, partial: Path) -> BackupRecord:
    copy, store = _Copy(FolderFiles(partial)), workplace.store.store
    with stage("one moment of all lines"):
        at_once = pointers(store, workplace.ledger)
    if places.mlflow and places.mlflow.exists():
        copy.database(places.mlflow, MLFLOW)
    for key, data in at_once.objects.items():
        copy.add(STORE + key, data)
    with stage("what versions lead to") as tell:
        keys = keys_of(SnapshotStore(store), at_once.snapshots(), tell)
    of_no_line = [key for folder in (HYPERNETWORKS, CALIBRATIONS) for key in store.list(f"{folder}/")]
    copy.each("objects of the store", places.store, STORE, [*keys, *of_no_line])
    for training in sorted({key.split("/")[1] for key in store.list("trainings/")}):
        _copy_training(copy, places.store, Checkpoints(store, training))
    copy.each("ledger", places.ledger, LEDGER, _files_of_ledger(places.ledger, at_once))
    if places.artifacts:
        copy.each("artifacts", places.artifacts, ARTIFACTS, places.artifacts.list(), may_go=True)
    if places.prefect.exists():
        copy.database(places.prefect, PREFECT)
        copy.each("results of Prefect", places.results, RESULTS, places.results.list(), may_go=True)
    if (places.home / ACCOUNTS).exists():
        copy.database(places.home / ACCOUNTS, ACCOUNTS)
    record = BackupRecord(
        errata=importlib.metadata.version("errata-lm"),
        store=settings.store_uri,
        artifacts=settings.artifact_root,
        lines=at_once.heads(),
        ledger_commit=at_once.ledger.commit if at_once.ledger else None,
        left_out=tuple(_left_out(settings, places)),
        files=dict(sorted(copy.parts.items())),
    )
    copy.drop_others()
    copy.to.write(RECORD, record_data(record))
    return record


@dataclass
class _Copy:
    """A backup that is being written."""

    to: FolderFiles
    parts: dict[str, Part] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> None:
        self.to.write(name, data)
        self.parts[name] = part_of(data)

    def each(self, what: str, source: Files, prefix: str, names: Iterable[str], *, may_go: bool = False) -> None:
        """Copy files; what an interrupted backup has copied of those that never change is not copied again.

        `may_go`: one that is gone since it was listed was somebody's to remove.
        """
        wanted = list(dict.fromkeys(names))
        with stage(what) as tell:
            for done, name in enumerate(wanted):
                try:
                    self._one(source, prefix, name)
                except ObjectNotFound:
                    if not may_go:
                        raise
                tell(done + 1, len(wanted))

    def database(self, path: Path, name: str) -> None:
        """One moment of an SQLite database that others write to."""
        with stage(name):
            fresh = self.to.root / f".{name}"
            fresh.unlink(missing_ok=True)
            address = f"file:{quote(str(path))}?mode=ro"
            with (
                closing(sqlite3.connect(address, uri=True, timeout=60)) as source,
                closing(sqlite3.connect(fresh)) as made,
            ):
                source.backup(made)
                made.execute("PRAGMA journal_mode = DELETE")  # one file, whatever the other's journal was
            self.add(name, fresh.read_bytes())
            fresh.unlink()

    def drop_others(self) -> None:
        """Take away what an interrupted backup had copied of another moment, or had not finished."""
        for path in self.to.root.rglob(".*"):
            if path != self.to.root / LOCK:
                path.unlink()
        for name in {*self.to.list()} - {*self.parts}:
            self.to.path(name).unlink()

    def _one(self, source: Files, prefix: str, name: str) -> None:
        addressed, kept = _ADDRESSED.search(name), prefix + name
        never_changes = addressed or prefix == LEDGER
        if never_changes and self.to.exists(kept):
            part = part_of(self.to.read(kept))
            if not addressed or part.sha256 == addressed[1]:
                self.parts[kept] = part
                return
        data = source.read(name)
        if addressed and (found := sha256(data)) != addressed[1]:
            raise DigestMismatch(
                f"'{name}' in '{source.uri}' is damaged, found sha256 {found}: errata audit names all that is; "
                "restore it from an earlier backup, then repeat"
            )
        self.add(kept, data)


def _copy_training(copy: _Copy, source: Files, checkpoints: Checkpoints) -> None:
    """The checkpoints of a training that may go on meanwhile, and remove older ones."""
    folder = f"trainings/{checkpoints.training}"
    for _ in range(_ROUNDS):
        recorded = checkpoints.look()
        names = [key for key in (f"{folder}/training.json", *recorded) if source.exists(key)]
        try:
            blobs = [checkpoints.blob_key(one) for one in recorded.values()]
            copy.each(f"training {checkpoints.training}", source, STORE, [*blobs, *names])
            return
        except ObjectNotFound:
            continue
    raise StorageError(f"training '{checkpoints.training}' moves faster than it can be copied: repeat when it rests")


def _files_of_ledger(ledger: Files, at_once: Pointers) -> list[str]:
    """The rows of that state, and the log up to it."""
    if at_once.ledger is None:
        return []
    last = at_once.ledger.commit
    log = [name for name in ledger.list() if (number := _NUMBERED.match(name)) and int(number[1]) <= last]
    pointer = f"{_LOG}_last_checkpoint"
    if ledger.exists(pointer) and json.loads(ledger.read(pointer))["version"] <= last:
        log.append(pointer)
    return [*at_once.ledger.names, *log]


def _left_out(settings: Settings, places: Places) -> Iterable[str]:
    """What nothing here can copy, and how it is kept."""
    if places.mlflow is None:
        uri = without_secrets(settings.mlflow_uri)
        yield f"MLflow's database ({uri}): dump it where it runs, right after this (pg_dump); see docs/keeping.md"
    if places.artifacts is None:
        yield "MLflow's artifacts, which its server keeps: copy its folder or bucket, after its database"
    if url := os.environ.get("PREFECT_API_URL") or settings.prefect_api_url:
        yield f"the database of Prefect's server ({without_secrets(url)}): dump it where it runs"
    yield "settings.toml and the passwords in it; base models; the cache, which is made again"
