"""The command about lines: where they stand."""

from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli.app import Json, app
from flows.cli.console import as_json, say, table


@app.command()
def status(
    line: Annotated[str | None, typer.Argument(help="One line; without it, all.")] = None, json: Json = False
) -> None:
    """Where every line stands: in service, waiting, queued, quarantined.

    Example:

        errata status
    """
    from tasks.names import unknown_line
    from tasks.review.standing import line_status
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    events = workplace.ledger.look()
    known = sorted({*workplace.store.lines(), *events})
    if line is not None and line not in known:
        raise unknown_line(line, known)
    rows = [line_status(workplace, name, events) for name in (known if line is None else [line])]
    if json:
        as_json([asdict(row) for row in rows])
        return
    if not rows:
        say("nothing here yet; begin with errata submit FILE")
        return
    shown = [
        [
            row.line,
            f"{row.model or '-'} / {row.method or '-'}",
            "base" if row.in_service == 0 else f"version {row.in_service}",
            ", ".join(f"v{n}" for n in row.waiting),
            ", ".join(f"{count} {state}" for state, count in row.requests.items()),
            row.running,
        ]
        for row in rows
    ]
    table("lines", ["line", "model / method", "in service", "waiting", "requests", "running"], shown)
