"""Decisions about versions: put one in service, refuse what waits, go back.

Whichever way a decision comes (command line, Prefect's form, a tag or a review queue in MLflow, time), it is one of
these three functions. A decision is a move of HEAD by compare-and-swap, so of two that are made at once one is refused,
and told who was faster. Events, aliases, tags and closed forms follow from HEAD; killed in between, the next decision,
job or look of `watch` completes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from editing.errors import UsageError
from tasks.ledger.catching_up import catch_up
from tasks.ledger.errors import LedgerError
from tasks.ledger.removals import take_out_again
from tasks.ledger.view import LineView, chain, look
from tasks.lines.rules import check_not_frozen, read_rules
from tasks.lines.stored import check_known
from tasks.review.aliases import sync_aliases
from tasks.review.decided import By, Decided, before_first, check_there, choice, decided
from tasks.review.forms import close_reviews
from tasks.review.leaving import back_again, check_left_out, check_said, check_taken_out, check_whole, taken_out
from tasks.review.telling import record, tell_decision
from tasks.review.votes import votes
from tasks.stores.errors import HeadMoved, StorageError
from tasks.stores.manifest import Head, Version
from tasks.stores.snapshots import SnapshotStore
from tasks.text import check_length
from tasks.tracking.errors import TrackingError
from tasks.workplace import Workplace

__all__ = ["AlreadyDecided", "By", "Decision", "NotInService", "approve", "reject", "roll_back", "take_back"]

Action = Literal["promote", "rollback", "reject"]
_TRIES = 5


class AlreadyDecided(UsageError):
    """Somebody else was first; the message says who, when and how."""


class NotInService(UsageError):
    """What was to be taken out of service is out of it already, or was in between."""


@dataclass(frozen=True)
class Decision:
    """What was decided: the versions concerned, HEAD afterwards, and why ledger or MLflow do not say so yet, if so."""

    versions: tuple[int, ...]
    head: Head
    warning: str = ""
    queued: Mapping[str, str] = field(default_factory=dict)
    """The facts that it brings back and the next job takes out again, each with its removal."""
    done_before: str = ""
    """Not empty: the same was decided in the same way before, and says so; nothing was moved."""


def approve(
    workplace: Workplace, line: str, version: int | None = None, reason: str = "", by: By | None = None
) -> Decision:
    """Put a waiting version in service, with those it builds on; the newest unless one is named.

    Raises:
        UsageError: nothing waits, not that version, the line is frozen, two reviewers have to approve, a reviewer left
            out a fact that it holds, or the reason is too long; so of all that take one.
        AlreadyDecided: the version was decided otherwise, or by somebody else.
        HeadMoved: somebody else decided in the meantime.
    """
    check_length(reason)
    view, by = _to_decide(workplace, line), by or By(workplace.settings.who)
    if (before := _before(workplace, view, version, "approved", by)) is not None:
        return before
    chosen = [v for v in _waiting(view, version) if version is None or v.number <= version]
    for one in chosen:  # those that it builds on come into service with it
        _check_rules(workplace, line, one)
    check_whole(view, chosen[-1])
    check_left_out(view, chosen[-1])
    return carry_out(workplace, view, "promote", chosen[-1], reason, tuple(v.number for v in chosen), by)


def check_waits(workplace: Workplace, line: str, version: int | None) -> None:
    """Raises as `approve` where nothing waits, or not that version, or it was decided."""
    view = _to_decide(workplace, line)
    if version is not None and (found := decided(workplace.store, view, version)) is not None:
        raise AlreadyDecided(_told(workplace.store, view, found))
    _waiting(view, version)


def reject(
    workplace: Workplace, line: str, version: int | None = None, reason: str = "", by: By | None = None,
    newest: int | None = None,
) -> Decision:  # fmt: skip
    """Refuse what waits: all of it, or a version and everything built on it. What is in service stays.

    Args:
        newest: Only while this is the newest that waits: what came later is not refused with it unseen.

    Raises:
        UsageError: nothing waits, or not that version, or no reason is given, or something newer than `newest` waits.
        AlreadyDecided: the version was decided otherwise, or by somebody else.
        HeadMoved: somebody else decided in the meantime.
    """
    if not check_length(reason).strip():
        raise UsageError("a rejection needs a reason: it stands in the ledger for whoever asks later")
    view, by = _to_decide(workplace, line), by or By(workplace.settings.who)
    if (before := _before(workplace, view, version, "rejected", by)) is not None:
        return before
    refused = tuple(v.number for v in _waiting(view, version) if version is None or v.number >= version)
    if newest is not None and refused[-1] != newest:
        raise UsageError(f"version {refused[-1]} of line '{line}' waits by now, too")
    serving = view.by_snapshot[view.serving] if view.serving else None
    return carry_out(workplace, view, "reject", serving, reason, refused, by)


def roll_back(
    workplace: Workplace, line: str, to: int | None = None, reason: str = "", by: By | None = None,
    with_retracted: bool = False, without_retracted: bool = False,
) -> Decision:  # fmt: skip
    """Put an earlier version back in service (0: the base); the one before the present HEAD unless one is named.

    A version that was rolled back can be put back in service by its number. Without one nobody goes forward, such as
    who rolls back what somebody else has rolled back a minute ago. A frozen line can be rolled back, too, but not
    forward again: what is frozen is what comes in, not the way out.

    Args:
        with_retracted: Also where it holds facts that were taken out since.
        without_retracted: The same, and these are to be taken out again: the next job makes the version without.

    Raises:
        UsageError: nothing was ever in service, or the version never was, or it is a newer one of a frozen line, or it
            holds facts that were taken out since and neither is said, or both are, or the second without a reason.
        HeadMoved: somebody else decided in the meantime.
        Forgotten: what the version consists of was taken away.
    """
    check_said(with_retracted, without_retracted, reason)
    view, by = _to_decide(workplace, line), by or By(workplace.settings.who)
    heads = workplace.store.heads(line)
    served = {one.version for snapshot in {head.snapshot for head in heads} for one in chain(view, snapshot)}
    served |= {head.version for head in heads}
    if view.head is None or served <= {0}:
        raise UsageError(f"line '{line}' has nothing in service, so there is nothing to roll back")
    target = (view.head.previous or 0) if to is None else to
    check_there(workplace.store, view, target, served)
    if to is None and target > view.head.version:
        raise UsageError(
            f"version {target} of line '{line}' was taken out of service by {view.head.actor}: name the version that "
            f"is to serve now (--to {target} puts it back, a smaller number goes further back)"
        )
    if target == view.head.version:
        raise UsageError(f"version {target} of line '{line}' is in service already")
    if target not in served | {0}:
        other = choice(workplace.store, view, served)
        raise UsageError(f"version {target} of line '{line}' was never in service; {other}")
    if target > view.head.version:
        check_not_frozen(workplace.store.store, line)
    goal, queued = view.versions[target] if target else None, dict[str, str]()
    if goal:
        check_whole(view, goal)
        if without_retracted:
            queued = take_out_again(workplace.ledger, view, taken_out(view, goal), by.actor, reason.strip())
        elif not with_retracted:
            check_taken_out(view, goal)
    return replace(carry_out(workplace, view, "rollback", goal, reason, (target,), by), queued=queued)


def take_back(
    workplace: Workplace, line: str, version: int, since: int | None = None, reason: str = "", by: By | None = None
) -> Decision:
    """Take a version out of service because something is wrong with it: what was there before it first came serves.

    Not what HEAD calls the one before: after a rollback that is the version which was taken back, and of two breaches
    in a row the second one would bring the first back.

    Args:
        since: The sequence of the HEAD that it was found wrong in: it has to be in service without a break from there.

    Raises:
        NotInService: it is not.
        HeadMoved: others moved HEAD each time, and the version is in service still.
    """
    by = by or By(workplace.settings.who)
    for _ in range(_TRIES):
        view = _caught_up(workplace, line)
        past = [head for head in workplace.store.heads(line) if head.sequence <= view.sequence]
        held = [head.version for head in past if since is not None and head.sequence >= since]
        if view.head is None or not version or {view.head.version, *held} != {version} or view.sequence < (since or 0):
            raise NotInService(f"version {version} of line '{line}' is not in service")
        target = before_first(workplace.store, view, past, version)
        goal = view.versions[target] if target else None
        reason_told = "; ".join(filter(None, (reason, back_again(view, goal))))
        try:
            return carry_out(workplace, view, "rollback", goal, reason_told, (target,), by)
        except HeadMoved as error:  # perhaps by a rejection, which leaves it in service
            moved = error
    raise moved


def _to_decide(workplace: Workplace, line: str) -> LineView:
    """Where a line stands that somebody asks about. Raises UsageError where nobody knows it."""
    check_known(workplace.store, workplace.ledger, line)
    return _caught_up(workplace, line)


def _caught_up(workplace: Workplace, line: str) -> LineView:
    return catch_up(workplace.store, workplace.ledger, line, workplace.settings.who)


def _before(
    workplace: Workplace, view: LineView, version: int | None, wanted: Literal["approved", "rejected"], by: By
) -> Decision | None:
    """The same decision on this version by the same way, made before; raises AlreadyDecided where another was."""
    found = None if version is None else decided(workplace.store, view, version)
    if found is None or version is None:
        return None
    same = found.outcome == wanted and (found.head.actor, found.head.way) == (by.actor, by.way)
    if same and (wanted == "rejected" or version in view.served):
        return Decision((version,), view.head or found.head, done_before=found.sentence)
    raise AlreadyDecided(_told(workplace.store, view, found))


def _told(store: SnapshotStore, view: LineView, found: Decided) -> str:
    if found.outcome != "approved" or found.version in view.served:
        return found.sentence
    if (gone := store.forgotten(view.versions[found.version].snapshot)) is not None:
        return f"{found.sentence}; {gone.sentence}"
    back = f"`errata rollback {view.line} --to {found.version}` puts it back"
    return f"{found.sentence}; it is out of service now, {back}"


def _waiting(view: LineView, version: int | None) -> list[Version]:
    """The versions that wait, `version` among them if it is given."""
    if not view.waiting:
        head = view.head
        way = f", {head.way}" if head and head.way else ""
        last = f" ({head.actor} decided at {head.moved:%Y-%m-%d %H:%M:%S} UTC{way})" if head else ""
        raise UsageError(f"nothing waits for review on line '{view.line}'{last}; run `errata run {view.line}` first")
    numbers = [v.number for v in view.waiting]
    if version is not None and version not in numbers:
        raise UsageError(
            f"version {version} of line '{view.line}' does not wait for review; {', '.join(map(str, numbers))} do"
        )
    return view.waiting


def _check_rules(workplace: Workplace, line: str, version: Version) -> None:
    """Refuse what the rules of the line refuse now."""
    store = workplace.store.store
    check_not_frozen(store, line)
    if read_rules(store, line).reviewers < 2:
        return
    names = [vote.reviewer for vote in votes(store, line, version)]
    if len(names) < 2:
        raise UsageError(
            f"line '{line}' has reviewers = 2, and version {version.number} was approved by "
            f"{names[0] if names else 'nobody'} so far: two people approve it in MLflow's review queue, each signed in"
        )


def carry_out(
    workplace: Workplace, view: LineView, action: Action, goal: Version | None,
    reason: str, versions: tuple[int, ...], by: By, refused: tuple[int, ...] = (),
) -> Decision:  # fmt: skip
    """HEAD first, then the events, then the aliases; those follow from HEAD, so a decision stands without them.

    `refused`: versions that are not wanted beside the one that comes into service.
    """
    rejected = versions if action == "reject" else refused
    try:
        head = workplace.store.move_head(view.line, goal, view.head, action, by.actor, reason, rejected, by.way)
    except HeadMoved as error:
        _explain(workplace, view.line, action, versions, error)
        raise
    warning, again = "", f"`errata run {view.line}` or the next decision will"
    link = ""
    try:
        now, tracker = _caught_up(workplace, view.line), workplace.tracker()
        link = record(tracker, workplace, *sync_aliases(tracker, workplace, view.line, now), about=versions[-1])
    except (LedgerError, StorageError) as error:
        warning = f"HEAD was moved, and the ledger and MLflow do not say so yet ({error}); {again}"
    except TrackingError as error:
        warning = f"MLflow's aliases were not updated ({error}); {again}"
    tell_decision(workplace.settings, head, versions, link)
    close_reviews(workplace, view.line)
    return Decision(versions, head, warning)


def _explain(workplace: Workplace, line: str, action: Action, versions: tuple[int, ...], cause: HeadMoved) -> None:
    """Say who decided on this very version meanwhile, where somebody did."""
    if action == "rollback":
        return
    now = look(workplace.store, workplace.ledger, line)
    asked = versions[-1] if action == "promote" else versions[0]
    if (found := decided(workplace.store, now, asked)) is not None:
        raise AlreadyDecided(_told(workplace.store, now, found)) from cause
