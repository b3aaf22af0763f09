"""`errata doctor`: what is installed, reachable and writable."""

import sys
from typing import Annotated

import typer
from rich.text import Text

from editing.errors import UsageError
from flows.cli.app import Json, Option, app, method_options
from flows.cli.console import as_json, say, table


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option(help="Say what a job takes of memory with this model, from its configuration alone.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of its weights; that of the settings.")] = None,
    option: Option = None,
    json: Json = False,
) -> None:
    """What is installed, reachable and writable; exit code 1 if something that is needed is not.

    Examples:

        errata doctor

        errata doctor --model ./our-model --dtype bfloat16
    """
    if model is not None:
        from flows.cli.memory_table import show_memory

        show_memory(model, dtype, method_options(option), json)
        return
    if dtype is not None or option:
        given = "--dtype" if dtype is not None else "--option"
        raise UsageError(f"{given} is of a model's memory; name the model with --model, or leave {given} out")
    from flows.cli.checks import all_checks

    found = all_checks()
    if json:
        as_json([{"check": name, "ok": ok, "found": what} for name, ok, what in found])
    else:
        rows = [[name, Text("ok", "green") if ok else Text("fails", "red"), what] for name, ok, what in found]
        table("errata doctor", ["check", "", "found"], rows)
    if not all(ok for _, ok, _ in found):
        if not json:
            say("what fails says what to do")
        sys.exit(1)
