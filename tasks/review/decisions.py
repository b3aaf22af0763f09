"""Decisions about versions: put one in service, refuse what waits, go back. Events, HEAD and aliases follow."""

from dataclasses import dataclass
from typing import Literal

from editing.errors import UsageError
from tasks.ledger.events import Event
from tasks.ledger.view import head_events, open_versions, reconcile, strand
from tasks.lines.specs import read_line
from tasks.review.aliases import sync_aliases
from tasks.stores.lease import holder
from tasks.stores.manifest import Head, Version
from tasks.tracking.errors import TrackingError
from tasks.workplace import Workplace


@dataclass(frozen=True)
class Decision:
    """What was decided: the versions concerned, HEAD afterwards, and what MLflow could not be told."""

    versions: tuple[int, ...]
    head: Head | None
    warning: str = ""


def waiting(workplace: Workplace, line: str) -> list[Version]:
    """The versions that wait for review, oldest first, after catching up with anything a killed job left."""
    reconcile(workplace.store, workplace.ledger, line, workplace.settings.who)
    return open_versions(workplace.store, workplace.ledger, line)


def approve(workplace: Workplace, line: str, version: int | None = None, reason: str = "") -> Decision:
    """Put a waiting version in service, with those it builds on; the newest unless one is named.

    Raises:
        UsageError: nothing waits, or not that version.
        HeadMoved: somebody else decided in the meantime.
    """
    head = workplace.store.head(line)
    chosen = _chosen(waiting(workplace, line), line, version)
    return _move(workplace, line, head, chosen[-1], "promote", reason, tuple(v.number for v in chosen))


def reject(workplace: Workplace, line: str, version: int | None = None, reason: str = "") -> Decision:
    """Refuse what waits: all of it, or a version and everything built on it. HEAD stays where it is.

    Raises:
        UsageError: nothing waits, or not that version, or no reason is given.
    """
    if not reason.strip():
        raise UsageError("a rejection needs a reason: it stands in the ledger for whoever asks later")
    open_now = waiting(workplace, line)
    first = open_now[0].number if version is None and open_now else version
    _chosen(open_now, line, first)
    refused = [v for v in open_now if first is not None and v.number >= first]
    events = [
        Event(
            request_id=request_id,
            event="rejected",
            line=line,
            version=v.number,
            batch=v.manifest.batch,
            actor=workplace.settings.who,
            snapshot=v.snapshot,
            reason=f"version {v.number} was refused in review: {reason.strip()}",
        )
        for v in refused
        for request_id in v.manifest.request_ids
    ]
    workplace.ledger.append(events)
    warning = _tell_mlflow(workplace, line, workplace.store.head(line))
    return Decision(tuple(v.number for v in refused), workplace.store.head(line), warning)


def roll_back(workplace: Workplace, line: str, to: int | None = None, reason: str = "") -> Decision:
    """Put an earlier version back in service (0: the base); the one before the present HEAD unless one is named.

    A version that was rolled back can be put back in service the same way.

    Raises:
        UsageError: nothing was ever in service, or the version never was.
        HeadMoved: somebody else decided in the meantime.
    """
    reconcile(workplace.store, workplace.ledger, line, workplace.settings.who)
    head = workplace.store.head(line)
    if head is None:
        raise UsageError(f"line '{line}' has nothing in service, so there is nothing to roll back")
    served = {0} | {h.version for h in workplace.store.heads(line)}
    target = (head.previous or 0) if to is None else to
    if target == head.version:
        raise UsageError(f"version {target} of line '{line}' is in service already")
    chain = {manifest.version for manifest in workplace.store.chain(head.snapshot)}
    if target not in served | chain:
        raise UsageError(
            f"version {target} of line '{line}' was never in service; "
            f"choose one of {', '.join(str(n) for n in sorted(served | chain))}"
        )
    goal = workplace.store.version(line, target) if target else None
    return _move(workplace, line, head, goal, "rollback", reason, (target,))


def _chosen(open_now: list[Version], line: str, version: int | None) -> list[Version]:
    """The waiting versions up to `version`."""
    if not open_now:
        raise UsageError(f"nothing waits for review on line '{line}'; run `errata run {line}` first")
    numbers = [v.number for v in open_now]
    if version is not None and version not in numbers:
        raise UsageError(
            f"version {version} of line '{line}' does not wait for review; {', '.join(map(str, numbers))} do"
        )
    return [v for v in open_now if version is None or v.number <= version]


def _move(
    workplace: Workplace, line: str, head: Head | None, goal: Version | None, action: Literal["promote", "rollback"],
    reason: str, versions: tuple[int, ...],
) -> Decision:  # fmt: skip
    """HEAD first, by compare-and-swap; then the events; then the aliases. Killed between, `reconcile` completes it."""
    moved = workplace.store.move_head(line, goal, head, action, workplace.settings.who, reason)
    before = workplace.store.version(line, head.version) if head and head.version else None
    events = head_events(workplace.store, moved, before)
    if events:
        workplace.ledger.append(events, once=True)
    strand(workplace.store, workplace.ledger, line, workplace.settings.who)
    return Decision(versions, moved, _tell_mlflow(workplace, line, moved))


def _tell_mlflow(workplace: Workplace, line: str, head: Head | None) -> str:
    """Aliases are derived, so a decision stands even when MLflow cannot be reached; returns what went wrong."""
    still = open_versions(workplace.store, workplace.ledger, line)
    try:
        sync_aliases(workplace.tracker(), workplace, line, head, still[-1] if still else None)
    except TrackingError as error:
        return f"MLflow's aliases were not updated ({error}); `errata run {line}` or the next decision will"
    return ""


@dataclass(frozen=True)
class LineStatus:
    """Where a line stands."""

    line: str
    model: str
    method: str
    in_service: int
    """The version in service; 0 is the base."""
    waiting: list[int]
    requests: dict[str, int]
    """Number of requests by state."""
    running: str
    """Who works on the line now; empty when nobody does."""


def line_status(workplace: Workplace, line: str) -> LineStatus:
    """Where a line stands, after catching up with anything a killed job left."""
    open_now = waiting(workplace, line)
    head, spec = workplace.store.head(line), read_line(workplace.store.store, line)
    record = holder(workplace.store.store, line)
    return LineStatus(
        line=line,
        model=spec.model if spec else "",
        method=spec.config.method if spec else "",
        in_service=head.version if head else 0,
        waiting=[version.number for version in open_now],
        requests={str(state): count for state, count in workplace.ledger.counts(line).items()},
        running="" if record is None or record.is_free() else f"process {record.pid} on {record.host}",
    )
