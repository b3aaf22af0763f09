"""The steps of a knowledge update, one Prefect task each. A step calls the library or one outside system.

Only steps that talk to storage or MLflow are retried; an edit that cannot be made is not tried again, it is a finding.
"""

import time
from collections.abc import Sequence

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from editing.edit import Edit
from editing.methods import compute_update
from tasks.ledger import intake as intaking
from tasks.ledger.events import Event
from tasks.ledger.view import open_versions, version_events
from tasks.lines.hypernetworks import keep
from tasks.lines.specs import save_line
from tasks.progress import note, progress
from tasks.report.render import JobReport
from tasks.retries import STORAGE_RETRIES, TRACKING_RETRIES
from tasks.stores.batches import pack
from tasks.stores.manifest import Version
from tasks.update.job import Attempt, Job
from tasks.update.screening import REQUEST_FAULTS, Screened, screen
from tasks.update.session import open_session
from tasks.update.validation import Verdict, failed, measure_reference, validate_batch


@task(task_run_name="intake", cache_policy=NO_CACHE)
def intake(job: Job, limit: int | None) -> int:
    """Take queued requests in their order; refuse contradictions and repetitions, with the reason in the ledger."""
    states = job.workplace.ledger.states(job.line)
    live = {"committed", "approved", "promoted"}
    for request in states.values():
        if request.state in live | {"queued"} and request.payload:
            found = intaking.take([request], [])
            job.known |= {edit.id: edit for edit in found.accepted}
    queued = [request for request in states.values() if request.state == "queued"]
    standing = [edit for name, edit in job.known.items() if states[name].state in live]
    taken = intaking.take(queued, standing, limit)
    reject(job, taken)
    job.taken = taken.accepted
    return len(job.taken)


def reject(job: Job, taken: intaking.Intake | Screened) -> None:
    """Write refusals to the ledger and remember them for the report."""
    if not taken.rejected:
        return
    job.workplace.ledger.append(
        [
            Event(
                request_id=request_id,
                event="rejected",
                line=job.line,
                actor=job.actor,
                reason=reason,
                flow_run_id=job.flow_run_id,
            )
            for request_id, reason in taken.rejected.items()
        ]
    )
    for request_id, reason in taken.rejected.items():
        note(f"{request_id}: {reason}", "rejected")
        if edit := job.known.get(request_id):
            job.remember(edit, "rejected", reason=reason)


@task(task_run_name="load-model", cache_policy=NO_CACHE)
def load_model(job: Job, statistics_texts: Sequence[str] | None, texts: Sequence[str] | None) -> int:
    """Load the base, its key statistics, and the versions up to the newest that waits; every digest is verified."""
    store = job.workplace.store
    job.session = open_session(
        job.spec, job.workplace.settings, statistics_texts=statistics_texts, on_progress=progress
    )
    keep(store.store, job.session.config)
    save_line(store.store, job.spec)
    job.reference = measure_reference(job.session, job.policy, texts)
    head = job.head.snapshot if job.head else None
    job.session.restore((manifest, store.tensors(manifest)) for manifest in store.chain(head))
    screened = screen(job.session, job.taken)
    reject(job, screened)
    job.taken, job.findings = screened.accepted, screened.findings
    for request_id, findings in screened.findings.items():
        note(f"{request_id}: {'; '.join(findings)}", "warning")
    job.open = open_versions(store, job.workplace.ledger, job.line)
    if head is not None:
        job.measure_champion()
    for version in job.open:
        job.session.restore([(version.manifest, store.tensors(version.manifest))])
        job.tip = version
    return len(job.taken)


@task(task_run_name="apply-batch-{attempt.name}", cache_policy=NO_CACHE)
def apply_batch(job: Job, attempt: Attempt) -> bool:
    """Search values and write the batch; False when search or solve fails, with the verdict saying why."""
    job.lease.renew()
    started = time.perf_counter()
    try:
        attempt.z_star = job.session.values(attempt.edits, progress)
        attempt.search_seconds = time.perf_counter() - started
        attempt.batch = compute_update(job.session.setting, attempt.edits, attempt.z_star, job.session.config)
        attempt.undo = job.session.weights.apply(attempt.batch.update)
    except REQUEST_FAULTS as error:
        attempt.verdict = failed(error)
        return False
    return True


