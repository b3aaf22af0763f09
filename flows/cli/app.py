"""The command line's root, and what several commands share: arguments, definitions of a line, how Ctrl-C is answered.

Commands stand in modules by topic. In those, what takes seconds to import (torch, transformers, prefect, mlflow) is
imported inside the commands that need it, so that `errata --help` and a mistyped option are answered at once.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from editing.errors import UsageError
from tasks.addresses import folder_of
from tasks.secrets import without_secrets

if TYPE_CHECKING:
    from tasks.workplace import Workplace

app = typer.Typer(
    name="errata",
    help="Correct facts inside a language model: submit, run, review, approve, roll back.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

DEFAULT_LINE = "main"
METHOD_EXAMPLE = "layers=[4,5,6]"
"""Of a method's options one that every method has."""
Line = Annotated[str, typer.Argument(help="The line: one served model.", envvar="ERRATA_LINE")]
LineOption = Annotated[str, typer.Option("--line", "-l", help="The line: one served model.", envvar="ERRATA_LINE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def _checked(reason: str) -> str:
    if not reason:
        return reason
    from tasks.text import check_length  # here: most commands have no reason

    return check_length(reason)


Reason = Annotated[str, typer.Option("--reason", "-r", callback=_checked, help="Why; it stands in the ledger.")]
Version = Annotated[int | None, typer.Option("--version", "-v", min=0, help="Which version; see errata review.")]
Text = Annotated[Path | None, typer.Option(help="Text that perplexity is taken on.")]
StatisticsText = Annotated[Path | None, typer.Option(help="Text behind the key statistics.")]
Option = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", help="Option of the method, NAME=VALUE, e.g. search.steps=25; repeatable."),
]
System = Annotated[
    str | None,
    typer.Option(
        "--system",
        help="System message of a new line's chat, under which facts are written and asked; none: the model's.",
    ),
]
Join = Annotated[
    str | None, typer.Option("--join", help="What joins prompt and answer: none, space or line; without it, by rule.")
]
Remote = Annotated[
    bool, typer.Option("--remote", help="By a worker, through Prefect's server, as errata deploy has set it up.")
]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Follow a remote run to its end, or only say where it is seen.")
]
Hypernetwork = Annotated[
    str | None,
    typer.Option(
        "--hypernetwork",
        help="The hypernetwork of the method mend: a file or folder, models:/NAME/VERSION, runs:/RUN_ID, a sha256 or "
        "trainings/ID of the store.",
    ),
]


def local_folder(given: str) -> Path:
    """A folder of this machine, which may be written as file://. Raises UsageError for any other address, or none."""
    if not given:
        raise UsageError("'' names no folder; give a path, or . for the folder that you are in")
    try:
        return Path(folder_of(given))
    except ValueError as error:
        raise UsageError(f"'{without_secrets(given)}': {error}") from error


def set_defaults() -> None:
    """What libraries read from the environment when they are imported; what the user has set stays."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    # Commands start a server of their own (flows.cli.prefect_api), never Prefect's, which outlives a killed command.
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait must not spin: machines are shared


def check_line(workplace: "Workplace", line: str) -> None:
    """Raises UsageError for a line that nobody knows, as a mistyped one; where there is none, the default may come."""
    from tasks.lines.stored import lines_instead
    from tasks.names import unknown_line

    others = lines_instead(workplace.store, workplace.ledger, line)
    if others or (others is not None and line != DEFAULT_LINE):
        raise unknown_line(line, others)


def place_of(line: str) -> "Workplace":
    """The workplace, which has this line: a mistyped one is told before anything is imported that takes seconds.

    Raises:
        UsageError: nobody knows the line, or no job has made it yet.
        StorageError, LedgerError: something cannot be reached.
    """
    from tasks.lines.stored import check_made
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    check_made(workplace.store, workplace.ledger, line)
    return workplace


def pairs(options: list[str] | None, name: str, example: str) -> dict[str, Any]:
    """`--set a=1 --set b=x` as a dictionary of values read as JSON, or as text where they are none.

    Raises:
        UsageError: one is no NAME=VALUE; it gives the example.
    """
    import json

    found: dict[str, Any] = {}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UsageError(f"{name} '{option}' must read NAME=VALUE, e.g. {name} {example}")
        try:
            found[key.strip()] = json.loads(value)
        except ValueError:
            found[key.strip()] = value
    return found


def method_options(options: list[str] | None, hypernetwork: str | None = None) -> dict[str, Any]:
    """The method's options by name, of which some have dots (`search.steps`), and its hypernetwork where one is named.

    Raises:
        UsageError: one is no NAME=VALUE, or a name is given both as a value and with values inside.
    """
    from tasks.options import nested  # here: pydantic takes a while, and most commands have no options

    given = nested(pairs(options, "--option", METHOD_EXAMPLE), "option", UsageError)
    return given | ({"hypernetwork": hypernetwork} if hypernetwork else {})


class Stopped(Exception):
    """Ctrl-C ended a command; the message says what stands."""


@contextmanager
def if_stopped(what_stands: str) -> Iterator[None]:
    """Inside, Ctrl-C is answered with what is true of this command."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(what_stands) from error
