"""Commands about versions: what waits, decisions, and questions to the models."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import Json, Line, LineOption, Reason, Remote, Version, Wait, app, check_line, if_stopped
from flows.cli.console import as_json, number, percent, say, shown_progress, table, warn
from flows.cli.retracting import fault_by_fault

if TYPE_CHECKING:
    from tasks.review.decisions import Decision
    from tasks.stores.manifest import Version as StoredVersion
    from tasks.workplace import Workplace

VERSIONS = "Versions"
"""The heading of these commands in the help."""
LABELS = ("takes", "says it", "rephrased", "neighbors", "same", "fluency", "perplexity")
METRICS = ("efficacy_prob", "efficacy_argmax", "generalization_prob", "locality_prob", "locality_kept")


@app.command(rich_help_panel=VERSIONS)
def review(line: Line = "main", json: Json = False) -> None:
    """What waits for a decision, with its numbers and its corrections.

    Example:

        errata review
    """
    from tasks.ledger.view import look
    from tasks.names import shown_version
    from tasks.review.leaving import leaving_said
    from tasks.tracking.numbers import mlflow_numbers
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    view = look(workplace.store, workplace.ledger, line)
    if not (versions := view.waiting):
        check_line(workplace, line)
    if json:
        as_json([version.manifest.model_dump(mode="json") | {"snapshot": version.snapshot} for version in versions])
        return
    if not versions:
        say(f"nothing waits for review on line {line}")
        return
    columns = ["version", "edits", *LABELS]
    table(f"waiting on line {line}", columns, [[one.number, *_numbers(one)] for one in versions], columns)
    if known := mlflow_numbers(workplace.settings, line):
        say(" · ".join(shown_version(one.number, known.get(one.number)) for one in versions))
    rows, told = _corrections(versions, workplace)
    table("corrections", ["version", "request", "prompt", "change", "efficacy"], rows, ["version", "efficacy"])
    for sentence in told:
        say(sentence)
    newest = f"{line} --version {versions[-1].number}"  # what is decided is what was read here
    if leave := leaving_said(view, versions[-1]):
        say(leave)
    decide = f"errata run {line}" if leave else f"errata approve {newest}"
    say(f'{decide} · errata reject {line} --reason … · errata ask "…" --line {line} · errata ui')


def _numbers(version: "StoredVersion") -> list[object]:
    metrics, live, back = version.manifest.metrics, version.manifest.live, version.manifest.restored
    return [
        (len(version.manifest.request_ids) or f"{len(back)} back") if live is None else f"{len(live)} anew",
        *("" if name not in metrics else f"{metrics[name]:.0%}" for name in METRICS),
        number(metrics.get("fluency"), 2),
        f"x{number(metrics['perplexity_ratio'])}" if "perplexity_ratio" in metrics else "",
    ]


def _corrections(versions: "Sequence[StoredVersion]", workplace: "Workplace") -> tuple[list[list[object]], list[str]]:
    """What each version changes: what it writes, takes out, replaces and writes back; and what is told with it."""
    from tasks.review.facts import stored_facts

    rows, anew = list[list[object]](), list[str]()
    facts = stored_facts(workplace, versions)
    for of, manifest in [(version.number, version.manifest) for version in versions]:
        for name, fact in [(name, facts[name]) for name in manifest.request_ids]:
            change = f"{fact.before or '?'} → {'taken out' if fact.leaves else fact.wanted}"
            takes = percent(fact.metrics.get("efficacy_prob"))
            rows.append([of, name, fact.question, change, takes])
        rows += [[of, old, "", f"replaced by {new}", ""] for old, new in manifest.replaced.items()]
        rows += [[of, name, "", "written back", ""] for name in manifest.restored]
        if manifest.live is not None:
            anew.append(f"version {of}: {len(manifest.live)} facts from the base, in the place of all before it")
    return rows, [*(f"{name}: {'; '.join(fact.told)}" for name, fact in facts.items() if fact.told), *anew]


@app.command(rich_help_panel=VERSIONS)
def approve(
    line: Line = "main",
    version: Version = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--except", help="Leave this request out: the next job makes the version without; repeatable."),
    ] = None,
    reason: Reason = "",
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Put the newest waiting version in service, or the one named, with those it builds on.

    With --except nothing comes into service yet: the next job makes the version without those facts, which waits.

    Examples:

        errata approve

        errata approve main --version 2 --reason "checked by the geography team"

        errata approve main --except geo-17 --reason "no source"
    """
    if remote:
        asked = {"version": version, "reason": reason, "leave_out": leave_out or None}
        _ask_for("approve", line, asked, wait, json)
        return
    if leave_out:
        _leave_out((line, version, reason), leave_out, json)
        return
    _decide("approve", "approved", (line, version, reason), json)


@app.command(rich_help_panel=VERSIONS)
def reject(
    line: Line = "main", version: Version = None, reason: Reason = "", remote: Remote = False, wait: Wait = True,
    json: Json = False,
) -> None:  # fmt: skip
    """Refuse what waits: all of it, or a version and those built on it. A reason is required.

    Example:

        errata reject main --reason "the source was wrong"
    """
    if remote:
        _ask_for("reject", line, {"version": version, "reason": reason}, wait, json)
        return
    _decide("reject", "rejected", (line, version, reason), json)


