"""The command about lines: where they stand."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
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
    from tasks.lines.stored import check_known, known_lines
    from tasks.review.standing import line_status
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    events = workplace.ledger.look()
    if line is not None:
        check_known(workplace.store, workplace.ledger, line)
    shown_lines = known_lines(workplace.store, workplace.ledger) if line is None else [line]
    rows = [line_status(workplace, name, events) for name in shown_lines]
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
            runs_of(row.waiting),
            ", ".join(f"{count} {state}" for state, count in row.requests.items()),
            row.running,
        ]
        for row in rows
    ]
    table("lines", ["line", "model / method", "in service", "waiting", "requests", "running"], shown)


def runs_of(versions: Sequence[int]) -> str:
    """Versions by name, of each that follow one another only the first and the last: `v1 to v9, v11, v12`."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(versions), key=lambda pair: pair[1] - pair[0])]
    named = [[f"v{run[0]} to v{run[-1]}"] if len(run) > 2 else [f"v{n}" for n in run] for run in runs]
    return ", ".join(name for names in named for name in names)
