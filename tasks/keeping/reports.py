"""Reports of jobs without what they said of requests that are forgotten: made anew from their own data."""

import json
from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from tasks.keeping.needles import Needles
from tasks.progress import stage
from tasks.report.data import JobReport
from tasks.report.pages import TABLES, report_files
from tasks.tracking.client import Tracker
from tasks.tracking.errors import TrackingError, TrackingUnavailable
from tasks.tracking.forgetting import drop_file, runs_of

REPORT = "report.json"


def forget_in_reports(tracker: Tracker, line: str, names: Collection[str], needles: Needles) -> int:
    """Make the reports of a line anew that say something of these requests; returns how many. Repeated, it is done."""
    made = 0
    runs = runs_of(tracker, line)
    with stage("reports") as tell:
        for done, run in enumerate(runs):
            made += _forget_in_report(tracker, run, names, needles)
            tell(done + 1, len(runs))
    return made


def _forget_in_report(tracker: Tracker, run: str, names: Collection[str], needles: Needles) -> bool:
    try:
        data = tracker.artifact(run, REPORT)
    except TrackingUnavailable:
        raise
    except TrackingError:
        return False  # a run without a report: a watch, a job that was killed
    told: dict[str, Any] = json.loads(data)
    if not needles.found_in(data) and not any(row.get("request_id") in names and _says(row) for row in _rows(told)):
        return False
    report = _without(told, names, needles)
    files = {} if report is None else report_files(report)
    # The last file is the one that says whether a report is done: killed before, it is made anew once more.
    last = {REPORT: files.pop(REPORT, b"{}")}
    for folder in ("figures", *(path for path in ("report.html", "summary.md", *TABLES) if path not in files)):
        drop_file(tracker, run, folder)
    if files:
        tracker.log_report(run, files, TABLES)
    tracker.log_report(run, last, TABLES)
    return True


def _rows(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [*told.get("edits", ()), *told.get("gone", ())]


def _says(row: dict[str, Any]) -> bool:
    return bool(row.get("subject") or row.get("prompt"))


def _without(told: dict[str, Any], names: Collection[str], needles: Needles) -> JobReport | None:
    """The report without its rows of these requests, and elsewhere without their texts; None: nothing can be kept."""
    for part in ("edits", "gone"):
        told[part] = [row for row in told.get(part, ()) if row.get("request_id") not in names]
    told["samples"] = [row for row in told.get("samples", ()) if not needles.found(json.dumps(row, ensure_ascii=False))]
    try:
        return JobReport.model_validate_json(needles.replaced(json.dumps(told, ensure_ascii=False)))
    except ValidationError:
        return None
