"""What a reviewer reads above the form in Prefect: verdict, numbers beside the champion's, facts, links."""

import logging
from collections.abc import Sequence

from pydantic import ValidationError

from tasks.markdown import literal
from tasks.names import shown_version
from tasks.report.data import JobReport
from tasks.report.description import Described, fact_of, render_form
from tasks.review.facts import stored_facts
from tasks.review.telling import page
from tasks.stores.manifest import Version
from tasks.tracking.client import Tracker
from tasks.tracking.errors import TrackingError
from tasks.tracking.registry import Registered
from tasks.workplace import Workplace

logger = logging.getLogger(__name__)


def job_report(tracker: Tracker, version: Version) -> JobReport | None:
    """The report of the job that made a version, out of its run in MLflow; None where there is none to read."""
    run = version.manifest.mlflow_run_id
    try:
        return JobReport.model_validate_json(tracker.artifact(run, "report.json")) if run else None
    except (TrackingError, ValidationError) as error:
        logger.info("version %d of line %s has no report: %s", version.number, version.manifest.line, error)
        return None


def description(workplace: Workplace, version: Version, below: Sequence[Version] = (), refused: str = "") -> str:
    """Markdown about a version that waits. Whatever users or models wrote stands in it as text.

    Args:
        below: The waiting versions that it is built on, oldest first.
        refused: Why the form is asked once more.
    """
    manifest = version.manifest
    known: dict[int, Registered] = {}
    report = None
    try:
        tracker = workplace.tracker()
        known, report = tracker.line_versions(manifest.line), job_report(tracker, version)
    except TrackingError as error:  # a person can decide without
        logger.warning("line %s, version %d: %s", manifest.line, version.number, error)
    mlflow_numbers = {number: found.mlflow_number for number, found in known.items()}
    whole = report if report is not None and report.to_version == version.number else None
    facts = (
        [fact_of(row) for row in whole.edits if row.state == "committed"]
        if whole
        else [*stored_facts(workplace, [version]).values()]
    )
    shown = Described(
        line=manifest.line,
        number=version.number,
        mlflow_number=mlflow_numbers.get(version.number),
        facts=facts,
        own=len(manifest.request_ids),
        below=[shown_version(one.number, mlflow_numbers.get(one.number)) for one in below],
        metrics=manifest.metrics,
        report=whole,
        page=_run_page(workplace, version),
    )
    asked_again = [f"**Asked once more:** {literal(refused, 600)}", ""] if refused else []
    return "\n".join([*asked_again, _links(workplace, version, known.get(version.number)), "", render_form(shown)])


def _links(workplace: Workplace, version: Version, registered: Registered | None) -> str:
    settings, run = workplace.settings, _run_page(workplace, version)
    if registered is None or not (address := page(settings, version.manifest.line, registered.mlflow_number)):
        return ""
    links = [f"[The version in MLflow]({address})"]
    return " · ".join(links + [f"[its run and report]({run})"] * bool(run))


def _run_page(workplace: Workplace, version: Version) -> str:
    """The page of its job's run, where people know an address of MLflow."""
    people, run = workplace.settings.mlflow_people, version.manifest.mlflow_run_id
    return f"{people}/#/runs/{run}" if people and run else ""
