"""A home in one file: packed where it was made, opened wherever a test wants it.

    home/           ERRATA_HOME: ledger/, snapshots/, mlflow.db, artifacts/
    hub/            the base, as the hub's client keeps it: the name in the manifests is the same on every machine
    expected/       what the release that made the home said of it: NAME.json for `errata NAME... --json`
    about.json      release, and the folder in which it was made

MLflow writes absolute paths into its database and beside its models. They are the only ones, and no digest covers them:
opening a home replaces them, which is what a person does who moves a home.
"""

import gzip
import io
import json
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABOUT = "about.json"
TEXT = {".json", ".yaml", ".yml", ".txt", ""}
"""Endings of the files beside a model in MLflow that may hold a path (MLmodel has none)."""


@dataclass(frozen=True)
class Home:
    """An opened home."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def settings(self) -> dict[str, str]:
        """Environment variables under which `errata` works on it. The cache is empty at first."""
        return {
            "ERRATA_HOME": str(self.home),
            "ERRATA_CACHE": str(self.folder / "cache"),
            "ERRATA_ACTOR": "tester",
            "HF_HUB_CACHE": str(self.folder / "hub"),
            "PREFECT_HOME": str(self.folder / "prefect"),
        }

    def expected(self, name: str) -> Any:
        """What the release that made the home answered."""
        return json.loads((self.folder / "expected" / f"{name}.json").read_text(encoding="utf-8"))


def pack(folder: Path, archive: Path) -> None:
    """All files of the folder, sorted and without times and owners: the same files give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(entry, file)
    archive.write_bytes(gzip.compress(buffer.getvalue(), 9, mtime=0))


def unpack(archive: Path, folder: Path) -> Home:
    """Open a packed home in a new folder."""
    folder.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    made_in = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["folder"]
    moved(folder / "home", made_in, str(folder))
    return Home(folder)


def moved(home: Path, before: str, now: str) -> None:
    """Replace the folder `before` by `now` in what MLflow keeps of a home."""
    for path in (home / "artifacts").rglob("*"):
        if path.is_file() and path.suffix in TEXT and before in (text := path.read_text(encoding="utf-8")):
            path.write_text(text.replace(before, now), encoding="utf-8")
    with closing(sqlite3.connect(home / "mlflow.db")) as database, database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, kind, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                    database.execute(
                        f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?) > 0',
                        (before, now, before),
                    )
