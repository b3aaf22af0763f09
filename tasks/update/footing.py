"""What a job stands on while others decide: where HEAD is, and what becomes of versions that it moved away from."""

from collections.abc import Sequence

from tasks.ledger.catching_up import catch_up
from tasks.ledger.events import Event
from tasks.ledger.view import LineView, chain, look
from tasks.stores.errors import HeadMoved
from tasks.stores.manifest import Version
from tasks.update.run import Footing, Run


def footing(view: LineView) -> Footing:
    """What a job that begins now builds on."""
    return Footing(view.tip, view.sequence, tuple(view.waiting))


def stand_still(run: Run, stand: Footing) -> Footing:
    """The footing as HEAD is now: the same, or further up where HEAD moved up the job's own chain.

    Raises:
        HeadMoved: what the job builds on can no longer be put in service.
    """
    run.lease.renew()
    head = run.workplace.store.head(run.line)
    if (head.sequence if head else 0) == stand.sequence:
        return stand
    view = look(run.workplace.store, run.workplace.ledger, run.line)
    if not view.holds(stand.tip):
        raise away_from(run, view)
    return Footing(stand.tip, view.sequence, tuple(view.waiting))


def away_from(run: Run, view: LineView) -> HeadMoved:
    """What is said when HEAD left what a job builds on."""
    to = f"version {view.head.version} by {view.head.actor}" if view.head else "nothing"
    return HeadMoved(f"HEAD of line '{run.line}' was moved to {to} while this job ran, away from what it builds on")


def requeue(run: Run, made: Sequence[Version]) -> list[str]:
    """Queue again what a job wrote into versions that were never in service and no longer can be; safe to repeat.

    What a person put in service and took out again stays out. Returns the requests that are queued by this call.
    """
    store, ledger = run.workplace.store, run.workplace.ledger
    view = catch_up(store, ledger, run.line, run.actor)
    since = min((version.manifest.based_on or 0 for version in made), default=0)
    served = {one.version for head in store.heads(run.line, since) for one in chain(view, head.snapshot)}
    numbers = {version.number for version in made} - served
    lost = {
        name: standing
        for name, standing in view.events.standings.items()
        if standing.state == "rolled_back" and standing.version in numbers
    }
    reason = "HEAD moved while the job ran that wrote it"
    queued = ledger.append_unchanged(
        [
            Event(request_id=name, event="queued", line=run.line, actor=run.actor, reason=reason)
            for name in sorted(lost)
        ],
        lost,
    )
    return [event.request_id for event in queued]
