"""The end of a job, as one racer: what the job knew is read when it begins, its versions are registered at the end.

The only file of the races that knows the inside of the code under test; it says for each release how to call it.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any


def begin(line: str) -> Callable[[], int]:
    """Begin a job on the line without a model; returns what does its last step, registering what waits."""
    try:
        from tasks.ledger.view import open_versions
        from tasks.lines.specs import read_line
        from tasks.report.data import JobReport
        from tasks.update.evaluation import register_candidate
        from tasks.update.job import Job
        from tasks.update.policy import Policy
        from tasks.workplace import open_workplace
    except ModuleNotFoundError:  # release 0.1 is flat
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
    job.tip = job.open[-1] if job.open else None
    job.tracker = workplace.tracker()
    job.mlflow_run_id = job.tip.manifest.mlflow_run_id
    report = JobReport(
        line=line,
        base=spec.model,
        base_digest="",
        method=spec.config.method,
        config={},
        policy={},
        flow_run_id="flow",
        mlflow_run_id=job.mlflow_run_id,
        started=job.started,
        finished=datetime.now(UTC),
        from_version=job.head.version if job.head else 0,
        to_version=job.tip.number,
        baseline={},
        candidate={},
    )

    def end() -> int:
        register_candidate(job, report)
        return 0

    return end
