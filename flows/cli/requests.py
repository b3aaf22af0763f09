"""Commands about requests: submit them, try them, and what became of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editing.errors import UsageError
from flows.cli.app import (
    Hypernetwork,
    Join,
    Json,
    LineOption,
    Option,
    Remote,
    System,
    Wait,
    app,
    check_line,
    if_stopped,
    method_options,
)
from flows.cli.console import as_json, percent, say, shown_progress, table, warn
from flows.cli.given import joined, probe, records, show_read, warn_all

if TYPE_CHECKING:
    from editing.edit import Edit
    from flows.trial import TrialRow
    from tasks.ledger.table import Ledger


@app.command()
def submit(
    file: Annotated[
        list[Path] | None, typer.Argument(help="Requests: files, a folder of them, or - for standard input.")
    ] = None,
    line: LineOption = "main",
    subject: Annotated[str | None, typer.Option(help="Whom or what the fact is about.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The question as an unfinished sentence, '{}' for the subject.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The new answer.")] = None,
    true: Annotated[str | None, typer.Option(help="The answer that is to go.")] = None,
    paraphrase: Annotated[list[str] | None, typer.Option(help="The same question in other words; repeatable.")] = None,
    question: Annotated[
        str | None, typer.Option(help="How a person would ask in a chat, '{}' for the subject.")
    ] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Another spelling of the new answer; repeatable.")] = None,
    neighbor: Annotated[
        list[str] | None, typer.Option(help="A question that must keep its answer, 'question => answer'; repeatable.")
    ] = None,
    request_id: Annotated[str, typer.Option("--id", help="An id of your own; else one from the content.")] = "",
    source: Annotated[str | None, typer.Option(help="Where the fact is from.")] = None,
    requested_by: Annotated[str | None, typer.Option(help="Who asked for it.")] = None,
    ticket: Annotated[str | None, typer.Option(help="Its number elsewhere.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A word that it can be found by; repeatable.")] = None,
    priority: Annotated[
        str | None, typer.Option(help="urgent, normal or low: what is urgent is written first.")
    ] = None,
    not_before: Annotated[str | None, typer.Option(help="A job leaves it queued until then: 2026-12-01.")] = None,
    expires: Annotated[str | None, typer.Option(help="From then on it is to be taken out again: 2027-06-30.")] = None,
    replaces: Annotated[str | None, typer.Option(help="The request whose place it takes, by its id.")] = None,
    join: Join = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check only; nothing is written.")] = False,
    json: Json = False,
) -> None:
    """Queue corrections: a file of them, or one by options.

    A bad record stops nothing: it stands in the ledger as rejected, with the reason. Submitting the same file
    again changes nothing. CounterFact, zsRE, KnowEdit and other published files are recognised by their fields.

    Examples:

        errata submit requests.jsonl

        errata submit --subject France --prompt "The capital of {} is" --target Lyon --true Paris

        errata submit --subject Acme --prompt "{} is led by" --target "Ann Lee" --ticket HR-17 --expires 2027-06-30
    """
    fields = {
        "subject": subject,
        "prompt": prompt,
        "target_new": target,
        "target_true": true,
        "question": question,
        "id": request_id or None,
        "source": source,
        "requested_by": requested_by,
        "ticket": ticket,
        "priority": priority,
        "not_before": not_before,
        "expires": expires,
        "replaces": replaces,
    }
    single = {name: value for name, value in fields.items() if value is not None}
    if (not file) == (not single):
        raise UsageError("give a file, or --subject, --prompt and --target; see errata submit --help")
    neighborhood = [probe(text) for text in neighbor or []]
    lists = {"paraphrases": paraphrase or [], "aliases": alias or [], "neighborhood": neighborhood, "tags": tag or []}
    from tasks.ledger.reading import Read, judged, verdicts

    read = Read()
    given = joined(records(file or [], single | lists, limit, read), join)
    if dry_run:
        with shown_progress(json, "reading"):
            found = verdicts(judged(given), read, whole=json)
        show_read(found, json)
        warn_all(read.unused)
        return
    from tasks.ledger import intake
    from tasks.names import new_line
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    is_new = line not in workplace.ledger.look(line)
    with (
        if_stopped("submit the same again: what is queued already is not queued twice"),
        shown_progress(json, "reading"),
    ):
        done = intake.submit(workplace.ledger, line, given, workplace.settings.who, read.findings)
    done.findings |= _to_leave(workplace.ledger, line, done.present) if done.present else {}
    warn_all(read.unused)
    if json:
        told = {"queued": done.queued, "present": done.present, "rejected": done.rejected}
        as_json(told | ({"findings": done.findings} if done.findings else {}))
        return
    say(f"{len(done.queued)} queued, {len(done.present)} already there, {len(done.rejected)} rejected")
    for name, reason in done.rejected.items():
        say(f"{name}: {reason}", "rejected")
    for name, findings in done.findings.items():
        say(f"{name}: {'; '.join(findings)}", "warning")
    if is_new and (others := workplace.ledger.look().keys() - {line}):
        warn(new_line(line, others))
    if done.queued:
        say(f"next: errata run {line}")


def _to_leave(ledger: "Ledger", line: str, present: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What is there already and leaves all the same, and how it would stay."""
    from tasks.ledger.removals import pending_removals

    pending = pending_removals(ledger.look(line)[line].standings)
    said = "is there, and to be taken out by request '{0}': errata retract {0} keeps it"
    return {name: (said.format(pending[name]),) for name in present if name in pending}


