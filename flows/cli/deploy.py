"""The command that puts schedules, forms and automations of lines on a Prefect server."""

import shlex
from contextlib import suppress
from typing import Annotated

import typer

from flows.cli.app import Json, app
from flows.cli.console import as_json, console, errors, say, table, waiting, warn


@app.command()
def deploy(
    lines: Annotated[
        list[str] | None, typer.Argument(metavar="[LINE]...", help="The lines; main.", envvar="ERRATA_LINE")
    ] = None,
    cron: Annotated[
        str | None,
        typer.Option(
            help='When the job of these lines runs, in UTC, as "0 3 * * *"; "" for never. As it is, or nightly.'
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    json: Json = False,
) -> None:
    """Put the schedules, forms and automations of lines on the configured Prefect server.

    Repeated, it changes what differs and nothing else. Schedules that were changed on Prefect's pages stay, and what is
    paused there stays paused.

    Examples:

        errata deploy

        errata deploy main products --cron "0 2 * * *"

        errata deploy --dry-run
    """
    from editing.errors import ErrataError
    from flows.cli.deployment_table import read_table
    from flows.cli.remote import configured_client
    from tasks.lines.stored import lines_instead
    from tasks.names import check_line, new_line
    from tasks.secrets import without_secrets
    from tasks.settings import load_settings
    from tasks.workplace import open_workplace

    chosen = list(dict.fromkeys(check_line(line) for line in lines or ["main"]))
    settings = load_settings()
    with suppress(ErrataError):  # who deploys need not reach the stores
        workplace = open_workplace(settings)
        for line in chosen:
            if others := lines_instead(workplace.store, workplace.ledger, line):
                warn(new_line(line, others))
    with configured_client() as client, waiting("looking at Prefect's server", errors if json else console):
        from flows.cli.automating import automate_all
        from flows.cli.deploying import Deployer, deploy_all

        deployer = Deployer(client, read_table(), dry_run)
        deploy_all(deployer, chosen, cron)
        automate_all(deployer, chosen, settings.notify.get_secret_value().split())
    if json:
        as_json([done._asdict() for done in deployer.done])
        return
    shown = [
        [done.kind, done.name, f"would be {done.change}" if dry_run else done.change, done.about]
        for done in deployer.done
    ]
    table("nothing was changed" if dry_run else "on Prefect's server", ["", "name", "", ""], shown)
    if not dry_run:
        from prefect.settings import get_current_settings  # after ours, which it reads

        address = f"PREFECT_API_URL={shlex.quote(without_secrets(get_current_settings().api.url or ''))} "
        worker = f"python -m prefect worker start --pool {deployer.table.work_pool} --type process"
        say(f"next, where jobs shall run: {address}{worker}")
