"""Decisions as flows: by the forms of Prefect's pages, by `--remote`, by automations. They are moves of HEAD alike."""

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from editing.errors import UsageError
from flows.endings import ended_well
from tasks.progress import note
from tasks.retries import outlasting
from tasks.review import decisions, retracting
from tasks.review.decided import By
from tasks.review.decisions import Decision
from tasks.runlog import told_to_prefect
from tasks.text import REASON_LENGTH
from tasks.workplace import open_workplace

Said = Annotated[str, Field(min_length=1, max_length=REASON_LENGTH)]
"""Text that must be given."""
Why = Annotated[str, Field(max_length=REASON_LENGTH)]
Named = Annotated[list[Said], Field(min_length=1, max_length=1000)]
"""Requests, by their ids."""
Number = Annotated[int, Field(ge=0)]


@flow(name="approve", flow_run_name="{line}", persist_result=False)
@ended_well
def approve(
    line: str, reviewer: Said, version: Number | None = None, reason: Why = "", leave_out: list[str] | None = None
) -> State[None]:
    """Put a waiting version in service, with those it builds on.

    Args:
        line: The line: one served model.
        reviewer: Who decides, as the ledger will name it.
        version: Which version; left empty, the newest that waits.
        reason: Why; it stands in the ledger.
        leave_out: Requests to leave out: then nothing comes into service, and the next job makes it without them.
    """
    with told_to_prefect(""):
        if leave_out:
            return _told(retracting.leave_out(open_workplace(), line, leave_out, reason, _by(reviewer), version))
        return _done("approved", line, decisions.approve(open_workplace(), line, version, reason, _by(reviewer)))


@flow(name="reject", flow_run_name="{line}", persist_result=False)
@ended_well
def reject(line: str, reviewer: Said, reason: Said, version: Number | None = None) -> State[None]:
    """Refuse what waits: all of it, or a version and those built on it. What is in service stays.

    Args:
        line: The line: one served model.
        reviewer: Who decides, as the ledger will name it.
        reason: Why; it stands in the ledger for whoever asks later.
        version: Which version; left empty, all that wait.
    """
    with told_to_prefect(""):
        return _done("rejected", line, decisions.reject(open_workplace(), line, version, reason, _by(reviewer)))


@flow(name="retract", flow_run_name="{line}", persist_result=False)
@ended_well
def retract(line: str, reviewer: Said, requests: Named, reason: Said) -> State[None]:
    """Take facts out of a line. What no version holds is withdrawn at once, the rest leaves with the next job.

    Args:
        line: The line: one served model.
        reviewer: Who asks for it, as the ledger will name it.
        requests: Which, by their ids.
        reason: Why; it stands in the ledger for whoever asks later.
    """
    with told_to_prefect(""):
        return _told(retracting.retract(open_workplace(), line, requests, reason, _by(reviewer)))


@flow(name="rollback", flow_run_name="{line}", persist_result=False)
@ended_well
def rollback(
    line: str, reviewer: Said, to: Number | None = None, reason: Why = "", serving: Number | None = None,
    since: Number | None = None, with_retracted: bool = False, without_retracted: bool = False,
) -> State[None]:  # fmt: skip
    """Serve an earlier version again.

    Args:
        line: The line: one served model.
        reviewer: Who decides, as the ledger will name it.
        to: The version to serve again, 0 for the base; left empty, the one that was in service before.
        reason: Why; it stands in the ledger.
        serving: Take this version out of service, if it is in service; then `to` is left empty.
        since: With `serving`: only if it is in service without a break since the HEAD of this number.
        with_retracted: Also if that version holds what was taken out or replaced since.
        without_retracted: The same, and that is to be taken out again: the next job makes the version without it.
    """
    held = {"with_retracted": with_retracted, "without_retracted": without_retracted}
    with told_to_prefect(""):
        workplace, by = open_workplace(), _by(reviewer)
        if serving is None:
            return _done("back to", line, decisions.roll_back(workplace, line, to, reason, by, **held))
        if to is not None:
            raise UsageError(f"to = {to} and serving = {serving} cannot both be given: leave one of them empty")
        try:
            # Asked for by an automation, once: nobody would repeat it.
            back = outlasting(
                lambda: decisions.take_back(workplace, line, serving, since, reason, by), workplace.may_be_away
            )
            return _done("back to", line, back)
        except decisions.NotInService as error:
            return Completed(message=f"nothing to do: {error}")


def _by(reviewer: str) -> By:
    """Whoever asked for the run. What is blank is no name, and the worker's own must not stand for it."""
    return By(reviewer.strip() or "a person in Prefect", "run in Prefect")


def _told(told: retracting.Told) -> State[None]:
    for sentence in told.sentences:
        note(sentence)
    return Completed(message="; ".join(told.sentences)[:1000])


def _done(verb: str, line: str, decision: Decision) -> State[None]:
    numbers = ", ".join(str(number) for number in decision.versions)
    serving = f"version {decision.head.version}" if decision.head.version else "the base"
    said = f"{verb} version {numbers} of line {line}; in service: {serving}"
    note(said)
    for sentence in retracting.removals_said(decision.queued):
        note(sentence)
    if decision.warning:
        note(decision.warning, "warning")
    return Completed(message=said)
