"""The values that the stages of a knowledge update hand on: the run itself, its questions, its batches."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.config import LocatingConfig
from editing.edit import Edit
from editing.measure.ability_sets import AbilitySet
from editing.methods.shared.interface import BatchUpdate
from editing.weights import Undo
from tasks.ledger.choosing import EARLY
from tasks.ledger.events import State
from tasks.lines.specs import LineSpec
from tasks.parquet import read_text
from tasks.report.data import BatchRow
from tasks.stores.lease import Lease
from tasks.stores.manifest import Version
from tasks.update.policy import Policy
from tasks.update.values import Standing
from tasks.update.verdicts import Verdict
from tasks.workplace import Workplace

if TYPE_CHECKING:
    from tasks.update.session import Session


@dataclass(frozen=True)
class Run:
    """One knowledge update: what it is to do, and under which names. Nothing of it changes while it runs."""

    workplace: Workplace
    spec: LineSpec
    policy: Policy
    lease: Lease
    started: datetime
    flow_run_id: str
    mlflow_run_id: str = ""

    @property
    def line(self) -> str:
        return self.spec.line

    @property
    def actor(self) -> str:
        return self.workplace.settings.who


@dataclass(frozen=True)
class Footing:
    """What a job stands on: the newest snapshot that it builds on, and the HEAD that this was good for."""

    tip: str | None
    """None: the base."""
    sequence: int
    """Of HEAD; 0: before the first."""
    waiting: tuple[Version, ...]
    """The versions that wait for review, those of earlier runs included, oldest first."""


@dataclass(frozen=True)
class Reference:
    """The base model's numbers, which everything is compared with."""

    perplexity: float
    texts: Sequence[str]
    sets: Sequence[AbilitySet] = ()
    """Questions about general ability."""


@dataclass(frozen=True)
class Taken:
    """The requests that a job takes up."""

    edits: tuple[Edit, ...]
    rejected: dict[str, str] = field(default_factory=dict)
    """Reasons by request."""
    known: dict[str, Edit] = field(default_factory=dict)
    """Every edit that the job may look at, by request: live, waiting, and queued."""
    findings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What was left out of a request because the model cannot read it, by request."""
    removals: dict[str, str] = field(default_factory=dict)
    """The fact that is taken out, by the request that asks for it."""
    replaced: dict[str, str] = field(default_factory=dict)
    """The request that takes its place, by fact in service."""
    ended: dict[str, tuple[State, str]] = field(default_factory=dict)
    """How requests end that are neither written nor refused, and why."""
    left: dict[str, str] = field(default_factory=dict)
    """What stays queued, and why."""
    carried: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What requests carry besides their facts, by request."""

    @property
    def nothing(self) -> str:
        """Why there is nothing to write, where there is nothing."""
        if not self.left:
            return "nothing is left to write" if self.rejected or self.ended else "nothing is queued"
        early = sorted(why.removeprefix(EARLY) for why in self.left.values() if why.startswith(EARLY))
        count, undecided = len(self.left), len(self.left) - len(early)
        said = "1 request is left" if count == 1 else f"{count} requests are left"
        said += f", the earliest until {early[0]}" if early else ""
        said += f", {undecided}" if early and undecided else ""
        return f"nothing to write now: {said}{' until what waits for review is decided' if undecided else ''}"


@dataclass(frozen=True)
class Leaving:
    """What a root is made without."""

    removals: Mapping[str, str] = field(default_factory=dict)
    """Requests that take a fact out, each with that fact."""
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Facts, each with the request that says its question anew."""

    @property
    def facts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.removals.values(), *self.replaced)))

    def __bool__(self) -> bool:
        return bool(self.removals or self.replaced)

    def __or__(self, other: "Leaving") -> "Leaving":
        return Leaving({**self.removals, **other.removals}, {**self.replaced, **other.replaced})

    def singly(self) -> Iterator["Leaving"]:
        """Fact by fact, with all that asks for it."""
        for fact in self.facts:
            removals = {name: one for name, one in self.removals.items() if one == fact}
            yield Leaving(removals, {fact: self.replaced[fact]} if fact in self.replaced else {})


@dataclass(frozen=True)
class Batch:
    """Edits that are solved and validated together; '2' is a whole batch, '2.1' and '2.2' are its parts."""

    name: str
    edits: tuple[Edit, ...]

    @property
    def number(self) -> int:
        return int(self.name.partition(".")[0])

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(edit.id for edit in self.edits)


def batches_of(session: "Session", edits: Sequence[Edit], policy: Policy) -> list[tuple[Edit, ...]]:
    """The edits of a job as they are written together: facts that share a key in one batch, where it holds them."""
    size = policy.batch_size
    if isinstance(session.config, LocatingConfig):
        return session.keys.batches(edits, size)
    return [tuple(edits[start : start + size]) for start in range(0, len(edits), size)]


@dataclass(frozen=True)
class Sharing:
    """The facts in the weights that are written where a batch is."""

    same: tuple[Edit, ...] = ()
    """Those of the very same key: their value is searched again, with those of the batch."""
    holding: tuple[Edit, ...] = ()
    """Those of the same key or nearly, as far as they hold before the batch is written."""
    alike: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What other facts the subject of a request is hard to tell from, a sentence each, by request of the batch."""


@dataclass(frozen=True)
class Written:
    """A batch that stands in the weights, with what takes it back."""

    batch: Batch
    update: BatchUpdate
    z_star: Tensor
    undo: Undo
    search_seconds: float
    beside: tuple[Edit, ...] = ()
    """The live facts that what was written reaches, too, and that held before."""
    z_base: Tensor | None = None
    """Where the hidden states of the facts are on the base; None for a method that searches no values."""
    known_by: tuple[str, ...] = ()
    """What the value of each fact is known by in the line."""
    standing: Mapping[str, Standing] = field(default_factory=dict)
    """How much of every fact in the weights is missing now, those of the batch included, by request."""

    @property
    def rows(self) -> dict[str, Tensor]:
        """What is stored beside z*, a row a fact."""
        if self.z_base is None:
            return {}
        missing = [self.standing[name].missing if name in self.standing else math.nan for name in self.batch.ids]
        return {"z_base": self.z_base, "missing": torch.tensor(missing)}


@dataclass(frozen=True)
class Judged:
    """A batch and the verdict on it; `written` is None where it could not be written at all."""

    batch: Batch
    verdict: Verdict
    written: Written | None = None
    seconds: float = 0.0
    """From the search to the verdict."""
    validate_seconds: float = 0.0
    record: Mapping[str, Any] = field(default_factory=dict)
    """What it takes to judge the batch again, by tasks/update/replay.py."""

    def row(self, version: int | None) -> BatchRow:
        """What the report says of it; `version`: the one that it became, None where it was undone."""
        return BatchRow(
            batch=self.batch.number,
            attempt=self.batch.name,
            version=version,
            request_ids=self.batch.ids,
            kept=version is not None,
            checks=self.verdict.checks,
            metrics=self.verdict.metrics,
            seconds=self.seconds,
            search_seconds=self.written.search_seconds if self.written else 0.0,
            validate_seconds=self.validate_seconds,
        )


def spread_sample(edits: Sequence[Edit], size: int) -> list[Edit]:
    """At most `size` of the edits, evenly spread and always the same."""
    if len(edits) <= size:
        return list(edits)
    return [edits[i * len(edits) // size] for i in range(size)]


def read_texts(path: Path | None) -> list[str] | None:
    """The texts of a file, if one is given."""
    return None if path is None else read_text(path)
