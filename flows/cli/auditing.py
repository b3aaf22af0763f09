"""The command that looks whether what is stored is whole, and agrees."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from editing.errors import UsageError
from flows.cli.app import Json, app, if_stopped
from flows.cli.console import as_json, number, say, shown_progress, table, warn
from flows.cli.upkeep import UPKEEP


@app.command(rich_help_panel=UPKEEP)
def audit(
    line: Annotated[str | None, typer.Argument(help="The line; none: all of them.")] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow/--no-mlflow", help="Look at MLflow's versions and aliases as well.")
    ] = True,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Look at a checkpoint instead: what it holds of the line.")
    ] = None,
    json: Json = False,
) -> None:
    """Look whether what is stored is whole: every digest, every event, and that all places say the same.

    Nothing is changed, and jobs may go on meanwhile. Exit code 0: all is well; 1: something is damaged, gone, or
    contradicts another. With --checkpoint, a folder of transformers: which facts of the line stand in it, from its
    weights alone, and whether it holds anything else; exit code 1 if it does.

    Examples:

        errata audit

        errata audit main --json

        errata audit --no-mlflow

        errata audit main --checkpoint ./exported
    """
    if checkpoint is not None:
        _audit_checkpoint(line or "main", checkpoint, json)
        return
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


def _audit_checkpoint(line: str, folder: Path, json: bool) -> None:
    from editing.edit import shown

    if not folder.is_dir():
        raise UsageError(f"{shown(str(folder))} is no folder: name a checkpoint as save_pretrained writes it")
    from tasks.audit.checkpoint import audit_checkpoint
    from tasks.workplace import open_workplace

    with if_stopped("nothing was changed"), shown_progress(json, "looking at the checkpoint"):
        found = audit_checkpoint(open_workplace(), line, folder.expanduser().absolute())
    if json:
        facts = [fact.model_dump(mode="json") | {"what": fact.what} for fact in found.facts]
        as_json(found.model_dump(mode="json") | {"facts": facts, "holds_else": found.holds_else})
    else:
        colours = {"stands": "green", "partly": "yellow", "absent": "red", "not told": ""}
        rows = [
            [one.request_id, one.version, number(one.share, 2), Text(one.what, colours[one.what])]
            for one in found.facts
        ]
        table(f"facts of line {line} in {folder}", ["request", "version", "share", ""], rows, ["version", "share"])
        changed: list[list[object]] = [[name, f"{share:.2%}", ""] for name, share in found.changed.items()]
        changed += [[name, f"{share:.2%}", Text("none of the line's", "red")] for name, share in found.others.items()]
        if changed:
            table("weights that differ from the base", ["weight", "by", ""], changed, ["by"])
        for text in found.notes:
            warn(text)
        say(found.in_short, style="red" if found.holds_else else "green")
    if found.holds_else:
        raise typer.Exit(1)
