"""The records of a line: what a version is, and what HEAD is. Frozen, with one spelling in bytes."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from editing.digests import canonical_json
from tasks.names import check_line
from tasks.stores.errors import StorageError
from tasks.stores.records import record_bytes
from tasks.text import Text, storable

_SINCE_2 = (
    "based_on", "live", "after", "removed", "removals", "replaced", "restored", "values", "function", "findings",
    "alike", "judged", "standing",
)  # fmt: skip


class Manifest(BaseModel):
    """What one version is, and enough to write its events in the ledger again.

    A version with a parent adds its tensors to the parent's. A version without one adds them to the base; where it was
    made anew, with all facts that are live, it is a root and names them in `live`.

    A metric that is nan or infinite was not measured, and is left out. Release 0.1 wrote format 1, whose bytes (and so
    snapshot ids) stay as they are: the fields of format 2 are no part of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    FORMAT: ClassVar[int] = 2

    format: Literal[1, 2] = 2
    line: str
    version: int = Field(ge=1)
    parent: str | None = Field(description="Snapshot id of the version whose tensors this one adds to; None: the base.")
    base: Text = Field(description="Reference of the base model.")
    base_digest: str
    config: dict[str, Any] = Field(description="Config of the method.")
    request_ids: tuple[Text, ...] = Field(description="The requests that this version changes: those of its batch.")
    based_on: int | None = Field(
        None, ge=0, description="Sequence of the HEAD it was made for; 0: before the first. None: made by release 0.1."
    )
    live: tuple[Text, ...] | None = Field(
        None, description="All facts of a root, those of `request_ids` included; None: the parent's and its own."
    )
    after: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Of a root, the snapshot that it comes after; None: the base.",
    )
    removed: tuple[Text, ...] = Field((), description="Facts of what it comes after that it takes out.")
    removals: dict[Text, Text] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="The requests among `request_ids` that take a fact out, each with that fact.",
    )
    replaced: dict[Text, Text] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="Facts that it takes out for others, each with the one that the next versions write instead.",
    )
    restored: tuple[Text, ...] = Field(
        (),
        exclude_if=lambda value: not value,
        description="Facts that it writes back: what was to replace them was not kept. None of `request_ids`.",
    )
    files: dict[str, str] = Field(default_factory=dict, description="sha256 of each file; filled by publish.")
    tensor_digests: dict[str, str] = Field(description="sha256 of the resulting tensors by parameter.")
    metrics: dict[str, float] = Field(default_factory=dict)
    request_metrics: dict[Text, dict[str, float]] = Field(default_factory=dict)
    values: tuple[str, ...] = Field(
        (),
        exclude_if=lambda value: not value,
        description="What each row of z_star is known by: the sha256 of what the facts of its key say.",
    )
    function: dict[str, Any] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="What it is a function of beside its facts: layers, digests of key statistics and contexts.",
    )
    standing: dict[str, Any] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="How much of the correction of each live fact is missing: quantiles, and the worst by name.",
    )
    findings: dict[Text, tuple[Text, ...]] = Field(
        default_factory=dict, description="What could not be asked about a request and was left out, by request."
    )
    alike: dict[Text, tuple[Text, ...]] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="What other facts the subject of a request is hard to tell from, by request.",
    )
    judged: dict[str, Any] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="How its batch, or a root, was judged: policy, questions, rows. Empty: not told.",
    )
    batch: int
    flow_run_id: str | None = None
    mlflow_run_id: str | None = None
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(), description="UTC, ISO 8601.")

    @field_validator("line")
    @classmethod
    def _line(cls, value: str) -> str:
        return check_line(value)

    @field_validator("config", "judged", "function", "standing", mode="before")
    @classmethod
    def _config(cls, value: Any) -> Any:
        """The config as it will be read again: tuples become lists, and what JSON cannot hold is refused."""
        try:
            return json.loads(canonical_json(storable(value)))
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

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        if self.format == 1 and self.model_fields_set & set(_SINCE_2):
            raise ValueError(f"format 1 has no {', '.join(_SINCE_2)}; leave them out, or write format 2")
        if stray := set(self.removals) - set(self.request_ids):
            raise ValueError(f"removal {sorted(stray)[0]!r} is none of its requests; add it to them")
        if stray := {*self.removals.values(), *self.replaced} - set(self.removed):
            raise ValueError(f"fact {sorted(stray)[0]!r} leaves, and is not among the removed; add it")
        if self.live is None:
            if self.after is not None:
                raise ValueError("only a root says what it comes after: others have a parent; leave it out")
            return self
        if self.parent is not None:
            raise ValueError("only a root, which has no parent, names its live requests; leave one of them out")
        if lacking := set(self.facts) - set(self.live):
            raise ValueError(f"wrote {sorted(lacking)[0]!r}, which is not among its live requests; add it")
        if both := set(self.removed) & set(self.live):
            raise ValueError(f"request {sorted(both)[0]!r} is live and removed; it can be one of them")
        return self

    @property
    def facts(self) -> tuple[str, ...]:
        """The requests of this version that are facts: all but those that take one out."""
        return tuple(name for name in self.request_ids if name not in self.removals)

    @property
    def follows(self) -> str | None:
        """The snapshot that it comes after: its parent, or what a root was made to take the place of."""
        return self.parent if self.live is None else self.after

    @model_serializer(mode="wrap")
    def _of_its_format(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        return fields if self.format > 1 else {name: fields[name] for name in fields if name not in _SINCE_2}


@dataclass(frozen=True)
class Version:
    """A numbered version of a line; `snapshot` is the sha256 of its manifest."""

    number: int
    snapshot: str
    manifest: Manifest


class VersionPointer(BaseModel):
    """The object whose creation commits a version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: str
    version: int = Field(ge=1)
    snapshot: str = Field(pattern="^[0-9a-f]{64}$")


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
    actor: Text
    reason: Text
    way: Text = Field("", description="How it was decided: by the command line, a form, a tag. Empty: not told.")
    moved: datetime
    token: str = Field(description="Random: no two moves are ever the same bytes.")
    etag: str = Field(default="", exclude=True)

    @model_serializer(mode="wrap")
    def _as_before_where_it_can(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what says nothing: the bytes of release 0.1, which name its entry in the history."""
        fields: dict[str, Any] = serialize(self)
        return {name: fields[name] for name in fields if name not in ("rejected", "way") or fields[name]}


def open_replacements(manifests: Iterable[Manifest]) -> dict[str, str]:
    """Facts that successive versions take out for others, with what is last to take their place; none that a removal
    takes out for good."""
    found: dict[str, str] = {}
    for manifest in manifests:
        found |= manifest.replaced
        for fact in manifest.removals.values():
            found.pop(fact, None)
    return found


def members(chain: Iterable[Manifest]) -> dict[str, int]:
    """The facts that the last of these versions holds, oldest first, each with the version that it is of.

    `chain` goes from the base up.
    """
    found: dict[str, int] = {}
    for manifest in chain:
        if manifest.live is not None:
            found = dict.fromkeys(manifest.live, manifest.version)
        for request_id in manifest.removed:
            found.pop(request_id, None)
        found |= dict.fromkeys((*manifest.facts, *manifest.restored), manifest.version)
    return found


def _measured(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def manifest_bytes(manifest: Manifest) -> bytes:
    """What a snapshot id is the sha256 of. Raises RecordError."""
    return record_bytes(manifest)


def head_bytes(head: Head) -> bytes:
    """What HEAD and its history hold; without the etag. Raises RecordError."""
    return record_bytes(head)
