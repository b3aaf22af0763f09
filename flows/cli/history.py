"""The command that tells what happened: events of the ledger, and what was in service when."""

from typing import TYPE_CHECKING, Annotated

import typer

from editing.errors import UsageError
from flows.cli.app import Json, LineOption, Version, app, check_line
from flows.cli.console import as_json, say, table, warn

if TYPE_CHECKING:
    from tasks.ledger.events import Event
    from tasks.review.served import Service
    from tasks.workplace import Workplace


@app.command(rich_help_panel="Versions")
def history(
    request: Annotated[
        str | None, typer.Argument(help="A request's id, with --served a line; without it, everything of the line.")
    ] = None,
    line: LineOption = "main",
    version: Version = None,
    limit: Annotated[int, typer.Option(min=1, help="The latest so many events.")] = 50,
    served: Annotated[
        bool, typer.Option("--served", help="Which version was in service when, by whom, on which evidence.")
    ] = False,
    at: Annotated[str | None, typer.Option("--at", help="Of --served, only that moment: 2026-12-01T08:00:00Z.")] = None,
    json: Json = False,
    context: typer.Context = None,  # type: ignore[assignment]  # typer gives one; whoever calls it in Python has none
) -> None:
    """What happened to a request, to a version, or on a line, from the ledger; or what was in service when.

    Examples:

        errata history geo-17

        errata history --version 2

        errata history --line main --limit 200 --json

        errata history main --served

        errata history main --served --at 2026-12-01T08:00:00Z
    """
    if at is not None and not served:
        raise UsageError("--at is a moment of --served: errata history LINE --served --at TIME")
    if served:
        given = [name for name in ("version", "limit") if _is_given(context, name)]
        if given:
            raise UsageError(f"--served tells of all versions of a line; leave --{given[0]} out")
        if request is not None and _is_given(context, "line") and request != line:
            raise UsageError(f"--served tells of one line, and '{request}' and '{line}' are given; name one of them")
        _served(request or line, at, json)
        return
    from tasks.ledger.removals import removals_of
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    ledger = workplace.ledger
    if not (events := ledger.history(request, version, line, limit)):
        check_line(workplace, line)
        if version is not None:
            _check_version(workplace, line, version, request)
    if request is not None:
        removals = [event for name in removals_of(ledger, line, request) for event in ledger.history(name, line=line)]
        events = sorted([*events, *removals], key=lambda event: (event.commit or 0, event.sequence))
    if request is not None and not events:
        raise UsageError(f"line '{line}' knows no request '{request}'; see errata history --line {line}")
    if json:
        as_json([event.model_dump(mode="json") for event in events])
        return
    columns = ["time (UTC)", "request", "event", "version", "batch", "actor", "reason"]
    table(f"events of line {line}", columns, [_event_row(event) for event in events], ["version", "batch"])
    for event in events if request is not None else []:
        if event.payload:
            as_json(dict(event.payload))


def _is_given(context: typer.Context | None, name: str) -> bool:
    """Whether an option stands in the command."""
    source = context.get_parameter_source(name) if context else None
    return source is not None and source.name == "COMMANDLINE"


def _check_version(workplace: "Workplace", line: str, version: int, request: str | None) -> None:
    """Raises UsageError for a version of which there are no events."""
    if version == 0:
        raise UsageError(f"version 0 of line '{line}' is the base, which has no events; name one above 0")
    workplace.store.named_version(line, version)
    if request is not None and workplace.ledger.history(request, line=line, limit=1):
        raise UsageError(
            f"request '{request}' has no event with version {version} of line '{line}'; leave --version out"
        )


def _event_row(event: "Event") -> list[object]:
    time = f"{event.time:%Y-%m-%d %H:%M:%S}"
    return [time, event.request_id, event.event, event.version, event.batch, event.actor, event.reason]


def _served(line: str, at: str | None, json: bool) -> None:
    from tasks.review.served import in_service_at, moment, service_history
    from tasks.workplace import open_workplace

    when = None if at is None else moment(at)
    found = service_history(open_workplace(), line)
    shown = found if when is None else [in_service_at(found, when)]
    if json:
        as_json([one.model_dump(mode="json") for one in shown])
        return
    columns = ["from (UTC)", "to", "version", "put there by", "reason", "approved by", "evidence"]
    table(f"in service on line {line}", columns, [_service_row(one) for one in shown], ["version"])
    for one in shown:
        for note in one.notes:
            warn(f"after move {one.sequence} of HEAD: {note}")
    if when is not None:
        [now] = shown
        what = f"version {now.version}, snapshot {now.snapshot}" if now.snapshot else "the base"
        say(f"in service at {when:%Y-%m-%d %H:%M:%S} UTC: {what}")


def _service_row(one: "Service") -> list[object]:
    since, until = (f"{time:%Y-%m-%d %H:%M:%S}" if time else None for time in (one.since, one.until))
    by = f"{one.actor} ({', '.join(filter(None, (one.action, one.way)))})" if one.actor else ""
    approved = ", ".join([one.approval.actor, *one.approval.votes]) if one.approval else ""
    evidence = ", ".join(run.report for run in one.evidence)
    return [since or "the beginning", until or "now", one.version or "base", by, one.reason, approved, evidence]
