"""Commands that keep an installation well: watch over a line, and upkeep."""

import sys
from typing import Annotated

import typer

from flows.cli.app import Json, app, if_stopped
from flows.cli.console import as_json, plain, say, shown_progress, table, warn

UPKEEP = "Upkeep"
"""The heading of these commands in the help."""


@app.command(rich_help_panel=UPKEEP)
def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be taken.")] = False,
    min_age_days: Annotated[
        int, typer.Option(min=1, max=3650, help="Nothing is taken that was written or used in these days.")
    ] = 7,
    unused_days: Annotated[
        int, typer.Option(min=1, max=3650, help="Results in the cache that nobody used for so long are taken.")
    ] = 30,
    rest_days: Annotated[
        int, typer.Option(min=1, max=3650, help="A training untouched for so long keeps its best checkpoint alone.")
    ] = 90,
    cache_gib: Annotated[
        float, typer.Option(min=0, help="Above this size the cache loses what was unused longest.")
    ] = 20.0,
    json: Json = False,
) -> None:
    """Take away what killed jobs left and caches nobody uses, and join the ledger's small files.

    What was ever committed stays: every version, and all that HEAD may go back to. It can run beside jobs.

    Examples:

        errata maintain --dry-run

        errata maintain --min-age-days 2 --cache-gib 5
    """
    from tasks.upkeep.tidying import Limits, tidy_up
    from tasks.workplace import open_workplace

    limits = Limits(unused_days=unused_days, rest_days=rest_days, cache_gib=cache_gib)
    with if_stopped("what was taken is gone, the rest is as it was"), shown_progress(json, "looking"):
        tidied = tidy_up(open_workplace(), min_age_days, dry_run, limits)
    if json:
        as_json(tidied.model_dump(mode="json"))
    else:
        rows = [[row.kind, row.name, row.size, f"{row.used:%Y-%m-%d}" if row.used else ""] for row in tidied.gone]
        if rows:
            table("leftovers", ["kind", "name", "bytes", "last used"], rows, ["bytes"])
        say(tidied.in_short)
    for text in tidied.skipped:
        warn(f"left as it is: {plain(text)}")
    if tidied.skipped:
        sys.exit(1)
