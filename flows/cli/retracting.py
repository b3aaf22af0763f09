"""The command that takes facts out of a line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from editing.errors import ReadError, UsageError
from flows.cli.app import Json, LineOption, Reason, Remote, Wait, app, if_stopped
from flows.cli.console import as_json, say, warn

IdsFile = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="More of them: ids, one a line, or a file of requests; - is standard input."),
]


@app.command(rich_help_panel="Versions")
def retract(
    request: Annotated[list[str] | None, typer.Argument(help="Ids of requests; see errata history.")] = None,
    line: LineOption = "main",
    file: IdsFile = None,
    reason: Reason = "",
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Take facts out of a line. A reason is required.

    What no version holds is withdrawn at once. The rest leaves with the next job, as a version that waits for review.

    Examples:

        errata retract geo-17 --reason "the source was wrong"

        errata retract --file old.txt --line products --reason "no longer sold"
    """
    names = [*(request or []), *(ids_in(file) if file else [])]
    if remote:
        from flows.cli.remote import follow_run
        from tasks.settings import load_settings

        asked = {"line": line, "reviewer": load_settings().who, "requests": names, "reason": reason}
        follow_run("retract", line, asked, wait, json)
        return
    from tasks.review import retracting
    from tasks.workplace import open_workplace

    with fault_by_fault(), if_stopped("the same again does what is missing"):
        told = retracting.retract(open_workplace(), line, names, reason)
    if json:
        as_json({"withdrawn": told.done.withdrawn, "queued": told.done.queued})
        return
    for sentence in told.sentences:
        say(sentence)
    if told.done.queued:
        say(f"next: errata run {line}")


@contextmanager
def fault_by_fault() -> Iterator[None]:
    """Inside, what cannot be taken out is named a line each. Raises UsageError."""
    from tasks.ledger.removals import CannotTakeOut

    try:
        yield
    except CannotTakeOut as error:
        if len(error.faults) == 1:
            raise
        for why in error.faults:
            warn(why)
        raise UsageError(f"{len(error.faults)} cannot be taken out; nothing was changed") from error


def ids_in(file: Path) -> list[str]:
    """The ids in a file, or on standard input (`-`): those of its records, or its lines. Raises ReadError."""
    from editing.readers import read_all
    from editing.readers.containers import ENDINGS, as_it_is, kind_of
    from editing.readers.lines import BadLine, check_file, decoded, read_lines
    from editing.readers.told import Told
    from tasks.ledger.reading import as_file
    from tasks.parquet import FOREIGN

    with as_file(file) as path:
        if kind_of(path) in ENDINGS[:-1]:
            return [edit.id for edit in read_all(path, foreign=FOREIGN)]
        check_file(path)
        with as_it_is(path, FOREIGN) as plain, plain.open("rb") as opened:
            try:
                lines = [decoded(line).strip() for line in read_lines(opened, Told())]
            except BadLine as error:
                raise ReadError(f"{str(path)!r} {error}") from error
    return [line for line in lines if line]
