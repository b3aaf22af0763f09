"""Upkeep: what is old and what nothing leads to is taken away, from ledger, snapshots, trainings and cache."""

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.endings import completed, ended_well
from tasks.markdown import literal, table
from tasks.names import artifact_key
from tasks.progress import note
from tasks.runlog import told_to_prefect
from tasks.upkeep.tidying import Limits, Tidied, tidy_up
from tasks.workplace import open_workplace

MinAge = Annotated[int, Field(ge=1, le=3650, description="Nothing is taken that was written or used in these days.")]
DryRun = Annotated[bool, Field(description="Only list what would be taken.")]


@flow(name="maintain", flow_run_name="upkeep", persist_result=False)
@ended_well
def maintain(min_age_days: MinAge = 7, dry_run: DryRun = False, limits: Limits = Limits()) -> Tidied:  # noqa: B008  # frozen
    """Take away what is old and what nothing leads to. What was ever committed stays.

    Args:
        min_age_days: Nothing is taken that was written or used in these days.
        dry_run: Only list what would be taken.
        limits: From when on caches and trainings lose something.
    """
    with told_to_prefect("upkeep"):
        tidied = tidy_up(open_workplace(), min_age_days, dry_run, limits)
        note(tidied.in_short)
        create_markdown_artifact(_markdown(tidied), key=artifact_key("errata", "upkeep"))
    return completed(tidied, tidied.in_short)


def _markdown(tidied: Tidied) -> str:
    rows = [(kind, count, f"{size / 2**20:,.1f}") for kind, count, size in tidied.by_kind()]
    skipped = [f"- left as it is: {literal(text)}" for text in tidied.skipped]
    return "\n".join([tidied.in_short, "", *table(["kind", "number", "MiB"], rows), "", *skipped])
