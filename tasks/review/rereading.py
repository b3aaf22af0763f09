"""Which version is looked at once more, and what its job reported of it. Nothing is written."""

from editing.errors import UsageError
from tasks.ledger.view import look
from tasks.lines.stored import check_known
from tasks.report.data import JobReport
from tasks.review.description import job_report
from tasks.stores.manifest import Version
from tasks.tracking.errors import TrackingError
from tasks.workplace import Workplace


def version_to_judge(workplace: Workplace, line: str, number: int | None) -> Version:
    """The version of this number; none, the newest that waits, or else the one in service.

    Raises:
        UsageError: nobody knows the line, it has no such version, it is the base, or the line has neither.
    """
    check_known(workplace.store, workplace.ledger, line)
    if number == 0:
        raise UsageError(f"version 0 of line '{line}' is the base, which nothing judges; name one above 0, or none")
    if number is not None:
        return workplace.store.named_version(line, number)
    view = look(workplace.store, workplace.ledger, line)
    number = view.waiting[-1].number if view.waiting else view.head.version if view.head else 0
    if number == 0:
        raise UsageError(f"line '{line}' has no version to judge but the base; run `errata run {line}` first")
    return workplace.store.version(line, number)


def report_of(workplace: Workplace, version: Version) -> JobReport | None:
    """The report of the job that made it; None where MLflow has none or is away."""
    if not version.manifest.mlflow_run_id:
        return None
    try:
        return job_report(workplace.tracker(), version)
    except TrackingError:
        return None
