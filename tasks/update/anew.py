"""When a job makes its line anew from the base, and when the line takes nothing more.

It begins with a root where facts leave, and ends with one where many versions stand on each other.
"""

from collections.abc import Mapping
from dataclasses import replace

from editing.config import LocatingConfig, MethodConfig
from editing.errors import UsageError
from tasks.ledger.events import Event
from tasks.ledger.view import LineView, chain
from tasks.progress import note
from tasks.retries import RETRIES
from tasks.stores.manifest import members
from tasks.update.journal import Journal
from tasks.update.root_verdict import ask_line, what_is_full
from tasks.update.roots import ROOT, check_known, make_root
from tasks.update.run import Batch, Footing, Judged, Leaving, Reference, Run, Taken
from tasks.update.session import Session
from tasks.update.stages import quarantine_events
from tasks.update.steps import run_step
from tasks.update.verdicts import Verdict

REBASE_EVERY = 10
"""Versions on each other at which a line is made anew where its policy says nothing: a hundred facts of whole batches.
Batches leave the facts before them a little less right each time; together they hold as each alone does."""


def check_facts(view: LineView, taken: Taken, *, anew: bool) -> None:
    """Raises UsageError, before anything is loaded, where the line is to be made anew and the ledger lacks a fact."""
    if anew or taken.removals or taken.replaced:
        check_known(view.line, members(chain(view, view.tip)), taken.known)


def begin(
    run: Run, session: Session, given: tuple[Footing, Taken, Reference], journal: Journal, *, anew: bool = False
) -> tuple[Footing, Taken]:
    """What the batches of a job stand on, and what they are of: after a root, where facts leave.

    `anew`: it is asked for. What kept its fact from leaving is quarantined, and no longer among what is written.

    Raises:
        UsageError: as `make_root`.
    """
    stand, taken, reference = given
    leaving = Leaving(taken.removals, taken.replaced)
    if not (session.live and (anew or leaving)):
        return stand, taken
    found = make_root(run, session, (stand, taken, reference), leaving, journal)
    if not found.refused:
        return found.stand, taken
    written = [edit for edit in taken.edits if edit.id in found.refused]
    judged = [Judged(Batch("0", (edit,)), found.refused[edit.id]) for edit in written]
    events = [event for one in judged for event in quarantine_events(run, one)]
    events += _refusals(run, {name: found.refused[name] for name in found.refused.keys() & taken.removals.keys()})
    run_step("quarantine", lambda: run.workplace.ledger.append_possible(events), about=ROOT, retries=RETRIES)
    for one in judged:
        journal.quarantined(one, "")
    return found.stand, replace(taken, edits=tuple(edit for edit in taken.edits if edit.id not in found.refused))


def end(run: Run, session: Session, given: tuple[Footing, Taken, Reference], journal: Journal) -> Footing:
    """What a job leaves the line standing on: a root, where it wrote something and one is due.

    What was written stays, whatever keeps the line from being made anew.
    """
    stand, every = given[0], rebase_every(session.config, run.policy.rebase_every)
    standing = run.workplace.store.chain(stand.tip) if every else []
    if len(standing) < max(every, 2) or standing[-1].flow_run_id != run.flow_run_id:
        return stand
    try:
        return make_root(run, session, given, Leaving(), journal).stand
    except UsageError as error:
        note(str(error), "warning")
        return stand


def rebase_every(config: MethodConfig, given: int | None) -> int:
    """Versions on each other at which a line is made anew, by what its policy gives; 0: never."""
    if given is not None:
        return given
    # What has no values is written anew batch by batch as it was, no better, at all that it cost.
    return REBASE_EVERY if isinstance(config, LocatingConfig) else 0


def fitting(run: Run, session: Session, taken: Taken, reference: Reference, journal: Journal) -> Taken:
    """What can be written: no more than takes another fact's place where the line already misses what its policy wants.

    No request is to blame for that. What takes a place adds none, and without it nobody would have either.
    """
    if not (session.live and taken.edits):
        return taken
    live = [taken.known[name] for name in session.live if name in taken.known]
    rows = what_is_full(ask_line(session, live, reference, run.policy), run.policy)
    if not rows:
        return taken
    journal.full(rows)
    heirs = {*taken.replaced.values()}
    return replace(taken, edits=tuple(edit for edit in taken.edits if edit.id in heirs))


def _refusals(run: Run, refused: Mapping[str, Verdict]) -> list[Event]:
    """What is said of removals: tried, and why their facts stay."""
    return [
        Event(
            request_id=name,
            event=event,
            line=run.line,
            actor=run.actor,
            flow_run_id=run.flow_run_id or None,
            mlflow_run_id=run.mlflow_run_id or None,
            reason="; ".join(verdict.reasons) if event == "quarantined" else None,
        )
        for name, verdict in refused.items()
        for event in ("applied", "quarantined")
    ]
