"""The command that moves a line to another base."""

from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.app import (
    Hypernetwork,
    Json,
    Option,
    Remote,
    StatisticsText,
    Text,
    Wait,
    app,
    if_stopped,
    method_options,
    place_of,
)
from flows.cli.console import as_json, say, shown_progress, table
from flows.cli.jobs import PolicyFile, PolicyValues, policy_of, show_summary

if TYPE_CHECKING:
    from tasks.report.data import Moved


@app.command(rich_help_panel="Versions")
def migrate(
    line: Annotated[str, typer.Argument(help="The line whose facts are moved; it stays as it is.")],
    model: Annotated[str, typer.Option(help="The other base: embedded, a folder, a hub id, a GGUF file.")],
    to: Annotated[str, typer.Option(help="The new line; without it, LINE and the name of the model.")] = "",
    dtype: Annotated[str | None, typer.Option(help="dtype of the new line's weights, e.g. bfloat16.")] = None,
    template: Annotated[
        Literal["auto", "raw", "chat"] | None, typer.Option(help="How its facts are asked; without it, as LINE's.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message of its chat; without it, LINE's.")] = None,
    method: Annotated[str | None, typer.Option(help="Its method; without it, LINE's.")] = None,
    hypernetwork: Hypernetwork = None,
    option: Option = None,
    policy_file: PolicyFile = None,
    policy: PolicyValues = None,
    text: Text = None,
    statistics_text: StatisticsText = None,
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Move the facts in service to another base, such as the next release of the model, as a new line.

    What that base says already is left out. The rest is searched there, and batches are validated as always; the
    report sets both lines side by side. Killed or interrupted, start it again.

    Examples:

        errata migrate main --model ./our-model-v2

        errata migrate products --model ./our-model-v2 --to products-v2 --set min_efficacy=0.95
    """
    if not remote:
        workplace = place_of(line)
    (checked, form), target = policy_of(policy_file, policy), to or _name(line, model)
    options = method_options(option, hypernetwork) or None
    asked: dict[str, Any] = {"line": line, "model": model, "to": target, "dtype": dtype, "template": template}
    asked |= {"system": system, "method": method, "options": options}
    if remote:
        from flows.cli.remote import follow_run

        files = {"text": text, "statistics_text": statistics_text}
        follow_run("migrate", line, {**asked, **files, "policy": form}, wait, json)
        return
    from flows.cli.prefect_api import prefect_api  # this and these take seconds
    from tasks.lines.specs import resolve_line
    from tasks.update.beforehand import check_job
    from tasks.update.moving import check_target, definition, source_of

    source = source_of(workplace, line, target)  # a mistake is found before any work
    made = definition(source, model, dtype, template, system, method, options)
    spec = resolve_line(workplace.store.store, workplace.settings, target, **made)
    check_target(workplace, source, spec)
    check_job(spec, workplace.settings, checked, (text, statistics_text))
    if not json:
        say(f"moving {len(source.facts)} facts of line {line} to {target}", style="bold")
    with if_stopped("what was committed stands, the same again goes on"), prefect_api(json) as started:
        from flows.migrate import migrate as migrate_flow

        started()
        with shown_progress(json):
            summary = migrate_flow(**asked, policy=checked, text=text, statistics_text=statistics_text)
    if json:
        as_json(summary.model_dump(mode="json"))
        return
    if summary.moved is not None:
        _show_moved(summary.moved)
    show_summary(target, summary, json)


def _name(line: str, model: str) -> str:
    """A name for the new line, of what a name may hold."""
    own = PurePath(model.rstrip("/")).name.lower().removesuffix(".gguf")
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in own).strip("-")
    return f"{line}-{kept}"[:63].rstrip("-")


def _show_moved(moved: "Moved") -> None:
    known = sum(row.known for row in moved.rows)
    columns = ["asked", "wanted", f"line {moved.line} says", "the new base says", *(["known"] if known else [])]
    rows = [
        [one.asked, one.target, one.line_says, one.base_says, "✓" if one.known else ""][: len(columns)]
        for one in moved.rows
    ]
    table("side by side", columns, rows)
    say(f"of {len(rows)} facts the new base says {known} already")
