"""The commands that run a job: write what is queued into the model, or make a line anew."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.app import (
    Hypernetwork,
    Join,
    Json,
    Line,
    Remote,
    StatisticsText,
    System,
    Text,
    Wait,
    app,
    if_stopped,
    method_options,
    pairs,
    place_of,
)
from flows.cli.console import as_json, number, percent, say, shown_progress, table, warn

if TYPE_CHECKING:
    from tasks.report.data import JobReport
    from tasks.update.journal import JobSummary
    from tasks.update.policy import Policy

PolicyFile = Annotated[Path | None, typer.Option("--policy", "-p", help="Policy of the job: a file, .toml or .yaml.")]
PolicyValues = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Policy value above the file's, NAME=VALUE; repeatable.")
]
METRICS = ("efficacy_prob", "efficacy_argmax", "generalization_prob", "locality_prob", "locality_kept")


def policy_of(file: Path | None, values: list[str] | None) -> tuple["Policy", dict[str, Any] | None]:
    """The policy of a job, checked; and as a form takes it, None where nothing of it is given."""
    from tasks.update.policy_file import given_policy

    checked = given_policy(file, pairs(values, "--set", "min_efficacy=0.95"))
    return checked, checked.as_form() if values or file else None


@app.command()
def run(
    line: Line = "main",
    limit: Annotated[int | None, typer.Option(min=1, help="Most requests to take up.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Take up this request alone, by its id; repeatable.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Base of a new line: embedded, a folder, a hub id, a GGUF file.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of a new line's weights, e.g. bfloat16.")] = None,
    template: Annotated[
        Literal["auto", "raw", "chat"] | None,
        typer.Option(
            help="How a new line's facts are asked: bare prompts (raw), or in a chat too; auto: if it has one."
        ),
    ] = None,
    system: System = None,
    join: Join = None,
    method: Annotated[
        str | None,
        typer.Option(help="Method of a new line: memit, alphaedit, emmet, rome, finetune, ultraedit, lora, mend."),
    ] = None,
    hypernetwork: Hypernetwork = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Option of a new line's method, NAME=VALUE; repeatable.")
    ] = None,
    policy_file: PolicyFile = None,
    policy: PolicyValues = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Workers that prepare, search values and ask the candidate beside the job; as --set workers=N.",
        ),
    ] = None,
    text: Text = None,
    statistics_text: StatisticsText = None,
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Write what is queued into the model, batch by batch, and register what validates for review.

    Killed or interrupted, start it again: nothing is lost and nothing is applied twice.

    Examples:

        errata run

        errata run products --model ./our-model --dtype bfloat16

        errata run support --template raw

        errata run support --system "You are the assistant of Acme."

        errata run main --only geo-17 --only geo-18

        errata run main --limit 20 --set min_efficacy=0.95 --set levels.perplexity.worse_than_base=0.02

        errata run main --policy policy.toml

        errata run quick --method mend --hypernetwork models:/mend-embedded/1

        errata run main --remote

        errata run main --workers 8
    """
    from flows.cli.prefect_api import prefect_api
    from flows.cli.remote import follow_run
    from tasks.lines.rules import check_not_frozen
    from tasks.lines.specs import resolve_line
    from tasks.lines.stored import lines_instead
    from tasks.names import new_line
    from tasks.update.beforehand import check_job, check_ledger
    from tasks.workplace import open_workplace

    searchers = [] if workers is None else [f"workers={workers}"]
    checked, form = policy_of(policy_file, [*(policy or []), *searchers])
    definition: dict[str, Any] = {
        "model": model,
        "dtype": dtype,
        "template": template,
        "system": system,
        "join": join,
        "method": method,
        "options": method_options(option, hypernetwork),
    }
    if remote:
        files = {"text": text, "statistics_text": statistics_text}
        given = {
            "options": definition["options"] or None,
            "policy": form,
        }
        follow_run(
            "knowledge-update", line, {"limit": limit, "only": only or None, **files, **definition, **given}, wait, json
        )
        return
    workplace = open_workplace()
    # A mistake is found before any work.
    spec = resolve_line(workplace.store.store, workplace.settings, line, **definition)
    check_ledger(line, workplace.ledger, only)
    check_job(spec, workplace.settings, checked, (text, statistics_text))
    check_not_frozen(workplace.store.store, line)
    if others := lines_instead(workplace.store, workplace.ledger, line):
        warn(new_line(line, others))
    if not json:
        say(f"updating line {line}", style="bold")
    with if_stopped("what was committed stands, the rest is still queued"), prefect_api(json) as started:
        from flows.knowledge_update import knowledge_update

        started()
        with shown_progress(json):
            summary = knowledge_update(line, checked, limit, text, statistics_text, only or None, **definition)
    show_summary(line, summary, json)


