"""Facts that people take out of a line, or leave out of the versions that wait. The next job makes the one without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from editing.errors import UsageError
from tasks.ledger.removals import TakenOut, take_out
from tasks.ledger.reserved import REFUSE, RETRACT
from tasks.ledger.view import chain, look
from tasks.lines.stored import check_known
from tasks.review.decided import By
from tasks.review.decisions import check_waits
from tasks.review.leaving import check_reason
from tasks.stores.manifest import members
from tasks.text import check_length
from tasks.workplace import Workplace

LEFT_OUT = "left out by a reviewer"


@dataclass(frozen=True)
class Told:
    """What came of it, as people read it."""

    done: TakenOut
    sentences: tuple[str, ...]


def retract(workplace: Workplace, line: str, requests: Sequence[str], reason: str, by: By | None = None) -> Told:
    """Take facts out of a line: what no version holds is called back at once, the rest leaves with the next job.

    Raises:
        CannotTakeOut: some cannot be, each with its reason; nothing was changed.
        UsageError: no request, no reason, or no such line.
    """
    check_reason(reason)
    return _take_out(workplace, line, requests, reason, by, RETRACT)


def leave_out(
    workplace: Workplace, line: str, requests: Sequence[str], reason: str, by: By | None = None,
    version: int | None = None,
) -> Told:  # fmt: skip
    """Leave facts out of what waits: the next job makes the version without them, the rest is not lost.

    Args:
        version: The one that is decided on; it has to wait, as for an approval.

    Raises:
        CannotTakeOut: one is in no version that waits; nothing was changed.
        AlreadyDecided: the version was decided before.
        UsageError: no request, no such line, or nothing waits, or not that version.
    """
    check_length(reason)
    check_waits(workplace, line, version)
    return _take_out(workplace, line, requests, reason.strip() or LEFT_OUT, by, REFUSE)


def ids_in(workplace: Workplace, line: str, text: str) -> list[str]:
    """The ids that a person wrote, between commas or line breaks. One that the line holds may have commas itself."""
    view = look(workplace.store, workplace.ledger, line)
    known = {" ".join(name.split()): name for name in members(chain(view, view.tip))}  # a form shows one space for many
    found = list[str]()
    for row in text.splitlines():
        pieces = row.split(",")
        while pieces:
            joined = [" ".join(",".join(pieces[:count]).split()) for count in range(len(pieces), 0, -1)]
            name = next((one for one in joined if one in known), joined[-1])  # what nobody knows is refused by name
            found.append(known.get(name, name))
            pieces = pieces[len(pieces) - joined.index(name) :]
    return [name for name in found if name]


def _take_out(
    workplace: Workplace, line: str, requests: Sequence[str], reason: str, by: By | None, prefix: str
) -> Told:
    store, ledger = workplace.store, workplace.ledger
    names = [name.strip() for name in requests if name.strip()]
    if not names:
        raise UsageError("name the requests that are to be taken out, by their ids; errata history shows them")
    check_known(store, ledger, line)
    actor = (by or By(workplace.settings.who)).actor
    done = take_out(store, ledger, line, names, actor, reason.strip(), prefix=prefix)
    said = [f"{name}: withdrawn" for name in done.withdrawn]
    return Told(done, (*said, *removals_said(done.queued)))


def removals_said(queued: Mapping[str, str]) -> list[str]:
    """What is to be taken out by which request, a sentence each."""
    return [f"{name}: to be taken out, by request {removal}" for name, removal in queued.items()]
