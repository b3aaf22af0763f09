"""Commands about versions: what waits, decisions, history, and questions to the models."""

from typing import Annotated

import typer

from flows.cli.app import Json, Line, LineOption, Reason, app

VERSIONS = "Versions"
"""The heading of these commands in the help."""


@app.command(rich_help_panel=VERSIONS)
def review(line: Line = "main", json: Json = False) -> None:
    """What waits for a decision, with its numbers and its corrections.

    Example:

        errata review
    """
    from flows.cli import commands

    commands.review(line, json)


Version = Annotated[int | None, typer.Option("--version", "-v", min=0, help="Which version; see errata review.")]


@app.command(rich_help_panel=VERSIONS)
def approve(line: Line = "main", version: Version = None, reason: Reason = "", json: Json = False) -> None:
    """Put the newest waiting version in service, or the one named, with those it builds on.

    Examples:

        errata approve

        errata approve main --version 2 --reason "checked by the geography team"
    """
    from flows.cli import commands

    commands.decide("approve", line, version, reason, json)


@app.command(rich_help_panel=VERSIONS)
def reject(line: Line = "main", version: Version = None, reason: Reason = "", json: Json = False) -> None:
    """Refuse what waits: all of it, or a version and those built on it. A reason is required.

    Example:

        errata reject main --reason "the source was wrong"
    """
    from flows.cli import commands

    commands.decide("reject", line, version, reason, json)


@app.command(rich_help_panel=VERSIONS)
def rollback(
    line: Line = "main",
    to: Annotated[int | None, typer.Option(min=0, help="The version to serve again; 0 is the base.")] = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Serve an earlier version again: the one before, or the one named. Works forward again, too.

    Examples:

        errata rollback

        errata rollback main --to 0 --reason "complaints about answers on sports"
    """
    from flows.cli import commands

    commands.decide("rollback", line, to, reason, json)


@app.command(rich_help_panel=VERSIONS)
def history(
    request: Annotated[str | None, typer.Argument(help="A request's id; without it, everything of the line.")] = None,
    line: LineOption = "main",
    version: Version = None,
    limit: Annotated[int, typer.Option(min=1, help="The latest so many events.")] = 50,
    json: Json = False,
) -> None:
    """What happened to a request, to a version, or on a line, from the ledger.

    Examples:

        errata history demo-03

        errata history --version 2

        errata history --line main --limit 200 --json
    """
    from flows.cli import commands

    commands.history(request, line, version, limit, json)


@app.command(rich_help_panel=VERSIONS)
def ask(
    prompt: Annotated[list[str], typer.Argument(help="Unfinished sentences for the model to go on from.")],
    line: LineOption = "main",
    tokens: Annotated[int, typer.Option(min=1, max=1000, help="Length of the answers.")] = 16,
    json: Json = False,
) -> None:
    """Ask base, champion (in service) and challenger (waiting) the same, side by side.

    Example:

        errata ask "The capital of France is"
    """
    from flows.cli import commands

    commands.ask(prompt, line, tokens, json)
