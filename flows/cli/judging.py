"""The command that judges a stored version again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import Json, Line, Text, Version, app, place_of
from flows.cli.console import as_json, say, shown_progress, table
from flows.cli.versions import VERSIONS

if TYPE_CHECKING:
    from tasks.report.data import Check
    from tasks.update.replay import Replayed, Row

TITLES = {
    "batch": "the verdict on the batch of version",
    "root": "the verdict on the root, version",
    "job": "the verdict on the job that ended with version",
}


@app.command(rich_help_panel=VERSIONS)
def judge(
    line: Line = "main",
    version: Version = None,
    text: Text = None,
    ability: Annotated[
        list[Path] | None,
        typer.Option("--ability", help="A file of the policy's questions that is no longer where it was. Repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure a stored version again, by the policy it was judged by, and say whether it comes to the same verdict.

    The newest that waits, or else the one in service, unless a version is named. Nothing is written. Exit code 0: the
    same verdict; 1: another one.

    Examples:

        errata judge

        errata judge main --version 3
    """
    from tasks.review.rereading import report_of, version_to_judge

    workplace = place_of(line)
    stored = version_to_judge(workplace, line, version)
    from tasks.lines.specs import resolve_line  # this and these take seconds
    from tasks.update.replay import judge_again
    from tasks.update.run import read_texts

    spec = resolve_line(workplace.store.store, workplace.settings, line)
    texts = read_texts(text)
    with shown_progress(json, f"judging version {stored.number}"):
        found = judge_again(workplace, spec, stored, report_of(workplace, stored), texts, ability or ())
    same = all(one.is_same for one in found)
    if json:
        as_json({"line": line, "version": stored.number, "same": same, "verdicts": [_data(one) for one in found]})
    else:
        for one in found:
            _show(one, f"{TITLES[one.scope]} {stored.number}")
        say("the same verdict" if same else "another verdict", style="green" if same else "yellow")
    if not same:
        raise typer.Exit(1)


def _show(replayed: "Replayed", title: str) -> None:
    columns, rows = ["check", "request", "then", "now", "allowed", "verdict"], [_cells(row) for row in replayed.rows]
    if not any(row[1] for row in rows):  # the others need its room
        columns, rows = [columns[0], *columns[2:]], [[row[0], *row[2:]] for row in rows]
    table(title, columns, rows, ["then", "now", "allowed"])


def _cells(row: "Row") -> Sequence[object]:
    from tasks.report.render import MARKS
    from tasks.report.verdict import check_lines

    # How many would tell is said by the job's report; twice in each row it leaves no room for the rest.
    alone = (one and one.model_copy(update={"needs": None}) for one in (row.then, row.now))
    then, now = (check_lines([one])[0] if one else None for one in alone)
    known = now or then
    assert known is not None  # a row is of one of them
    was, mark = (MARKS[one.mark] if one else "no such row" for one in (then, now))
    measured = [one.measured if one else "" for one in (then, now)]
    return [known.label, known.request_id, *measured, known.allowed, mark if mark == was else f"{mark}, was {was}"]


def _data(replayed: "Replayed") -> dict[str, Any]:
    rows = [{"then": _plain(row.then), "now": _plain(row.now), "same": row.is_same} for row in replayed.rows]
    return {"of": replayed.scope, "same": replayed.is_same, "rows": rows}


def _plain(check: "Check | None") -> Any:
    import json

    return None if check is None else json.loads(check.model_dump_json())
