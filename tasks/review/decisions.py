"""Decisions about versions: put one in service, refuse what waits, go back.

A decision is a move of HEAD by compare-and-swap, so of two that are made at once one is refused: HEAD moved. Events
and aliases follow from HEAD; killed in between, the next decision or job completes them.
"""

from dataclasses import dataclass
from typing import Literal

from editing.errors import UsageError
from tasks.ledger.catching_up import catch_up
from tasks.ledger.errors import LedgerError
from tasks.ledger.view import LineView
from tasks.review.aliases import sync_aliases
from tasks.stores.errors import StorageError
from tasks.stores.manifest import Head, Version
from tasks.tracking.errors import TrackingError
from tasks.workplace import Workplace


@dataclass(frozen=True)
class Decision:
    """What was decided: the versions concerned, HEAD afterwards, and why ledger or MLflow do not say so yet, if so."""

    versions: tuple[int, ...]
    head: Head
    warning: str = ""


def approve(workplace: Workplace, line: str, version: int | None = None, reason: str = "") -> Decision:
    """Put a waiting version in service, with those it builds on; the newest unless one is named.

    Raises:
        UsageError: nothing waits, or not that version.
        HeadMoved: somebody else decided in the meantime.
    """
    view = _caught_up(workplace, line)
    chosen = [v for v in _waiting(view, version) if version is None or v.number <= version]
    return _move(workplace, view, "promote", chosen[-1], reason, tuple(v.number for v in chosen))


def reject(workplace: Workplace, line: str, version: int | None = None, reason: str = "") -> Decision:
    """Refuse what waits: all of it, or a version and everything built on it. What is in service stays.

    Raises:
        UsageError: nothing waits, or not that version, or no reason is given.
        HeadMoved: somebody else decided in the meantime.
    """
    if not reason.strip():
        raise UsageError("a rejection needs a reason: it stands in the ledger for whoever asks later")
    view = _caught_up(workplace, line)
    refused = tuple(v.number for v in _waiting(view, version) if version is None or v.number >= version)
    serving = view.by_snapshot[view.serving] if view.serving else None
    return _move(workplace, view, "reject", serving, reason, refused)


def roll_back(workplace: Workplace, line: str, to: int | None = None, reason: str = "") -> Decision:
    """Put an earlier version back in service (0: the base); the one before the present HEAD unless one is named.

    A version that was rolled back can be put back in service the same way.

    Raises:
        UsageError: nothing was ever in service, or the version never was.
        HeadMoved: somebody else decided in the meantime.
    """
    view = _caught_up(workplace, line)
    served = {head.version for head in workplace.store.heads(line)} | view.served
    if view.head is None or served <= {0}:
        raise UsageError(f"line '{line}' has nothing in service, so there is nothing to roll back")
    target = (view.head.previous or 0) if to is None else to
    if target == view.head.version:
        raise UsageError(f"version {target} of line '{line}' is in service already")
    if target not in served | {0}:
        raise UsageError(
            f"version {target} of line '{line}' was never in service; "
            f"choose one of {', '.join(str(number) for number in sorted(served | {0}))}"
        )
    return _move(workplace, view, "rollback", view.versions[target] if target else None, reason, (target,))


def _caught_up(workplace: Workplace, line: str) -> LineView:
    return catch_up(workplace.store, workplace.ledger, line, workplace.settings.who)


def _waiting(view: LineView, version: int | None) -> list[Version]:
    """The versions that wait, `version` among them if it is given."""
    if not view.waiting:
        raise UsageError(f"nothing waits for review on line '{view.line}'; run `errata run {view.line}` first")
    numbers = [v.number for v in view.waiting]
    if version is not None and version not in numbers:
        raise UsageError(
            f"version {version} of line '{view.line}' does not wait for review; {', '.join(map(str, numbers))} do"
        )
    return view.waiting


def _move(
    workplace: Workplace, view: LineView, action: Literal["promote", "rollback", "reject"], goal: Version | None,
    reason: str, versions: tuple[int, ...],
) -> Decision:  # fmt: skip
    """HEAD first, then the events, then the aliases; those follow from HEAD, so a decision stands without them."""
    head = workplace.store.move_head(
        view.line,
        goal,
        view.head,
        action,
        workplace.settings.who,
        reason,
        rejected=versions if action == "reject" else (),
    )
    warning, again = "", f"`errata run {view.line}` or the next decision will"
    try:
        _caught_up(workplace, view.line)
        sync_aliases(workplace.tracker(), workplace, view.line)
    except (LedgerError, StorageError) as error:
        warning = f"HEAD was moved, and the ledger and MLflow do not say so yet ({error}); {again}"
    except TrackingError as error:
        warning = f"MLflow's aliases were not updated ({error}); {again}"
    return Decision(versions, head, warning)
