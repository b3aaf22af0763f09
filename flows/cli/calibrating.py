"""The command that finds out what suits a model."""

from typing import TYPE_CHECKING, Annotated

import typer

from editing.edit import shown
from editing.errors import UsageError
from flows.cli.app import Json, app, if_stopped, pairs
from flows.cli.console import as_json, number, percent, say, shown_progress, table, warn

if TYPE_CHECKING:
    from tasks.calibrating.search import CalibrationPlan
    from tasks.lines.calibrations import Calibration

RELIABLE = 0.5
"""Share of its facts that a setting must make said, for new lines to be worth beginning with it."""


@app.command()
def calibrate(
    model: Annotated[
        str | None, typer.Argument(help="Base: embedded, a folder, a hub id, a GGUF file. That of the settings.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of the base's weights, e.g. bfloat16.")] = None,
    facts: Annotated[int | None, typer.Option(min=4, max=100, help="Facts to try on; 10 without it.")] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            help="What is tried: facts, seed, statistics_tokens, perplexity_tokens, deepest, windows, widths, weights, "
            "clamps or steps; NAME=VALUE, repeatable.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Find the layers and strengths that suit a model, for its new lines.

    It asks the model what it knows, changes some of that in memory, and looks what each setting of memit writes and
    what it harms. No benchmark is read and nothing is kept but the outcome, which new lines of this base take for all
    that they leave open. Lines that are there stay as they are. Stopped or killed, start it again: it goes on.

    Facts are written and asked as bare prompts alone, even where new lines take the outcome for the model's chat.

    Examples:

        errata calibrate ./our-model

        errata calibrate gemma-3-270m.gguf --facts 20 --set windows=6
    """
    from tasks.calibrating.job import calibrate as search
    from tasks.lines.specs import absolute
    from tasks.settings import load_settings

    asked = _plan(_given_once(pairs(plan, "--set", "windows=6"), facts))
    settings = load_settings()
    with if_stopped("what was tried is kept; start it again, and it goes on"), shown_progress(json):
        found = search(settings, absolute(model) or settings.model, dtype or settings.dtype, asked)
    if json:
        as_json(found.model_dump(mode="json"))
        return
    _show(found)


def _given_once(values: dict[str, object], facts: int | None) -> dict[str, object]:
    """The values of --set with those of --facts. Raises UsageError where the two say different numbers."""
    if facts is None:
        return values
    if values.get("facts", facts) != facts:
        raise UsageError(f"--facts {facts} and --set facts={shown(values['facts'])} are given; leave one of them out")
    return values | {"facts": facts}


def _plan(values: dict[str, object]) -> "CalibrationPlan":
    """Raises UsageError that names the value and what is allowed."""
    from pydantic import ValidationError

    from tasks.calibrating.search import CalibrationPlan

    try:
        return CalibrationPlan.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = f"; values are {', '.join(CalibrationPlan.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"calibrate {name} = {shown(first.get('input'))}: {first['msg'].lower()}{known}") from error


def _show(found: "Calibration") -> None:
    from tasks.calibrating.search import shown_options

    rows = [
        [
            trial.stage,
            shown_options(trial.options),
            *(percent(trial.metrics[name]) for name in ("efficacy_prob", "efficacy_argmax")),
            *(percent(trial.metrics[name]) for name in ("generalization_prob", "generalization_argmax")),
            percent(trial.metrics["locality_kept"]),
            f"x{trial.metrics['perplexity_ratio']:.3f}",
            number(trial.score),
        ]
        for trial in found.trials
    ]
    heads = ["tried", "setting", "efficacy", "says it", "reworded", "says it", "neighbors", "perplexity", "score"]
    table(f"{len(found.facts)} facts of {found.model}", heads, rows, heads[2:])
    if found.chosen.score > found.rule.score:
        say(
            f"chosen: {shown_options(found.chosen.options)}, score {found.chosen.score:.3f}; the rule's "
            f"{shown_options(found.rule.options)} have {found.rule.score:.3f}"
        )
    else:
        say(f"chosen: {shown_options(found.chosen.options)}, those of the rule; nothing that was tried is better")
    said = found.chosen.metrics["efficacy_argmax"]
    if said < RELIABLE:
        warn(
            f"with it {percent(said)} of these facts are said: of real corrections most would be quarantined; try more "
            "(--set windows=8 --set deepest=0.8), or another method for the line (errata run LINE --method finetune)"
        )
    say(f"new lines of this base ({found.base_digest[:12]}) take it; lines that are there stay as they are")
