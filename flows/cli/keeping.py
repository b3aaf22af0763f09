"""Commands that keep an installation beyond its disk, and what it must not keep: backup, restore, forget."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import Json, LineOption, Reason, Remote, Wait, app, if_stopped, local_folder
from flows.cli.console import as_json, say, shown_progress, warn
from flows.cli.retracting import IdsFile, ids_in
from flows.cli.upkeep import UPKEEP


@app.command(rich_help_panel=UPKEEP)
def backup(
    to: Annotated[
        Path, typer.Argument(help="A new folder; it is written beside and named at the end.", parser=local_folder)
    ],
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Copy everything of this installation as one consistent set, while jobs run.

    Ledger, store and pointers, MLflow's and Prefect's databases in files, artifacts. What is kept by servers is named,
    with how it is copied. Killed, the same again goes on.

    Examples:

        errata backup /backups/errata-2026-12-01

        errata backup /backups/errata-2026-12-01 --json
    """
    if remote:
        from flows.cli.remote import follow_run

        follow_run("backup", "all", {"folder": to.expanduser().absolute()}, wait, json)
        return
    from tasks.keeping.backup import backup as take
    from tasks.workplace import open_workplace

    with if_stopped("the same again goes on"), shown_progress(json, "copying"):
        record = take(open_workplace(), to)
    if json:
        as_json({"folder": str(to), "lines": record.lines, "files": len(record.files), "bytes": record.size}
                | {"made": record.made, "left_out": record.left_out})  # fmt: skip
        return
    for text in record.left_out:
        warn(f"not in it: {text}")
    say(f"{to}: {record.in_short}", style="green")


@app.command(rich_help_panel=UPKEEP)
def restore(
    source: Annotated[
        Path, typer.Argument(metavar="FROM", help="A folder that errata backup has written.", parser=local_folder)
    ],
    json: Json = False,
) -> None:
    """Put a backup into a home that is empty: the one that ERRATA_HOME and the other settings name.

    Every digest is checked first. Until all is there no other command works on that home; killed, the same again goes
    on.

    Examples:

        errata restore /backups/errata-2026-12-01

        ERRATA_HOME=/srv/errata errata restore /backups/errata-2026-12-01
    """
    from tasks.keeping.restore import restore as put_back
    from tasks.settings import load_settings

    with if_stopped("the same again goes on"), shown_progress(json, "checking"):
        settings = load_settings()
        done = put_back(settings, source)
    if json:
        as_json({"home": str(settings.home_folder), "lines": done.record.lines, "left_out": done.left_out})
        return
    for text in done.left_out:
        warn(f"not put back: {text}")
    say(f"{settings.home_folder}: {done.record.in_short}", style="green")
    say("next: errata audit")


@app.command(rich_help_panel=UPKEEP)
def forget(
    request: Annotated[list[str] | None, typer.Argument(help="Ids of requests; see errata history.")] = None,
    line: LineOption = "main",
    file: IdsFile = None,
    reason: Reason = "",
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Erase what requests say, wherever this installation has written it. A reason is required.

    A fact in service or in a version that waits is queued as a removal first, and forgotten by the same command when
    the version without it is in service. Versions that held it can be served no more. It cannot be undone, and
    reaches no backup and no export. Killed, the same again does what is missing.

    Examples:

        errata forget hr-17 --reason "asked to by the person"

        errata forget --file ids.txt --line products --reason "HR-42"
    """
    names = [*(request or []), *(ids_in(file) if file else [])]
    if remote:
        from flows.cli.remote import follow_run
        from tasks.settings import load_settings

        asked = {"line": line, "reviewer": load_settings().who, "requests": names, "reason": reason}
        follow_run("forget", line, asked, wait, json)
        return
    from tasks.keeping.forgetting import forget as erase
    from tasks.workplace import open_workplace

    with if_stopped("the same again does what is missing"), shown_progress(json, "forgetting"):
        done = erase(open_workplace(), line, names, reason)
    if json:
        as_json({"forgotten": done.forgotten, "queued": done.queued, "versions": done.versions, "notes": done.notes})
        return
    for text in done.notes:
        warn(text)
    for name, removal in done.queued.items():
        say(f"{name}: to be taken out first, by request {removal}")
    for name in done.forgotten:
        say(f"{name}: forgotten")
    if done.versions:
        say(f"versions that can be served no more: {', '.join(map(str, done.versions))}")
    if done.queued:
        say(f"next: errata run {line}, errata approve {line}, then the same errata forget again")
