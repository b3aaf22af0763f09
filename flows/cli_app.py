"""The command line's root, and the arguments that several commands share."""

from typing import Annotated

import typer

app = typer.Typer(
    name="errata",
    help="Correct facts inside a language model: submit, run, review, approve, roll back.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

Line = Annotated[str, typer.Argument(help="The line: one served model.", envvar="ERRATA_LINE")]
LineOption = Annotated[str, typer.Option("--line", "-l", help="The line: one served model.", envvar="ERRATA_LINE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it stands in the ledger.")]
