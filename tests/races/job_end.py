"""The end of a job, as one racer: what the job knew is read when it begins, its versions are registered at the end.

The only file of the races that knows the inside of the code under test; it says for each release how to call it.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any


def begin(line: str) -> Callable[[], int]:
    """Begin a job on the line without a model; returns what does its last step, registering what waits."""
    try:
        from tasks.update.run import Run
    except ModuleNotFoundError:
        return _begin_0_1(line)
    from tasks.ledger.view import look
    from tasks.lines.specs import read_line
    from tasks.report.data import JobReport
    from tasks.update.policy import Policy
    from tasks.update.tracked import register_candidate
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    spec = read_line(workplace.store.store, line)
    view = look(workplace.store, workplace.ledger, line)
    tip = view.waiting[-1]
    run = Run(workplace, spec, Policy(), None, datetime.now(UTC), "flow", tip.manifest.mlflow_run_id)
    report = JobReport(**_report(line, spec, tip, view.head))
    tracker = workplace.tracker()

    def end() -> int:
        register_candidate(tracker, run, report, view.waiting)
        return 0

    return end


def _begin_0_1(line: str) -> Callable[[], int]:
    """The same for release 0.1."""
    from tasks.evaluation import register_candidate
    from tasks.job import Job
    from tasks.lineage import open_versions
    from tasks.policy import Policy
    from tasks.report_data import JobReport

    from tasks.lines import read_line
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    spec = read_line(workplace.store.store, line)
    job: Any = Job(workplace, spec, Policy(), None, "flow")
    job.open = open_versions(workplace.store, workplace.ledger, line)
    job.tip = job.open[-1]
    job.tracker = workplace.tracker()
    job.mlflow_run_id = job.tip.manifest.mlflow_run_id
    report = JobReport(**_report(line, spec, job.tip, job.head))

    def end() -> int:
        register_candidate(job, report)
        return 0

    return end


def _report(line: str, spec: Any, tip: Any, head: Any) -> dict[str, Any]:
    """The fields of a job's report that measured nothing."""
    now = datetime.now(UTC)
    return {
        "line": line, "base": spec.model, "base_digest": "", "method": spec.config.method, "config": {}, "policy": {},
        "flow_run_id": "flow", "mlflow_run_id": tip.manifest.mlflow_run_id, "started": now, "finished": now,
        "from_version": head.version if head else 0, "to_version": tip.number, "baseline": {}, "candidate": {},
    }  # fmt: skip
