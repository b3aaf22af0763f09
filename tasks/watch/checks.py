"""What can be seen of a line without its model: its queue, who holds it, and whether MLflow says what HEAD says."""

from datetime import UTC, datetime

from tasks.courses import duration
from tasks.ledger.choosing import left_for_later, open_since
from tasks.ledger.view import LineView
from tasks.review.aliases import aliases_of, sync_aliases
from tasks.stores.lease import holder
from tasks.watch.findings import Finding
from tasks.watch.policy import WatchPolicy
from tasks.workplace import Workplace

HOUR = 3600.0


def check_queue(workplace: Workplace, view: LineView, policy: WatchPolicy) -> tuple[dict[str, float], list[Finding]]:
    """How many requests are queued, and for how long a job could have taken them up."""
    if not any(standing.state == "queued" for standing in view.events.standings.values()):
        return {"queued": 0.0, "queue_hours": 0.0}, []
    queued = workplace.ledger.queued(view.line)
    left = left_for_later(workplace.ledger, view, queued)
    waiting = [request for request in queued if request.request_id not in left]
    now = datetime.now(UTC)
    waited = (now - min(map(open_since, waiting), default=now)).total_seconds()
    numbers = {"queued": float(len(queued)), "queue_hours": waited / HOUR}
    if waited <= policy.queue_hours * HOUR:
        return numbers, []
    count = "1 request waits" if len(waiting) == 1 else f"{len(waiting)} requests wait"
    text = (
        f"{count} for a job, the oldest for {duration(waited)}, queue_hours is "
        f"{policy.queue_hours:g}: look why no job takes them, or errata run {view.line}"
    )
    return numbers, [Finding(kind="queue", weight="late", text=text)]


def check_lease(workplace: Workplace, line: str) -> list[Finding]:
    """A job that is gone and did not give the line back: what it left waits for the next one."""
    record = holder(workplace.store.store, line)
    if record is None or record.released or not record.is_free():
        return []
    run = f", flow run {record.flow_run_id}" if record.flow_run_id else ""
    text = (
        f"the job of process {record.pid} on '{record.host}'{run} since {record.started:%Y-%m-%d %H:%M} UTC is gone "
        f"and did not end: the next job goes on from what it committed, errata run {line}"
    )
    return [Finding(kind="lease", weight="late", about=record.owner[:12], text=text)]


def check_aliases(workplace: Workplace, view: LineView) -> list[Finding]:
    """MLflow's aliases, made to follow from HEAD again where they do not.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    if not view.versions:
        return []
    tracker = workplace.tracker()
    said = tracker.aliases(view.line)
    now = aliases_of(sync_aliases(tracker, workplace, view.line).view)  # of HEAD as it is when they are set
    wanted = {alias: number for alias, number in now.items() if number is not None}
    if said == wanted:
        return []
    shown = (", ".join(f"{alias} {number}" for alias, number in one.items()) or "none" for one in (said, wanted))
    text = "MLflow's aliases were {} and follow from HEAD again: {}".format(*shown)
    return [Finding(kind="aliases", weight="repaired", text=text)]
