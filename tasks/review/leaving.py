"""What decisions have to do with facts that leave: none comes back unseen, and none is lost on the way."""

import shlex
from collections.abc import Sequence

from editing.edit import shown
from editing.errors import UsageError
from tasks.ledger.removals import pending_removals
from tasks.ledger.reserved import REFUSE
from tasks.ledger.view import LineView, chain
from tasks.stores.manifest import Version, members, open_replacements
from tasks.text import check_length

NAMED = 5
"""Facts that a message names; the others are counted."""


def taken_out(view: LineView, version: Version | None) -> dict[str, str]:
    """The facts of a version that were taken out or replaced since, and how."""
    held = members(chain(view, version.snapshot)) if version else {}
    standings = view.events.standings
    return {
        name: standings[name].state
        for name in held
        if name in standings and standings[name].state in ("retracted", "superseded", "withdrawn")
    }


def check_taken_out(view: LineView, version: Version) -> None:
    """Raises UsageError where a version would bring back what was taken out: by name, with both ways on."""
    if not (out := taken_out(view, version)):
        return
    told = _named([f"{shown(name)} ({state})" for name, state in out.items()])
    raise UsageError(
        f"version {version.number} of line '{view.line}' holds what was taken out since: {told}; --with-retracted "
        "serves it again, --without-retracted has the next job take it out again"
    )


def check_said(with_retracted: bool, without_retracted: bool, reason: str) -> None:
    """Raises UsageError where what is said of facts that were taken out contradicts itself, or lacks its reason."""
    check_length(reason)
    if with_retracted and without_retracted:
        raise UsageError("with_retracted and without_retracted contradict each other: leave one of them out")
    if without_retracted:
        check_reason(reason)


def check_reason(reason: str) -> None:
    """Raises UsageError where facts are to be taken out and nobody says why."""
    if not check_length(reason).strip():
        raise UsageError("a retraction needs a reason: it stands in the ledger for whoever asks later")


def back_again(view: LineView, version: Version | None) -> str:
    """What a version brings back that was taken out, in a sentence; empty where it is nothing."""
    out = taken_out(view, version)
    return f"brings back what was taken out: {_named([shown(name) for name in out])}" if out else ""


def leaving(view: LineView, version: Version) -> dict[str, str]:
    """The facts that would come into service with a version though the next job is to take them out, and by which."""
    pending, held = pending_removals(view.events.standings), members(chain(view, version.snapshot))
    return {name: pending[name] for name in held if name in pending and name not in view.live}


def _left_out(view: LineView, version: Version) -> dict[str, str]:
    """Those of them that a reviewer left out."""
    return {name: removal for name, removal in leaving(view, version).items() if removal.startswith(REFUSE)}


def leaving_said(view: LineView, version: Version) -> str:
    """In a sentence, what a reviewer left out of a version, so that it cannot be put in service; empty: nothing."""
    out = [shown(name) for name in _left_out(view, version)]
    return f"to be left out: {_named(out)}; errata run {view.line} makes the version without" if out else ""


def check_left_out(view: LineView, version: Version) -> None:
    """Raises UsageError where a version would bring into service what a reviewer left out."""
    if not (out := _left_out(view, version)):
        return
    raise UsageError(
        f"version {version.number} of line '{view.line}' holds what a reviewer left out: "
        f"{_named([shown(name) for name in out])}; errata run {view.line} makes the version without, or take that "
        f"back: errata retract {shlex.join(out.values())} --line {view.line} --reason …"
    )


def check_whole(view: LineView, version: Version) -> None:
    """Refuse a version that takes a fact out and lacks what is to replace it. Raises UsageError."""
    manifests = chain(view, version.snapshot)
    held = members(manifests)
    if version in view.waiting:
        manifests = [one.manifest for one in view.waiting if one.number <= version.number]
    for old, new in open_replacements(manifests).items():
        if old not in held and new not in held:
            raise UsageError(
                f"version {version.number} of line '{view.line}' takes out {shown(old)} and lacks {shown(new)}, which "
                f"replaces it: choose a later version, or errata run {view.line} writes it"
            )


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
