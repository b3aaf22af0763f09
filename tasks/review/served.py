"""What was in service when, who put it there, and on what evidence: from HEAD's history, in the order of its moves.

No clock decides: the order is that of the moves, and the times are those that each move recorded.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from editing.edit import shown
from editing.errors import UsageError
from editing.request import Moment
from tasks.lines.stored import check_known
from tasks.review.votes import Votes
from tasks.stores.errors import StorageError
from tasks.stores.manifest import Head, Manifest, Version
from tasks.stores.objects import at_once
from tasks.stores.snapshots import SnapshotStore
from tasks.text import Text
from tasks.workplace import Workplace


class Approval(BaseModel):
    """The move that put a version in service for the first time."""

    model_config = ConfigDict(frozen=True)

    actor: Text
    way: Text
    reason: Text
    time: datetime
    votes: tuple[Text, ...] = ()
    """Who else approved it, proven, where the line asks for two."""


class Evidence(BaseModel):
    """What whoever approved could look at: a run of MLflow, with its report."""

    model_config = ConfigDict(frozen=True)

    versions: tuple[int, ...]
    mlflow_run_id: str
    report: str
    """Where people open it; its address among MLflow's artifacts where no server is known."""
    flow_run_id: str | None = None


class Service(BaseModel):
    """A time for which one version was in service."""

    model_config = ConfigDict(frozen=True)

    line: str
    version: int
    """0 is the base."""
    snapshot: str | None
    sequence: int
    """Number of the move of HEAD that began it; 0: before the first."""
    since: datetime | None
    """As recorded; None: since the line exists."""
    until: datetime | None
    """None: it is in service now."""
    action: Text = ""
    actor: Text = ""
    way: Text = ""
    reason: Text = ""
    approval: Approval | None = None
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[Text, ...] = ()
    """What cannot be told of this time."""


def service_history(workplace: Workplace, line: str) -> list[Service]:
    """Every time of service of a line, oldest first; a move that left the version as it was began none.

    Raises:
        UsageError: there is no such line.
        RecordError: HEAD cannot be read.
    """
    store = workplace.store
    heads = store.heads(line)
    if not heads:
        check_known(store, workplace.ledger, line)
    begun = _moves(heads)
    ends = [head.moved if head else None for head in (*begun[1:], None)]
    looked = _Looked(workplace, line, heads)
    return [
        looked.service(head, until, _notes(head, following, heads))
        for head, until, following in zip(begun, ends, (*begun[1:], None), strict=True)
    ]


def moment(text: str) -> datetime:
    """A point in time that somebody typed, in UTC.

    Raises:
        UsageError: it is none, or has no time zone.
    """
    try:
        return TypeAdapter(Moment).validate_python(text)
    except ValidationError as error:
        raise UsageError(f"time {shown(text)} {error.errors()[0]['msg']}") from error


def in_service_at(history: Sequence[Service], at: datetime) -> Service:
    """What was in service at a moment: the last move that was recorded until then decides."""
    return next((one for one in reversed(history) if one.since is None or one.since <= at), history[0])


def _moves(heads: Sequence[Head]) -> list[Head | None]:
    """The moves that changed what is in service; None is the base before the first of them."""
    found: list[Head | None] = [None]
    for head in heads:
        if head.snapshot != (found[-1].snapshot if found[-1] else None):
            found.append(head)
    return found


def _notes(head: Head | None, following: Head | None, heads: Sequence[Head]) -> tuple[str, ...]:
    """Moves that cannot be read, between this one and what is known to have come next; clocks that disagree."""
    first, last = (
        head.sequence if head else 0,
        following.sequence if following else max((one.sequence for one in heads), default=0),
    )
    notes = []
    if lost := sorted({*range(first + 1, last)} - {one.sequence for one in heads}):
        shown = f"move {lost[0]}" if len(lost) == 1 else f"moves {lost[0]} to {lost[-1]}"
        notes.append(f"{shown} of HEAD cannot be read: other versions may have been in service meanwhile")
    if head and following and following.moved < head.moved:
        notes.append("the next move recorded an earlier time: clocks of two machines; the order is that of the moves")
    return tuple(notes)


class _Looked:
    """One look at a line's versions and moves, for the times of its service."""

    def __init__(self, workplace: Workplace, line: str, heads: Sequence[Head]) -> None:
        self.store: SnapshotStore = workplace.store
        self.line, self.heads, self.people = line, heads, workplace.settings.mlflow_people
        self.votes = Votes(self.store.store, line)
        with suppress(StorageError):  # of what cannot be read, whoever needs it says so
            at_once(self.store.manifest, dict.fromkeys(head.snapshot for head in heads if head.snapshot))
        self.brought: dict[str, int] = {}
        """The move that brought each snapshot into service first, by itself or below another."""
        for head in heads:
            for snapshot in self._below(head.snapshot):
                self.brought.setdefault(snapshot, head.sequence)
        self.first: Mapping[int, Head] = {head.sequence: head for head in heads}

    def service(self, head: Head | None, until: datetime | None, notes: tuple[str, ...]) -> Service:
        if head is None:
            return Service(line=self.line, version=0, snapshot=None, sequence=0, since=None, until=until, notes=notes)
        return Service(
            line=self.line,
            version=head.version,
            snapshot=head.snapshot,
            sequence=head.sequence,
            since=head.moved,
            until=until,
            action=head.action,
            actor=head.actor,
            way=head.way,
            reason=head.reason,
            approval=self._approval(head),
            evidence=self._evidence(head),
            notes=notes,
        )

    def _approval(self, head: Head) -> Approval | None:
        if head.snapshot is None:
            return None
        first = self.first[self.brought[head.snapshot]]
        manifest = self.store.manifest(head.snapshot)
        said = self.votes.of(Version(manifest.version, head.snapshot, manifest))
        return Approval(
            actor=first.actor,
            way=first.way,
            reason=first.reason,
            time=first.moved,
            votes=tuple(one.reviewer for one in said),
        )

    def _evidence(self, head: Head) -> tuple[Evidence, ...]:
        """The runs of all that was approved with this version for the first time."""
        if head.snapshot is None:
            return ()
        with_it = self.brought[head.snapshot]
        approved = [one for one in self._below(head.snapshot) if self.brought[one] == with_it]
        return tuple(_by_run([self.store.manifest(snapshot) for snapshot in approved], self.people))

    def _below(self, snapshot: str | None) -> list[str]:
        """A snapshot and all that it comes after, oldest first."""
        found = []
        while snapshot is not None:
            found.append(snapshot)
            snapshot = self.store.manifest(snapshot).follows
        return found[::-1]


def _by_run(manifests: Iterable[Manifest], people: str) -> list[Evidence]:
    runs: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        if manifest.mlflow_run_id:
            runs.setdefault(manifest.mlflow_run_id, []).append(manifest)
    return [
        Evidence(
            versions=tuple(one.version for one in made),
            mlflow_run_id=run,
            report=f"{people}/#/runs/{run}" if people else f"runs:/{run}/report.html",
            flow_run_id=made[-1].flow_run_id,
        )
        for run, made in runs.items()
    ]
