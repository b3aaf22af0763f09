"""The command that looks whether what is stored is whole, and agrees."""

from typing import Annotated

import typer
from rich.text import Text

from flows.cli.app import Json, app, if_stopped
from flows.cli.console import as_json, say, shown_progress, table
from flows.cli.upkeep import UPKEEP


@app.command(rich_help_panel=UPKEEP)
def audit(
    line: Annotated[str | None, typer.Argument(help="The line; none: all of them.")] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow/--no-mlflow", help="Look at MLflow's versions and aliases as well.")
    ] = True,
    json: Json = False,
) -> None:
    """Look whether what is stored is whole: every digest, every event, and that all places say the same.

    Nothing is changed, and jobs may go on meanwhile. Exit code 0: all is well; 1: something is damaged, gone, or
    contradicts another.

    Examples:

        errata audit

        errata audit main --json

        errata audit --no-mlflow
    """
    from tasks.audit.auditing import audit as look_at_all
    from tasks.workplace import open_workplace

    with if_stopped("nothing was changed"), shown_progress(json, "auditing"):
        found = look_at_all(open_workplace(), line, mlflow=mlflow)
    if json:
        whole = not found.faults
        as_json({"whole": whole} | found.model_dump(mode="json"))
    else:
        colours = {"fault": "red", "note": "yellow"}
        rows = [[Text(one.weight, colours[one.weight]), one.place, one.line, one.text] for one in found.findings]
        if rows:
            table("audit", ["", "where", "line", "found"], rows)
        say(found.in_short, style="red" if found.faults else "green")
    if found.faults:
        raise typer.Exit(1)
