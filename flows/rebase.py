"""A line made anew: all its live facts solved together from the base, as a version that waits for review."""

from pathlib import Path

from prefect import flow

from flows.endings import announced, ended_well
from flows.knowledge_update import job
from tasks.update.journal import JobSummary
from tasks.update.policy import Policy


@flow(name="rebase", flow_run_name="{line}", persist_result=False)
@ended_well
def rebase(
    line: str = "main",
    policy: Policy = Policy(),  # noqa: B008  # frozen
    text: Path | None = None,
    statistics_text: Path | None = None,
) -> JobSummary:
    """Make a line anew from the base: one version in the place of all, with the facts that are live; it waits.

    Args:
        line: The line: one served model.
        policy: What the version is judged by, against what it takes the place of.
        text: File of text that perplexity is taken on, on the machine of the job; none, text that the base sampled.
        statistics_text: File of text that the line's key statistics are of, where they are of one and not cached.

    Killed at any point it can be started again. What is queued stays so.

    Raises:
        LineBusy: another job works on the line.
        HeadMoved: HEAD was moved away from what the version comes after.
        UsageError: the ledger does not know what a live fact says.
    """
    return announced(line, "rebase", lambda: job(line, policy, 0, (text, statistics_text), {}, anew=True))
