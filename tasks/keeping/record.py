"""What a backup says of itself: where it is from, what is in it by digest, and what is not."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from editing.digests import sha256
from editing.edit import shown
from editing.errors import UsageError
from tasks.keeping.places import FolderFiles
from tasks.progress import stage
from tasks.stores.errors import DigestMismatch
from tasks.stores.records import read_record

RECORD = "backup.json"
STORE, LEDGER, ARTIFACTS, RESULTS = "store/", "ledger/", "artifacts/", "prefect-results/"
MLFLOW, PREFECT, ACCOUNTS = "mlflow.db", "prefect.db", "mlflow-accounts.db"


class Part(BaseModel):
    """One file of a backup."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class BackupRecord(BaseModel):
    """One backup; it is written last, so what has one is whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    FORMAT: ClassVar[int] = 1

    format: Literal[1] = 1
    made: datetime = Field(default_factory=lambda: datetime.now(UTC))
    errata: str
    store: str = Field(description="Address that the store had.")
    artifacts: str = Field(description="Address that MLflow's artifacts had.")
    lines: dict[str, int] = Field(description="The version in service of each line.")
    ledger_commit: int | None = Field(description="Number of the ledger's last commit; None: there is no ledger.")
    left_out: tuple[str, ...]
    files: dict[str, Part]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.files.values())

    @property
    def in_short(self) -> str:
        lines = ", ".join(f"{line} v{version}" if version else f"{line} base" for line, version in self.lines.items())
        return f"{len(self.files):,} files, {self.size / 2**20:,.1f} MiB; in service: {lines or 'nothing yet'}"


def part_of(data: bytes) -> Part:
    return Part(sha256=sha256(data), size=len(data))


def read_backup(folder: Path) -> BackupRecord:
    """The record of a backup.

    Raises:
        UsageError: there is no backup.
        RecordError: its record is damaged, or of a newer release.
    """
    path = folder / RECORD
    if not path.is_file():
        raise UsageError(
            f"{shown(str(folder))} is no backup: it has no {RECORD}, which is written last; name one that is finished"
        )
    return read_record(BackupRecord, path.read_bytes(), f"'{path}'", "take another backup")


def check_backup(folder: Path, record: BackupRecord) -> None:
    """Read every file of a backup and compare its digest.

    Raises:
        DigestMismatch: one is not what was stored.
        ObjectNotFound: one is gone.
    """
    files = FolderFiles(folder)
    with stage("checking the backup") as tell:
        for done, (name, part) in enumerate(record.files.items()):
            if part_of(files.read(name)) != part:
                raise DigestMismatch(
                    f"'{name}' in '{folder}' is not what was stored: take another backup; nothing was changed"
                )
            tell(done + 1, len(record.files))


def record_data(record: BackupRecord) -> bytes:
    return json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True).encode()
