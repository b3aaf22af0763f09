"""A knowledge update in MLflow: its run, with what it worked on and came to, and the versions that it left."""

from collections.abc import Mapping, Sequence

from tasks.ledger.view import LineView
from tasks.names import shown_version
from tasks.report.data import JobReport
from tasks.report.description import render_note
from tasks.report.pages import TABLES, report_files
from tasks.report.verdict import headline
from tasks.review.aliases import sync_aliases
from tasks.review.registering import describe, register
from tasks.stores.manifest import Version
from tasks.tracking.client import KIND, Steps, Tracker
from tasks.tracking.registry import Registered
from tasks.update.journal import Journal
from tasks.update.run import Run, Taken

UPDATE = "update"


def start_tracking(tracker: Tracker, run: Run, taken: Taken) -> str:
    """Begin the run of a job in MLflow, with its parameters and its requests; returns its id."""
    settings = run.spec.config.model_dump(mode="json") | {"policy": run.policy.model_dump(mode="json")}
    tracker.end_abandoned(run.line)
    run_id = tracker.start_run(
        run.line,
        f"{run.line} update {run.started:%Y-%m-%d %H:%M}",
        params=settings | {"model": run.spec.model},
        tags={KIND: UPDATE, "flow_run_id": run.flow_run_id, "actor": run.actor},
    )
    if taken.edits:
        requests = [edit.model_dump(mode="json") for edit in taken.edits]
        tracker.log_requests(run_id, f"{run.line} requests", requests, run.workplace.settings.ledger_uri)
    return run_id


def batch_curve(number: int, journal: Journal) -> Steps:
    """What the newest batch measured as it was kept, or at its last attempt; its step is its number in the job."""
    kept = [row for row in journal.batches if row.batch == number and row.kept]
    return [(number, _grouped("batch", (kept or journal.batches)[-1].metrics))]


def job_curves(report: JobReport) -> Steps:
    """The line as it grew, by the number of facts in the weights, and the candidate's numbers at the end."""
    grown = [(round(point["edits"]), _grouped("line", point)) for point in report.drift]
    facts = grown[-1][0] if grown else 0
    return [
        *grown,
        (facts, _grouped("final", report.candidate)),
        *([(facts, _grouped("in_context", report.in_context))] if report.in_context else []),
        *([(facts, _grouped("fewer_bits", report.fewer_bits))] if report.fewer_bits else []),
    ]


def _grouped(group: str, metrics: Mapping[str, float]) -> Mapping[str, float]:
    """Metrics under the heading that MLflow's page of charts puts them under; those of the base are in the report."""
    shown = (name for name in metrics if name != "edits" and not name.startswith("before_"))
    return {f"{group}/{name}": metrics[name] for name in shown}


def register_candidate(
    tracker: Tracker, run: Run, report: JobReport, waiting: Sequence[Version]
) -> tuple[LineView, JobReport]:
    """Log the report; register every version that waits; make aliases and tags say what HEAD and the queue say now.

    Returns the line as it was when they did, and the report with MLflow's numbers. Safe to repeat.
    """
    tracker.log_steps(run.mlflow_run_id, job_curves(report))
    known = register(tracker, run.workplace, run.line, waiting, run.mlflow_run_id)
    report = report.model_copy(update={"mlflow_versions": _spoken_of(report, known)})
    tracker.log_report(run.mlflow_run_id, report_files(report), TABLES)
    describe(tracker, run.workplace, waiting, known, report)
    view = sync_aliases(tracker, run.workplace, run.line).view
    tracker.describe_run(run.mlflow_run_id, _name(report), _tags(report), _note(report))
    tracker.finish_run(run.mlflow_run_id)
    return view, report


def _spoken_of(report: JobReport, known: Mapping[int, Registered]) -> dict[int, int]:
    """MLflow's numbers of the versions that the report names."""
    named = {report.from_version, report.to_version, *_made(report)}
    return {number: one.mlflow_number for number, one in sorted(known.items()) if number in named}


def _made(report: JobReport) -> list[int]:
    return sorted({batch.version for batch in report.batches if batch.version is not None})


def _name(report: JobReport) -> str:
    if report.to_version is None:
        return f"{report.line} {shown_version(report.from_version)}, nothing kept"
    return f"{report.line} {shown_version(report.from_version)} → {report.shown(report.to_version)}"


def _tags(report: JobReport) -> dict[str, str]:
    counts = {f"errata.{name}": str(report.counts[state]) for name, state in
              (("kept", "committed"), ("quarantined", "quarantined"), ("rejected", "rejected"))}  # fmt: skip
    versions = {"errata.from": report.shown(report.from_version), "errata.verdict": headline(report)[0]}
    if report.to_version is not None:
        versions["errata.to"] = report.shown(report.to_version)
    made = ", ".join(report.shown(number) for number in _made(report))
    return {KIND: UPDATE, **versions, **counts, "errata.versions": made or "none"}


def _note(report: JobReport) -> str:
    pages = {
        report.shown(number): f"#/models/{report.line}/versions/{report.mlflow_versions[number]}"
        for number in _made(report)
        if number in report.mlflow_versions
    }
    return render_note(report, pages)
