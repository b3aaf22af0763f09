"""The command line's root, and the arguments that several commands share."""

import os
from typing import Annotated, Any

import typer

from editing.errors import UsageError

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
Hypernetwork = Annotated[
    str | None,
    typer.Option(
        "--hypernetwork",
        help="The hypernetwork of the method mend: a file or folder, models:/NAME/VERSION, runs:/RUN_ID, a sha256 or "
        "trainings/ID of the store.",
    ),
]


def set_defaults() -> None:
    """What libraries read from the environment when they are imported; what the user has set stays."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    # Where no server is configured Prefect starts one for itself; on a busy machine its 20 seconds are too few.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait must not spin: machines are shared


def pairs(options: list[str] | None, name: str) -> dict[str, Any]:
    """`--set a=1 --set b=x` as a dictionary of values read as JSON, or as text where they are none."""
    import json

    found: dict[str, Any] = {}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UsageError(f"{name} '{option}' must read NAME=VALUE, e.g. {name} min_efficacy=0.95")
        try:
            found[key.strip()] = json.loads(value)
        except ValueError:
            found[key.strip()] = value
    return found
