"""The main job: take queued corrections, write them in batches of at most ten, keep only what validates, register."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from editing.edit import Edit
from tasks.ledger.view import open_versions, reconcile
from tasks.lines.specs import resolve_line
from tasks.progress import note, progress
from tasks.report.data import EditRow, JobReport
from tasks.report.render import render_markdown
from tasks.stores.lease import acquire
from tasks.tracking.client import Tracker
from tasks.tracking.errors import TrackingError
from tasks.update.job import Attempt, Job, read_texts
from tasks.update.policy import Policy
from tasks.update.steps import (
    apply_batch,
    evaluate,
    free,
    halves,
    intake,
    load_model,
    quarantine,
    register,
    roll_back,
    snapshot,
    validate,
)
from tasks.workplace import Workplace, open_workplace


class JobSummary(BaseModel):
    """What a knowledge update came to."""

    model_config = ConfigDict(frozen=True)

    line: str
    version: int | None = None
    """The newest version that waits for review; None when nothing does."""
    kept: int = 0
    quarantined: int = 0
    rejected: int = 0
    report: JobReport | None = None


@flow(name="knowledge-update", flow_run_name="{line}", persist_result=False)
def knowledge_update(
    line: str = "main",
    policy: Policy = Policy(),  # noqa: B008  # frozen
    limit: int | None = None,
    text: Path | None = None,
    statistics_text: Path | None = None,
    model: str | None = None,
    dtype: str | None = None,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> JobSummary:
    """Correct the queued facts of a line.

    Args:
        line: The line to update; it is created on first use from the settings.
        policy: Batch size and the thresholds of validation.
        limit: Most requests to take up; none: all that wait.
        text: Text that perplexity is taken on (a text file, or Parquet with a column `text`); none: text that
            the base model sampled itself.
        statistics_text: Text for the key statistics; none: text that the base model sampled itself.
        model, dtype, method, options: Definition of a new line, where it differs from the settings. For mend,
            options["hypernetwork"] names the hypernetwork: a file, an MLflow version, or one in the store.

    Killed at any point it can be started again: what was committed is not repeated, what was not is still queued.

    Raises:
        LineBusy: another job works on the line.
    """
    workplace = open_workplace()
    texts, statistics_texts = read_texts(text), read_texts(statistics_text)
    store, settings = workplace.store.store, workplace.settings
    spec = resolve_line(store, settings, line, model=model, dtype=dtype, method=method, options=options)
    with acquire(store, line, flow_run_id=flow_run.id) as lease:
        reconcile(workplace.store, workplace.ledger, line, settings.who)
        job = Job(workplace, spec, policy, lease, flow_run.id or "")
        if intake(job, limit) == 0 and not _unregistered(workplace, line):
            note("nothing is queued")
            return _summary(job, None)
        _start_tracking(job)
        try:
            load_model(job, statistics_texts, texts)
            write_all(job, job.taken)
            report = evaluate(job)
            register(job, report)
        except BaseException:
            with suppress(TrackingError):
                job.tracker.finish_run(job.mlflow_run_id, "FAILED")
            raise
        free(job)
        create_markdown_artifact(render_markdown(report), key=f"{line}-summary".lower().replace(".", "-"))
        workplace.ledger.compact()
        return _summary(job, report)


def write_all(job: Job, edits: Sequence[Edit]) -> None:
    """Every batch in its turn, with a progress artifact that follows."""
    size = job.policy.batch_size
    key = f"{job.line}-progress".lower().replace(".", "-").replace("_", "-")
    artifact = create_progress_artifact(0.0, key=key, description=f"Edits of line {job.line}")
    assert isinstance(artifact, UUID)
    for number, start in enumerate(range(0, len(edits), size), start=1):
        progress("edits", start, len(edits))
        write(job, Attempt(str(number), edits[start : start + size]))
        job.tracker.log_steps(job.mlflow_run_id, [(number, job.batches[-1].metrics)])
        update_progress_artifact(artifact, 100.0 * min(start + size, len(edits)) / len(edits))
    progress("edits", len(edits), len(edits))


def write(job: Job, attempt: Attempt) -> None:
    """Write a batch and keep it if it validates; else undo it and look for the culprits in its parts."""
    if apply_batch(job, attempt) and validate(job, attempt).passed:
        snapshot(job, attempt)
        return
    assert attempt.verdict is not None
    roll_back(job, attempt)
    if len(attempt.edits) == 1:
        quarantine(job, attempt)
        return
    note(f"batch {attempt.name} ({len(attempt.edits)} edits): {'; '.join(attempt.verdict.reasons)}", "undone")
    for part, edits in enumerate(halves(attempt), start=1):
        write(job, Attempt(f"{attempt.name}.{part}", edits))


def _start_tracking(job: Job) -> None:
    settings = job.spec.config.model_dump(mode="json") | {"policy": job.policy.model_dump(mode="json")}
    job.tracker = job.workplace.tracker()
    job.tracker.end_abandoned(job.line)
    job.mlflow_run_id = job.tracker.start_run(
        job.line,
        f"{job.line} {job.started:%Y-%m-%d %H:%M}",
        params=settings | {"model": job.spec.model},
        tags={"flow_run_id": job.flow_run_id, "actor": job.actor},
    )


def _unregistered(workplace: Workplace, line: str) -> bool:
    """True when a killed job left versions that wait for review and that MLflow does not know."""
    waiting = open_versions(workplace.store, workplace.ledger, line)
    if not waiting:
        return False
    tracker: Tracker = workplace.tracker()
    return tracker.aliases(line).get("challenger") != waiting[-1].number


def _summary(job: Job, report: JobReport | None) -> JobSummary:
    rows: list[EditRow] = list(job.rows.values())
    states = [row.state for row in rows]
    waiting = job.open or open_versions(job.workplace.store, job.workplace.ledger, job.line)
    return JobSummary(
        line=job.line,
        version=waiting[-1].number if waiting else None,
        kept=states.count("committed"),
        quarantined=states.count("quarantined"),
        rejected=states.count("rejected"),
        report=report,
    )