@task(task_run_name="validate-{attempt.name}", cache_policy=NO_CACHE)
def validate(job: Job, attempt: Attempt) -> Verdict:
    """Measure what was written and judge it by the policy."""
    started = time.perf_counter()
    progress("validation", 0, 1)
    attempt.verdict = validate_batch(job.session, attempt.edits, job.earlier_sample(), job.reference, job.policy)
    progress("validation", 1, 1)
    attempt.validate_seconds = time.perf_counter() - started
    return attempt.verdict


@task(task_run_name="snapshot-{attempt.name}", cache_policy=NO_CACHE, **STORAGE_RETRIES)
def snapshot(job: Job, attempt: Attempt) -> Version:
    """Publish the batch as the next version, then write its events; safe to repeat, each part happens once."""
    assert attempt.batch is not None and attempt.z_star is not None and attempt.verdict is not None
    store = job.workplace.store
    if attempt.manifest is None:  # made once: a repetition must publish the same version again, not a second one
        attempt.manifest = job.manifest(attempt, store.next_number(job.line))
    job.lease.renew()
    version = store.publish(attempt.manifest, pack(attempt.batch, attempt.z_star))
    job.workplace.ledger.append(version_events(version, job.actor), once=True)
    job.keep(attempt, version)
    return version


@task(task_run_name="roll-back-{attempt.name}", cache_policy=NO_CACHE)
def roll_back(job: Job, attempt: Attempt) -> None:
    """Undo a batch that failed, bit for bit."""
    if attempt.undo is not None:
        if len(attempt.edits) == 1:
            attempt.answers = job.answers(attempt.edits)
        job.session.weights.revert(attempt.undo)
    job.batches.append(attempt.row(kept=False, version=None))


@task(task_run_name="quarantine-{attempt.name}", cache_policy=NO_CACHE)
def quarantine(job: Job, attempt: Attempt) -> None:
    """Record the edit that failed alone, with its numbers and the reasons; it waits for a person."""
    assert attempt.verdict is not None
    [edit] = attempt.edits
    reason = "; ".join(attempt.verdict.reasons)
    metrics = attempt.verdict.metrics | attempt.verdict.request_metrics.get(edit.id, {})
    common = {"request_id": edit.id, "line": job.line, "actor": job.actor, "batch": attempt.number}
    run = {"flow_run_id": job.flow_run_id, "mlflow_run_id": job.mlflow_run_id}
    applied = Event.model_validate({**common, **run, "event": "applied"})
    undone = Event.model_validate({**common, **run, "event": "quarantined", "reason": reason, "metrics": metrics})
    job.workplace.ledger.append([applied, undone])
    job.remember(edit, "quarantined", attempt=attempt, reason=reason)
    note(f"{edit.id}: {reason}", "quarantined")


@task(task_run_name="evaluate", cache_policy=NO_CACHE)
def evaluate(job: Job) -> JobReport:
    """The candidate against base and champion, over every fact that waits for review."""
    from tasks.update.evaluation import job_report

    return job_report(job)


@task(task_run_name="register", cache_policy=NO_CACHE, **TRACKING_RETRIES)
def register(job: Job, report: JobReport) -> None:
    """Put the report into MLflow and the newest waiting version there as challenger."""
    from tasks.update.evaluation import register_candidate

    register_candidate(job, report)


def halves(attempt: Attempt) -> tuple[Sequence[Edit], Sequence[Edit]]:
    """How a failed batch is tried again: those that did well and those that did not, or else the two halves."""
    assert attempt.verdict is not None
    failing = set(attempt.verdict.failing)
    if 0 < len(failing) < len(attempt.edits):
        kept = [edit for edit in attempt.edits if edit.id not in failing]
        return kept, [edit for edit in attempt.edits if edit.id in failing]
    middle = (len(attempt.edits) + 1) // 2
    return attempt.edits[:middle], attempt.edits[middle:]


def free(job: Job) -> None:
    """Let go of the model."""
    del job.session
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
