"""The review of one version: a form in Prefect that a person fills in, whenever they do.

The run suspends: its process ends, and after the form is filled in another one starts the flow from the top. So what
was answered is read from the server at each start, the last answer counts, and a refused one is asked again.
Time is kept by `watch` and not by Prefect, which marks a pause that expires as failed and runs none of our code.
"""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed, Scheduled
from pydantic import Field

from editing.edit import shown
from editing.errors import ErrataError, UsageError
from tasks.ledger.view import look
from tasks.progress import note
from tasks.review import decisions, retracting
from tasks.review.decided import By, decided
from tasks.review.description import description
from tasks.review.forms import FLOW, prefect_answers
from tasks.review.pending import carry_out
from tasks.settings import load_settings
from tasks.stores.errors import HeadMoved
from tasks.text import REASON_LENGTH
from tasks.workplace import Workplace, open_workplace

MOST_INPUTS = 3000
"""Three a form: its text, its fields, what was filled in."""
MOST_RUNS = 5
"""A review that died is started again, but not for ever."""
SAVED_WITHIN = timedelta(minutes=1)
"""A run that is suspended for longer and has no form was killed before it could save it."""


class ReviewForm(RunInput):
    """What a reviewer fills in."""

    decision: Literal["approve", "reject"] = Field(
        description="Put it in service, or refuse it. The arrow on the right opens the choice."
    )
    leave_out: str = Field(
        "",
        title="Leave out",
        description="With approve: requests to leave out, by the ids in the list above, separated by commas or line "
        "breaks. Nothing comes into service then; the next job makes the version without them, and it waits for you.",
    )
    comment: str = Field(
        "", max_length=REASON_LENGTH, description="Why. A rejection needs it; it stands in the ledger."
    )
    reviewer: str = Field("", description="Your name, as the ledger shall have it. Nobody checks it.")


@flow(name=FLOW, flow_run_name="{line} v{version}", persist_result=True, result_serializer="json")
def review(line: str = "main", version: int = 1) -> State[Any]:
    """Ask a person whether a version is to be put in service.

    Args:
        line: The line.
        version: The version that waits, by the line's own number.

    Killed at any point it can be started again: what was answered stands on the server.

    Raises:
        ObjectNotFound: the line has no such version.
    """
    workplace = open_workplace()
    stored = workplace.store.version(line, version)
    answers, refused = _answers(), ""
    if answers:
        said, refused = decide(workplace, line, version, answers[-1])
        if said:
            return _ended(said)
    try:
        for text in carry_out(workplace, line):
            note(text)
    except ErrataError as error:  # a person can decide without MLflow
        note(str(error), "warning")
    view = look(workplace.store, workplace.ledger, line)
    if version not in {one.number for one in view.waiting}:
        found = decided(workplace.store, view, version)
        return _ended(found.sentence if found else f"version {version} of line '{line}' does not wait")
    below = [one for one in view.waiting if one.number < version]
    form = ReviewForm.with_initial_data(description=description(workplace, stored, below, refused))
    # A key of its own for each time: whatever was suspended before and died, this one waits for an answer.
    suspend_flow_run(wait_for_input=form, key=uuid.uuid4().hex)
    raise AssertionError("a suspended run goes on from the top")


def decide(workplace: Workplace, line: str, version: int, answer: dict[str, Any]) -> tuple[str, str]:
    """Decide as the form says: (what came of it, nothing), or (nothing, why it is asked again)."""
    comment = str(answer.get("comment") or "").strip()
    by = By(str(answer.get("reviewer") or "").strip() or "a person in Prefect", "Prefect's form")
    if leave_out := str(answer.get("leave_out") or "").strip():
        if answer.get("decision") != "approve":
            return "", f"{shown(leave_out)} can be left out of an approval alone: choose approve, or empty that field"
        return _leave_out(workplace, (line, version), leave_out, comment, by)
    do = decisions.approve if answer.get("decision") == "approve" else decisions.reject
    try:
        done = do(workplace, line, version, comment, by)
    except decisions.AlreadyDecided as error:
        return f"not carried out: {error}", ""
    except (UsageError, HeadMoved) as error:
        return "", str(error)
    if done.warning:
        note(done.warning, "warning")
    verb = "approved" if do is decisions.approve else "rejected"
    return done.done_before or f"version {version} of line '{line}' {verb} by {by.actor}", ""


def _leave_out(workplace: Workplace, of: tuple[str, int], text: str, comment: str, by: By) -> tuple[str, str]:
    line, version = of
    try:
        told = retracting.leave_out(workplace, line, retracting.ids_in(workplace, line, text), comment, by, version)
    except decisions.AlreadyDecided as error:
        return f"not carried out: {error}", ""
    except UsageError as error:
        return "", str(error)
    return f"nothing came into service yet; the next job makes the version without: {'; '.join(told.sentences)}", ""


def request_review(line: str, version: int, snapshot: str) -> None:
    """Have Prefect ask for a decision on a version, once, where a server has the deployment `review/LINE`.

    Called again it changes nothing, but that a review which died is started anew.
    """
    load_settings()  # where the server is
    if not prefect_answers():
        return
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(f"{FLOW}/{line}")
        except ObjectNotFound:
            return
        for number in range(MOST_RUNS):
            run = client.create_flow_run_from_deployment(
                deployment.id,
                parameters={"line": line, "version": version},
                idempotency_key=f"{line} {version} {snapshot} {number}",
            )
            if run.state is None or run.state.type not in (StateType.FAILED, StateType.CRASHED):
                _revive(client, run)
                return


def _revive(client: SyncPrefectClient, run: FlowRun) -> None:
    """Start a suspended run again that was killed before its form was saved: nobody could ever fill it in."""
    state = run.state
    if state is None or state.type != StateType.PAUSED or datetime.now(UTC) - state.timestamp < SAVED_WITHIN:
        return
    keys = state.state_details.run_input_keyset or {}
    if not client.filter_flow_run_input(run.id, keys.get("schema", ""), limit=1, exclude_keys=set()):
        client.set_flow_run_state(run.id, Scheduled(name="Resuming"), force=True)


def _answers() -> list[dict[str, Any]]:
    """What was filled in so far, oldest first, as the server has it."""
    run_id = flow_run.id
    if run_id is None:
        return []
    with get_client(sync_client=True) as client:
        found = client.filter_flow_run_input(UUID(run_id), "suspended-", limit=MOST_INPUTS, exclude_keys=set())
    answers = [one for one in found if one.key.endswith("-response")]
    return [json.loads(one.value) for one in sorted(answers, key=lambda one: str(one.created))]


def _ended(said: str) -> State[Any]:
    note(said)
    return Completed(name="Decided", message=said)