@app.command()
def rebase(
    line: Line = "main",
    policy_file: PolicyFile = None,
    policy: PolicyValues = None,
    text: Text = None,
    statistics_text: StatisticsText = None,
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Make a line anew from the base: one version with all its live facts, in the place of those before it; it waits.

    The values that its facts were written with are used again; what is queued stays so.

    Examples:

        errata rebase

        errata rebase products --set max_perplexity_ratio=1.05

        errata rebase main --remote
    """
    if not remote:
        workplace = place_of(line)
    checked, form = policy_of(policy_file, policy)
    if remote:
        from flows.cli.remote import follow_run

        follow_run("rebase", line, {"text": text, "statistics_text": statistics_text, "policy": form}, wait, json)
        return
    from flows.cli.prefect_api import prefect_api  # this and these take seconds
    from tasks.lines.rules import check_not_frozen
    from tasks.lines.specs import existing_line
    from tasks.update.beforehand import check_job

    spec = existing_line(workplace.store, workplace.ledger, line)
    check_job(spec, workplace.settings, checked, (text, statistics_text))
    check_not_frozen(workplace.store.store, line)
    with if_stopped("the line stands as it did"), prefect_api(json) as started:
        from flows.rebase import rebase as rebase_flow

        started()
        with shown_progress(json):
            summary = rebase_flow(line, checked, text, statistics_text)
    show_summary(line, summary, json)


def show_summary(line: str, summary: "JobSummary", json: bool) -> None:
    """What a job came to."""
    if json:
        as_json(summary.model_dump(mode="json"))
        return
    if summary.report is not None:
        show_report(summary.report)
    say(summary.counted)
    if summary.version is not None:
        newest = f"{line} --version {summary.version}"
        say(f"version {summary.version} waits: errata review {line} · errata approve {newest} · errata ui")
    elif summary.quarantined and not summary.kept and summary.report is not None:
        one = next(edit.request_id for edit in summary.report.edits if edit.state == "quarantined")
        base = shlex.quote(summary.report.base)
        say(f"next: errata history {one} --line {line}; where none takes in this model: errata calibrate {base}")


def show_report(report: "JobReport") -> None:
    """The candidate's numbers beside base and champion, and the verdict on it."""
    from tasks.report.render import MARKS
    from tasks.report.verdict import check_lines, headline

    base, champion, candidate = report.baseline, report.champion or {}, report.candidate
    names = [name for name in (*METRICS, "fluency", "perplexity") if name in candidate]
    show = [
        [n, *(percent(m.get(n)) if n in METRICS else number(m.get(n)) for m in (base, champion, candidate))]
        for n in names
    ]
    columns = ["base", "champion", "candidate"]
    table(f"line {report.line}", ["metric", *columns], show, columns)
    if report.checks:
        lines = check_lines(report.checks)
        rows = [[one.label, one.request_id, one.measured, one.allowed, MARKS[one.mark]] for one in lines]
        table(headline(report)[1], ["check", "request", "measured", "allowed", ""], rows, ["measured", "allowed"])
        for reason in dict.fromkeys(one.reason for one in lines if one.reason):
            say(reason)
    for edit in report.edits:
        for finding in (*edit.told, *edit.findings, *edit.alike):
            say(f"{edit.request_id}: {finding}")
    for one in report.gone:
        say(one.sentence)
