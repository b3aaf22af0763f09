"""The main job: take queued corrections, write them in batches of at most ten, keep only what validates, register."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from editing.edit import Edit
from flows.endings import announced, compact, ended_well, left_waiting, mlflow_status, set_aliases, show_summary
from tasks.ledger.catching_up import catch_up
from tasks.ledger.view import LineView, chain
from tasks.lines.rules import check_not_frozen
from tasks.lines.specs import Template, resolve_line
from tasks.progress import note, progress, stage
from tasks.report.data import JobReport, Moved
from tasks.report.verdict import headline
from tasks.retries import RETRIES, outlasting
from tasks.stores.errors import HeadMoved
from tasks.stores.lease import acquire
from tasks.stores.manifest import Version
from tasks.tracking.client import Tracker
from tasks.tracking.errors import TrackingError, TrackingUnavailable
from tasks.tracking.steps import StepLog
from tasks.update import footing, stages, team
from tasks.update.ability_files import settled
from tasks.update.ahead import searched_elsewhere
from tasks.update.anew import begin, check_facts, end, fitting
from tasks.update.evaluation import Candidate, Champion, edits_of, job_report, measure_champion
from tasks.update.journal import JobSummary, Journal
from tasks.update.policy import Policy
from tasks.update.reference import ask_base
from tasks.update.run import Batch, Footing, Reference, Run, Taken, batches_of, read_texts
from tasks.update.session import Session
from tasks.update.steps import run_step
from tasks.update.tracked import batch_curve, register_candidate, start_tracking
from tasks.update.writer import Writer
from tasks.workplace import Workplace, open_workplace


@flow(name="knowledge-update", flow_run_name="{line}", persist_result=False)
@ended_well
def knowledge_update(
    line: str = "main",
    policy: Policy = Policy(),  # noqa: B008  # frozen
    limit: int | None = None,
    text: Path | None = None,
    statistics_text: Path | None = None,
    only: list[str] | None = None,
    model: str | None = None,
    dtype: str | None = None,
    template: Template | None = None,
    system: str | None = None,
    join: str | None = None,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> JobSummary:
    """Correct the queued facts of a line.

    Args:
        line: The line to update; it is created on first use from the settings.
        policy: Batch size, thresholds of validation, and what is done where they are breached.
        limit: Most requests to take up; none, all that wait.
        text: File of text for perplexity (plain, or Parquet with a column `text`) where the job is; none, sampled text.
        statistics_text: File of text for the key statistics; none, text that the base model sampled itself.
        only: Take up these requests alone, by their ids; none, all that wait.
        model: Base of a new line, where it differs from the settings.
        dtype: dtype of a new line's weights, where it differs from the settings.
        template: How a new line's facts are asked: `raw`, or in a `chat` as well; none, `auto`, where there is one.
        system: System message of a new line's chat; none, what the template says by itself.
        join: What joins a new line's prompts and answers: `none`, `space` or `line`; none given, by rule.
        method: Method of a new line; none, memit.
        options: Options of a new line's method; mend's `hypernetwork` is a file, an MLflow version, or in the store.

    Killed at any point it can be started again: what was committed is not repeated, what was not is still queued.

    Raises:
        LineBusy: another job works on the line.
        HeadMoved: HEAD was moved away from what the job builds on; its requests are queued again.
    """
    definition: dict[str, Any] = {"model": model, "dtype": dtype, "template": template, "join": join}
    definition |= {"system": system, "method": method, "options": options}
    return announced(line, "edits", lambda: job(line, policy, limit, (text, statistics_text), definition, only=only))


def job(
    line: str,
    policy: Policy,
    limit: int | None,
    files: tuple[Path | None, Path | None],
    definition: dict[str, Any],
    *,
    anew: bool = False,
    only: Sequence[str] | None = None,
    moved: Moved | None = None,
) -> JobSummary:
    """The work of the flow; `anew`: the line is made anew from the base, whatever is queued. `moved`: the facts of
    another line that are queued for it. Raises as it does."""
    team.check_workers(policy)
    workplace = open_workplace()
    texts, statistics_texts, policy = *(read_texts(file) for file in files), settled(policy)
    store, settings, away = workplace.store.store, workplace.settings, workplace.may_be_away
    spec = outlasting(lambda: resolve_line(store, settings, line, **definition), away)
    outlasting(lambda: check_not_frozen(store, line), away)
    with outlasting(lambda: acquire(store, line, flow_run_id=flow_run.id), away) as lease:
        run = Run(workplace, spec, policy, lease, datetime.now(UTC), flow_run.id or "")
        if lease.record.unsettled:
            _requeue(run, lease.record.unsettled)
            outlasting(lease.settle, away)
        view = outlasting(lambda: catch_up(workplace.store, workplace.ledger, line, settings.who), away)
        journal = Journal(moved=moved)
        taken = take_up(run, view, (limit, only), journal)
        check_facts(view, taken, anew=anew)
        work = taken.edits or taken.removals or (anew and view.tip) or stages.unfinished(view)
        if not work and not _unregistered(workplace, view):
            note(taken.nothing)
            set_aliases(workplace, view)
            return journal.summary(line, view.waiting, None)
        with stage("opening MLflow's records"):
            tracker = outlasting(workplace.tracker, _is_away)
            # A run whose answer was lost is one that was abandoned, and ended by the next try.
            run = replace(run, mlflow_run_id=outlasting(lambda: start_tracking(tracker, run, taken), _is_away))
        try:
            report, waiting = _update(run, view, taken, journal, (tracker, texts, statistics_texts), anew=anew)
        except BaseException as error:
            with suppress(TrackingError):
                tracker.finish_run(run.mlflow_run_id, mlflow_status(error))
            if isinstance(error, HeadMoved):
                raise _requeued(run, error) from error
            raise
        show_summary(line, report)
        compact(workplace)
    if waiting:
        left_waiting(settings, line, waiting, run.mlflow_run_id, headline(report)[1])
    return journal.summary(line, waiting, report)


def take_up(run: Run, view: LineView, asked: tuple[int | None, Sequence[str] | None], journal: Journal) -> Taken:
    """What is taken up, of so many or of these alone; what is refused stands in the ledger with its reason."""
    once: list[Taken] = []

    def intake() -> Taken:
        # Taken up once: where the rejections were written and the answer was lost, they are no longer in the queue.
        taken = once[0] if once else stages.take_up(run, view, *asked)
        once[:] = [taken]
        stages.write_rejections(run, taken.rejected, taken.ended)
        return taken

    taken = run_step("intake", intake, outcome=_counted, retries=RETRIES)
    _note_rejections(taken, journal)
    journal.begun(taken)
    return taken


def _update(
    run: Run, view: LineView, taken: Taken, journal: Journal, given: tuple[Tracker, Any, Any], *, anew: bool
) -> tuple[JobReport, Sequence[Version]]:
    """Load, write, evaluate, register; returns the report and what waits for review then."""
    tracker, texts, statistics_texts = given
    session, reference = run_step(
        "load_model", lambda: _load(run, texts, statistics_texts), about=run.spec.model, retries=RETRIES
    )
    run = replace(run, spec=session.spec)  # a new line may have taken a calibration of its base
    taken = run_step("screen", lambda: _screen(run, session, taken), outcome=_counted, retries=RETRIES)
    journal.left_out(taken.findings)
    _note_rejections(taken, journal)
    serving = f"version {view.head.version}" if view.head and view.head.version else "the base"
    about = f"{serving}, then {len(view.waiting)} that wait"
    champion = run_step("restore", lambda: _restore(run, (session, reference), view, taken), about=about)
    log = StepLog(tracker, run.mlflow_run_id)
    stand, taken = begin(run, session, (footing.footing(view), taken, reference), journal, anew=anew)
    journal.left(taken, {*taken.removals.values(), *taken.replaced} - {*session.live})
    fit = run_step("ask_line", lambda: fitting(run, session, taken, reference, journal))
    stand = write_all(run, session, (stand, fit, reference), journal, log)
    stand = write_back(run, session, (stand, taken, reference), journal)
    stand = _stand_still(run, end(run, session, (stand, taken, reference), journal))
    candidate = Candidate(stand.waiting, taken, reference, champion, view.head)
    report = run_step(
        "evaluate",
        lambda: job_report(run, session, candidate, journal),
        about=f"{len(candidate.edits)} facts that wait",
        outcome=lambda found: headline(found)[1],
    )
    after, report = run_step(
        "register",
        lambda: _register(log, tracker, run, report, stand.waiting),
        outcome=lambda found: f"{found[1].shown(found[1].to_version)} registered" if found[1].to_version else "",
        retries=RETRIES,
    )
    if not after.holds(stand.tip):
        raise footing.away_from(run, after)
    return report, after.waiting


def write_all(
    run: Run, session: Session, given: tuple[Footing, Taken, Reference], journal: Journal, log: StepLog
) -> Footing:
    """Every batch in its turn; returns what the line stands on then."""
    stand, taken, reference = given
    count, writer = len(taken.edits), Writer(run, session, taken, reference, journal)
    batches, begun = batches_of(session, taken.edits, run.policy), 0
    with searched_elsewhere(run, session, taken):
        for number, edits in enumerate(batches, start=1):
            if len(batches) > 1:  # of a single batch its own stages tell how far it is
                progress("edits", begun, count)
            stand, begun = writer.write(Batch(str(number), edits), _stand_still(run, stand)), begun + len(edits)
            log.log(batch_curve(number, journal))
            if writer.stopped:
                break
    progress("edits", count, count)
    return _stand_still(run, stand)


def write_back(run: Run, session: Session, given: tuple[Footing, Taken, Reference], journal: Journal) -> Footing:
    """What was taken out for others that were not kept, as the last batches; returns what the line stands on then."""
    stand, taken, reference = given
    size, lost = run.policy.batch_size, stages.unreplaced(session, stand)
    writer = Writer(run, session, taken, reference, journal)
    first = len(batches_of(session, taken.edits, run.policy)) + 1
    for number, start in enumerate(range(0, len(lost), size), start=first):
        stand = writer.write_back(lost[start : start + size], number, _stand_still(run, stand))
    return _stand_still(run, stand) if lost else stand


def _stand_still(run: Run, stand: Footing) -> Footing:
    return run_step("stand_still", lambda: footing.stand_still(run, stand), retries=RETRIES)


def _register(
    log: StepLog, tracker: Tracker, run: Run, report: JobReport, waiting: Sequence[Version]
) -> tuple[LineView, JobReport]:
    log.finish()
    return register_candidate(tracker, run, report, waiting)


def _load(run: Run, texts: Sequence[str] | None, statistics_texts: Sequence[str] | None) -> tuple[Session, Reference]:
    session = stages.load(run, statistics_texts)
    return session, stages.reference_of(run, session, texts)


def _screen(run: Run, session: Session, taken: Taken) -> Taken:
    screened = stages.screen_taken(session, taken, run.policy.neighborhood_probes)
    stages.write_rejections(run, screened.rejected)
    return screened


def _restore(run: Run, asked: tuple[Session, Reference], view: LineView, taken: Taken) -> Champion | None:
    """Ask the base what the candidate will be asked, and the version in service; stand on the newest that waits."""
    (session, reference), served = asked, chain(view, view.serving)
    ask_base(session, taken.edits, run.policy)
    stages.restore(run, session, served)
    questions: list[Edit] = [*edits_of(view.waiting, taken), *taken.edits]
    champion = measure_champion(run, session, questions, reference) if served else None
    for version in view.waiting:
        stages.restore(run, session, [version.manifest])
    return champion


def _note_rejections(taken: Taken, journal: Journal) -> None:
    for request_id, reason in taken.rejected.items():
        journal.rejected(request_id, reason, taken.known.get(request_id))


def _requeue(run: Run, flow_runs: Sequence[str]) -> list[str]:
    """Queue again what these jobs wrote and what can no longer be put in service; returns those requests."""

    def requeue() -> list[str]:
        versions = run.workplace.store.versions(run.line)
        return footing.requeue(run, [one for one in versions if one.manifest.flow_run_id in flow_runs])

    again = run_step("requeue", requeue, outcome=lambda names: f"{len(names)} requests", retries=RETRIES)
    for request_id in again:
        note(f"{request_id}: queued again", "undone")
    return again


def _requeued(run: Run, error: HeadMoved) -> HeadMoved:
    """What becomes of a job's versions when HEAD moved away under it."""
    again = _requeue(run, [run.flow_run_id])
    return HeadMoved(f"{error}; {len(again)} written requests are queued again: errata run {run.line}")


def _counted(taken: Taken) -> str:
    return f"{len(taken.edits)} taken up, {len(taken.rejected)} rejected"


def _unregistered(workplace: Workplace, view: LineView) -> bool:
    """True when a killed job left versions that wait for review and that MLflow does not know."""
    if not view.waiting:
        return False
    return workplace.tracker().aliases(view.line).get("challenger") != view.waiting[-1].number


def _is_away(error: object) -> bool:
    return isinstance(error, TrackingUnavailable)  # an address that is none is said at once
