"""Commands that keep an installation beyond its disk: backup and restore."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import Json, app, if_stopped
from flows.cli.console import as_json, say, shown_progress, warn
from flows.cli.upkeep import UPKEEP


@app.command(rich_help_panel=UPKEEP)
def backup(
    to: Annotated[Path, typer.Argument(help="A new folder; it is written beside and named at the end.")],
    json: Json = False,
) -> None:
    """Copy everything of this installation as one consistent set, while jobs run.

    Ledger, store and pointers, MLflow's and Prefect's databases in files, artifacts. What is kept by servers is named,
    with how it is copied. Killed, the same again goes on.

    Examples:

        errata backup /backups/errata-2026-12-01

        errata backup /backups/errata-2026-12-01 --json
    """
    from tasks.keeping.backup import backup as take
    from tasks.workplace import open_workplace

    with if_stopped("the same again goes on"), shown_progress(json, "copying"):
        record = take(open_workplace(), to)
    if json:
        as_json({"folder": str(to), "lines": record.lines, "files": len(record.files), "bytes": record.size}
                | {"made": record.made, "left_out": record.left_out})  # fmt: skip
        return
    for text in record.left_out:
        warn(f"not in it: {text}")
    say(f"{to}: {record.in_short}", style="green")


@app.command(rich_help_panel=UPKEEP)
def restore(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="A folder that errata backup has written.")],
    json: Json = False,
) -> None:
    """Put a backup into a home that is empty: the one that ERRATA_HOME and the other settings name.

    Every digest is checked first. Until all is there no other command works on that home; killed, the same again goes
    on.

    Example:

        ERRATA_HOME=/srv/errata errata restore /backups/errata-2026-12-01
    """
    from tasks.keeping.restore import restore as put_back
    from tasks.settings import load_settings

    with if_stopped("the same again goes on"), shown_progress(json, "checking"):
        settings = load_settings()
        done = put_back(settings, source)
    if json:
        as_json({"home": str(settings.home_folder), "lines": done.record.lines, "left_out": done.left_out})
        return
    for text in done.left_out:
        warn(f"not put back: {text}")
    say(f"{settings.home_folder}: {done.record.in_short}", style="green")
    say("next: errata audit")
