"""The records of a line: what a version is, and what HEAD is. Frozen, with one spelling in bytes."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.stores.errors import StorageError
from tasks.stores.objects import canonical_json, check_line


class Manifest(BaseModel):
    """What one version is, and enough to write its events in the ledger again.

    A metric that is nan or infinite was not measured, and is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    line: str
    version: int = Field(ge=1)
    parent: str | None = Field(description="Snapshot id of the version this one builds on; None: the base.")
    base: str = Field(description="Reference of the base model.")
    base_digest: str
    config: dict[str, Any] = Field(description="Config of the method.")
    request_ids: tuple[str, ...] = Field(description="The requests that this version changes: those of its batch.")
    based_on: int | None = Field(
        None, description="Sequence of the HEAD it was made for; 0: before the first. None: made by release 0.1."
    )
    live: tuple[str, ...] | None = Field(
        None, description="All facts of a version that is made anew from the base; None: the parent's and its own."
    )
    removed: tuple[str, ...] = Field((), description="Facts of the HEAD it was made for that it takes out.")
    files: dict[str, str] = Field(default_factory=dict, description="sha256 of each file; filled by publish.")
    tensor_digests: dict[str, str] = Field(description="sha256 of the resulting tensors by parameter.")
    metrics: dict[str, float] = Field(default_factory=dict)
    request_metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    batch: int
    flow_run_id: str | None = None
    mlflow_run_id: str | None = None
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(), description="UTC, ISO 8601.")

    @field_validator("line")
    @classmethod
    def _line(cls, value: str) -> str:
        return check_line(value)

    @field_validator("config", mode="before")
    @classmethod
    def _config(cls, value: Any) -> Any:
        """The config as it will be read again: tuples become lists, and what JSON cannot hold is refused."""
        try:
            return json.loads(canonical_json(value))
        except (TypeError, ValueError) as error:
            raise StorageError(f"config {value!r} of a version: {error}; give plain finite values only") from error

    @field_validator("created")
    @classmethod
    def _created(cls, value: str) -> str:
        if datetime.fromisoformat(value).utcoffset() is None:
            raise ValueError(f"created {value!r} has no time zone; give it as datetime.now(UTC).isoformat()")
        return value

    @field_validator("metrics", mode="after")
    @classmethod
    def _metrics(cls, value: dict[str, float]) -> dict[str, float]:
        return _measured(value)

    @field_validator("request_metrics", mode="after")
    @classmethod
    def _request_metrics(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        return {request: _measured(metrics) for request, metrics in value.items()}


@dataclass(frozen=True)
class Version:
    """A numbered version of a line; `snapshot` is the sha256 of its manifest."""

    number: int
    snapshot: str
    manifest: Manifest


class Head(BaseModel):
    """The version in service, who put it there and why. Version 0 is the base model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: str
    sequence: int = Field(ge=1, description="1 for the first HEAD of a line, then one more each move.")
    version: int = Field(ge=0)
    snapshot: str | None
    previous: int | None = Field(description="The version before this move; None for the first.")
    action: Literal["promote", "rollback", "reject"]
    rejected: tuple[int, ...] = Field((), description="The waiting versions that this move refuses.")
    actor: str
    reason: str
    moved: datetime
    token: str = Field(description="Random: no two moves are ever the same bytes.")
    etag: str = Field(default="", exclude=True)


def _measured(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def manifest_bytes(manifest: Manifest) -> bytes:
    """What a snapshot id is the sha256 of."""
    return canonical_json(_dumped(manifest))


def head_bytes(head: Head) -> bytes:
    """What HEAD and its history hold; without the etag."""
    return canonical_json(_dumped(head))


ADDED: dict[str, Any] = {"based_on": None, "live": None, "removed": [], "rejected": []}
"""Fields that release 0.1 did not have, with what they hold by default: left out then, so that its bytes stay."""


def _dumped(record: BaseModel) -> dict[str, Any]:
    return {
        name: value
        for name, value in record.model_dump(mode="json").items()
        if name not in ADDED or value != ADDED[name]
    }
