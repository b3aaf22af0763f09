"""Commands that keep an installation well: watch over a line, and upkeep."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from flows.cli.app import Json, Line, Remote, Wait, app, if_stopped, pairs
from flows.cli.console import as_json, number, plain, say, shown_progress, table, warn

if TYPE_CHECKING:
    from tasks.watch.findings import WatchReport

UPKEEP = "Upkeep"
"""The heading of these commands in the help."""


@app.command(rich_help_panel=UPKEEP)
def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be taken.")] = False,
    min_age_days: Annotated[
        int, typer.Option(min=1, max=3650, help="Nothing is taken that was written or used in these days.")
    ] = 7,
    unused_days: Annotated[
        int, typer.Option(min=1, max=3650, help="Results in the cache that nobody used for so long are taken.")
    ] = 30,
    rest_days: Annotated[
        int, typer.Option(min=1, max=3650, help="A training untouched for so long keeps its best checkpoint alone.")
    ] = 90,
    cache_gib: Annotated[
        float, typer.Option(min=0, help="Above this size the cache loses what was unused longest.")
    ] = 20.0,
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Take away what killed jobs left and caches nobody uses, and join the ledger's small files.

    What was ever committed stays: every version, and all that HEAD may go back to. It can run beside jobs.

    Examples:

        errata maintain --dry-run

        errata maintain --min-age-days 2 --cache-gib 5

        errata maintain --remote
    """
    from tasks.upkeep.tidying import Limits, tidy_up

    limits = Limits(unused_days=unused_days, rest_days=rest_days, cache_gib=cache_gib)
    if remote:
        from flows.cli.remote import follow_run

        asked = {"min_age_days": min_age_days, "dry_run": dry_run, "limits": limits.model_dump(mode="json")}
        follow_run("maintain", "all", asked, wait, json)
        return
    from tasks.workplace import open_workplace

    with if_stopped("what was taken is gone, the rest is as it was"), shown_progress(json, "looking"):
        tidied = tidy_up(open_workplace(), min_age_days, dry_run, limits)
    if json:
        as_json(tidied.model_dump(mode="json"))
    else:
        rows = [[row.kind, row.name, row.size, f"{row.used:%Y-%m-%d}" if row.used else ""] for row in tidied.gone]
        if rows:
            table("leftovers", ["kind", "name", "bytes", "last used"], rows, ["bytes"])
        say(tidied.in_short)
    for text in tidied.skipped:
        warn(f"left as it is: {plain(text)}")
    if tidied.skipped:
        sys.exit(1)


@app.command(rich_help_panel=UPKEEP)
def watch(
    line: Line = "main",
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Load the version in service and ask it for its facts.")
    ] = True,
    sample: Annotated[
        int, typer.Option(min=1, max=100_000, help="Most facts to ask; of more, always the same sample.")
    ] = 50,
    policy: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="Limit of the watch, NAME=VALUE; repeatable.")
    ] = None,
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Look after a line: ask what is in service again, look at what is late, and tell of it.

    The exit code is 1 where what is in service is not as it should be, or something could not be looked at. With a
    Prefect server it is a run on its pages, and sends events that automations wait for. With --remote the exit code
    says whether that run completed.

    Examples:

        errata watch

        errata watch main --no-ask --json

        errata watch main --sample 200 --set min_live_efficacy=0.95 --set queue_hours=24

        errata watch main --remote
    """
    from tasks.watch.policy import make_watch_policy

    # Who types it wants it asked now, and not what it said an hour ago.
    checked = make_watch_policy(**({"ask_hours": 0} | pairs(policy, "--set", "queue_hours=24")))
    if remote:
        from flows.cli.remote import follow_run

        asked = {"line": line, "ask": ask, "sample": sample, "policy": checked.model_dump(mode="json")}
        follow_run("watch", line, asked, wait, json)
        return
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    with if_stopped("nothing of the line was changed that the next watch would not change"):
        if _has_server():
            from flows.cli.prefect_api import prefect_api

            with prefect_api(json) as started:
                from flows.watch import watch as watching

                started()
                with shown_progress(json, "watching"):
                    report = watching(line, ask, sample, checked)
        else:
            from tasks.watch.watching import Watch, watch_over

            with shown_progress(json, "watching"):
                report = watch_over(workplace, Watch(line, checked, ask, sample))
    if json:
        as_json(report.model_dump(mode="json"))
    else:
        _show(report)
    if report.breached or not report.seen:
        sys.exit(1)


def _has_server() -> bool:
    from prefect.settings import get_current_settings

    return bool(get_current_settings().api.url)


def _show(report: "WatchReport") -> None:
    colours = {"breach": "red", "late": "yellow", "repaired": "green"}
    found = [[Text(one.weight, colours[one.weight]), one.kind, one.text] for one in report.findings]
    if found:
        table(f"line {report.line}", ["", "what", "found"], found)
    if report.numbers:
        asked = f"{report.asked} facts asked" if report.asked else "nothing asked"
        rows = [[name, number(value)] for name, value in report.numbers.items()]
        table(asked, ["measured", "value"], rows, ["value"])
    for text in report.done:
        say(text)
    say(report.in_short)
