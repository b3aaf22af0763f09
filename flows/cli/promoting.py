"""The command that carries an approved version from one home to the next."""

from pathlib import Path
from typing import Annotated

import typer

from editing.errors import UsageError
from flows.cli.app import Json, Line, Reason, Remote, Wait, app, if_stopped, local_folder
from flows.cli.console import as_json, say, shown_progress, warn
from flows.cli.versions import VERSIONS


@app.command(rich_help_panel=VERSIONS)
def promote(
    line: Line = "main",
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="The home in which the version was approved; HOME/LINE, where its name differs.",
            parser=local_folder,
        ),
    ] = None,
    reason: Reason = "",
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Put in service here what is in service in another home, with all that it is built on, checked by digest.

    The line here follows the other home alone: it has no versions of its own, and each has the number and the snapshot
    that it has there. The version is loaded here before it comes into service. Killed, the same again goes on.

    Examples:

        errata promote main --from /srv/errata-staging

        errata promote main --from /srv/errata-staging/candidates

        ERRATA_HOME=/srv/errata errata promote main --from ~/.errata --reason "release 12"
    """
    if source is None:
        raise UsageError("say from where: errata promote LINE --from HOME")
    if remote:
        from flows.cli.remote import follow_run
        from tasks.settings import load_settings

        asked = {"line": line, "reviewer": load_settings().who, "source": source.expanduser().absolute()}
        follow_run("promote", line, {**asked, "reason": reason}, wait, json)
        return
    from tasks.keeping.sources import named_source

    home, named = named_source(source, line)
    from tasks.keeping.promoting import open_other
    from tasks.keeping.promoting import promote as carry
    from tasks.settings import settings_of
    from tasks.workplace import open_workplace

    with if_stopped("the same again goes on"), shown_progress(json, "promoting"):
        done = carry(open_workplace(), open_other(settings_of(home)), line, reason, named)
    if json:
        as_json(
            {"version": done.version, "snapshot": done.snapshot, "carried": done.carried, "notes": done.notes}
            | {"done_before": done.decision.done_before, "warning": done.decision.warning}
        )
        return
    for text in filter(None, (*done.notes, done.decision.warning)):
        warn(text)
    say(done.decision.done_before or f"{done.carried} versions carried, each by its digest")
    say(f"in service: version {done.version}, snapshot {done.snapshot}")
