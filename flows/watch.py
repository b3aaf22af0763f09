"""The watch over a line, on a schedule: the version in service is asked again, and what is late is told."""

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.endings import completed, ended_well, page_of_run
from flows.review import request_review
from tasks.names import artifact_key
from tasks.progress import note
from tasks.runlog import told_to_prefect
from tasks.watch.findings import WatchReport
from tasks.watch.policy import WatchPolicy
from tasks.watch.watching import Watch, watch_over
from tasks.workplace import open_workplace

Ask = Annotated[bool, Field(description="Load the version in service and ask it for its facts.")]
Sample = Annotated[int, Field(ge=1, le=100_000, description="Most facts to ask; of more, always the same sample.")]


@flow(name="watch", flow_run_name="{line}", persist_result=False)
@ended_well
def watch(
    line: str = "main",
    ask: Ask = True,
    sample: Sample = 50,
    policy: WatchPolicy = WatchPolicy(),  # noqa: B008  # frozen
) -> WatchReport:
    """Look after a line: carry out what was decided elsewhere, look at what serves and at what is late, tell of it.

    Args:
        line: The line to look after.
        ask: Load the version in service and ask it for its facts.
        sample: Most facts to ask; of more, always the same sample.
        policy: From when on something is wrong, or late.

    A breach sends the event `errata.line.breached`, what is late `errata.line.late`.

    Raises:
        UsageError: there is no such line.
    """
    workplace = open_workplace()
    with told_to_prefect("watch"):
        asked = Watch(line, policy, ask, sample, server=True, link=page_of_run(workplace.settings))
        report = watch_over(workplace, asked)
        for finding in report.findings:
            note(finding.text, "" if finding.weight == "repaired" else "warning")
        note(report.in_short)
        create_markdown_artifact(report.markdown(), key=artifact_key(line, "watch"))
        _ask_for_review(report)
    return completed(report, report.in_short)


def _ask_for_review(report: WatchReport) -> None:
    """The newest version that waits has a run of its review; one that has it already is left alone."""
    if report.waiting:
        number, snapshot = report.waiting[-1]
        request_review(report.line, number, snapshot)