@app.command(rich_help_panel=VERSIONS)
def rollback(
    line: Line = "main",
    to: Annotated[int | None, typer.Option(min=0, help="The version to serve again; 0 is the base.")] = None,
    with_retracted: Annotated[
        bool, typer.Option("--with-retracted", help="Also what was taken out or replaced since.")
    ] = False,
    without_retracted: Annotated[
        bool,
        typer.Option("--without-retracted", help="The same, and the next job takes that out again. It needs a reason."),
    ] = False,
    reason: Reason = "",
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Serve an earlier version again: the one before, or the one named; forward again only that.

    Examples:

        errata rollback

        errata rollback main --to 0 --reason "complaints about answers on sports"

        errata rollback main --to 3 --without-retracted --reason "worse since version 4"
    """
    held = {"with_retracted": with_retracted, "without_retracted": without_retracted}
    if remote:
        _ask_for("rollback", line, {"to": to, "reason": reason, **{k: v or None for k, v in held.items()}}, wait, json)
        return
    _decide("roll_back", "back to", (line, to, reason), json, **held)


@app.command(rich_help_panel=VERSIONS)
def repair(line: Line = "main", json: Json = False) -> None:
    """Make a line's pointers again where they cannot be read: HEAD, or a version's object.

    HEAD becomes the last one that is recorded; what it points to is checked by its digest. A line whose pointers can
    be read is left as it is.

    Example:

        errata repair main
    """
    from tasks.stores.repair import repair_line
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    check_line(workplace, line)
    done = repair_line(workplace.store, line, workplace.settings.who)
    if json:
        as_json({"line": line, "done": done})
        return
    for text in done or [f"line {line}: HEAD and every version can be read, nothing to do"]:
        say(text)


def _ask_for(flow: str, line: str, asked: Mapping[str, Any], wait: bool, json: bool) -> None:
    """The same by a worker, in the name of whoever asks."""
    from flows.cli.remote import follow_run
    from tasks.settings import load_settings

    follow_run(flow, line, {"line": line, "reviewer": load_settings().who, **asked}, wait, json)


def _leave_out(asked: tuple[str, int | None, str], requests: list[str], json: bool) -> None:
    """Leave out what waits, as (line, version, reason) says."""
    from tasks.review.retracting import leave_out
    from tasks.workplace import open_workplace

    line, version, reason = asked
    with fault_by_fault(), if_stopped("the same again does what is missing"):
        told = leave_out(open_workplace(), line, requests, reason, version=version)
    if json:
        as_json({"left_out": told.done.queued})
        return
    for sentence in told.sentences:
        say(sentence)
    say(f"nothing came into service yet; next: errata run {line}, which makes the version without, and errata review")


def _decide(action: str, verb: str, asked: tuple[str, int | None, str], json: bool, **more: bool) -> None:
    """Decide as (line, version, reason) says, and show what came of it."""
    line = asked[0]
    with if_stopped(f"errata status {line} says where the line stands"):
        from tasks.review import decisions
        from tasks.review.retracting import removals_said
        from tasks.workplace import open_workplace

        decision: Decision = getattr(decisions, action)(open_workplace(), *asked, **more)
    serving = decision.head.version if decision.head else 0
    if json:
        shown = {"versions": decision.versions, "in_service": serving, "warning": decision.warning}
        also: dict[str, object] = {"done_before": decision.done_before, "queued": decision.queued}
        as_json(shown | {name: value for name, value in also.items() if value})
        return
    say(
        f"nothing to do: {decision.done_before}"
        if decision.done_before
        else f"{verb} version {', '.join(str(n) for n in decision.versions)} of line {line}"
    )
    say(f"in service: {'the base' if serving == 0 else f'version {serving}'}")
    for sentence in removals_said(decision.queued):
        say(sentence)
    if decision.queued:
        say(f"next: errata run {line}, which makes the version without, and errata review {line}")
    if decision.warning:
        warn(decision.warning)


@app.command(rich_help_panel=VERSIONS)
def ask(
    prompt: Annotated[list[str], typer.Argument(help="Unfinished sentences for the model to go on from.")],
    line: LineOption = "main",
    tokens: Annotated[int, typer.Option(min=1, max=1000, help="Length of the answers.")] = 16,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--raw", help="As a user of the model's chat, or as text to go on from; none: as the line is."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Ask base, champion (in service) and challenger (waiting) the same, side by side.

    Examples:

        errata ask "The capital of France is"

        errata ask --chat "What is the capital of France?" --tokens 24
    """
    from tasks.lines.stored import known_lines
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    if prompt[0] != line and prompt[0] in known_lines(workplace.store, workplace.ledger):
        warn(f"'{prompt[0]}' is taken for a prompt; the line of that name is asked by --line {prompt[0]}")
    check_line(workplace, line)
    from tasks.lines.specs import resolve_line  # this and these take seconds
    from tasks.review.asking import ask_all, columns_of
    from tasks.review.standing import waiting

    spec = resolve_line(workplace.store.store, workplace.settings, line)
    columns = columns_of(workplace.store.head(line), waiting(workplace, line))
    with shown_progress(json, "asking"):
        answers = ask_all(workplace, spec, columns, prompt, tokens, chat)
    if json:
        as_json(answers)
        return
    names = list(answers[0]["answers"])
    table(f"line {line}", ["prompt", *names], [[a["prompt"], *(a["answers"][name] for name in names)] for a in answers])