@app.command()
def trial(
    file: Annotated[
        list[Path] | None, typer.Argument(help="Requests to try, as submit reads them; without any, what is queued.")
    ] = None,
    line: LineOption = "main",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    model: Annotated[str | None, typer.Option(help="Base, where the line does not exist yet.")] = None,
    template: Annotated[
        Literal["auto", "raw", "chat"] | None,
        typer.Option(
            help="How a new line's facts are asked: bare prompts (raw), or in a chat too; auto: if it has one."
        ),
    ] = None,
    system: System = None,
    join: Join = None,
    method: Annotated[str | None, typer.Option(help="Method, where the line does not exist yet.")] = None,
    hypernetwork: Hypernetwork = None,
    option: Option = None,
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Try every correction alone against the base, and show what it would do. Nothing is kept.

    Examples:

        errata trial requests.jsonl --limit 5

        errata trial

        errata trial requests.jsonl --line new --method mend --hypernetwork models:/mend-embedded/1
    """
    from flows.cli.remote import follow_run
    from tasks.ledger.trying import as_records, read_to_try, to_try
    from tasks.workplace import open_workplace

    options = method_options(option, hypernetwork)
    definition: dict[str, Any] = {"line": line, "model": model, "template": template, "join": join}
    definition |= {"system": system, "method": method, "options": options or None}
    if remote:
        what = {"records": as_records(_told(read_to_try(file, limit)))} if file else {"limit": limit}
        follow_run("trial", line, definition | what, wait, json)
        return
    workplace = open_workplace()
    if not file:
        check_line(workplace, line)
    from editing.methods import check_mode  # this and these take seconds
    from flows.cli.prefect_api import prefect_api
    from tasks.lines.bases import check_base
    from tasks.lines.specs import resolve_line

    spec = resolve_line(workplace.store.store, workplace.settings, **definition)
    check_mode(spec.config.method, "independent")
    check_base(spec, workplace.settings)
    edits = _told(read_to_try(file, limit) if file else to_try(workplace.ledger, line, limit=limit))
    with if_stopped("a trial keeps nothing"), prefect_api(json) as started:
        from flows.trial import heard
        from flows.trial import trial as trial_flow

        started()
        with shown_progress(json):
            rows = trial_flow(records=as_records(edits), **definition)
    if json:
        as_json([row.model_dump() for row in rows])
        return
    shown = [
        [
            row.request_id,
            asked,
            before[:40],
            after[:40],
            row.target_new,
            *("–" if share is None else "yes" if share else "no" for share in _said(row)),
            percent(row.after.get("efficacy_prob")),
            percent(row.after.get("generalization_prob")),
            percent(row.after.get("locality_kept")),
        ]
        for row in rows
        for asked, before, after in [heard(row)]
    ]
    columns = ["request", "asked", "base says", "would say", "wanted", "in the chat", "after its prompt"]
    columns += ["efficacy", "paraphrases", "neighbors kept"]
    table("every correction alone, against the base", columns, shown, columns[7:])


def _said(row: "TrialRow") -> "tuple[float | None, float | None]":
    return row.said_after.get("said_chat"), row.said_after.get("said_prompt")


def _told(read: "tuple[list[Edit], list[str]]") -> "list[Edit]":
    """The corrections; what is left out is said."""
    edits, said = read
    warn_all(said)
    return edits
