"""The command that trains MEND's hypernetwork."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from editing.errors import UsageError
from flows.cli.app import Json, Remote, Wait, app, if_stopped, pairs
from flows.cli.console import as_json, percent, say, shown_progress, table

if TYPE_CHECKING:
    from tasks.training.job import TrainingPlan, TrainingSummary


@app.command("train-mend")
def train_mend(
    data: Annotated[Path, typer.Argument(help="Edits to learn from: zsRE, CounterFact, KnowEdit or own form.")],
    validation: Annotated[Path | None, typer.Option(help="Edits to validate by; without it, some of DATA.")] = None,
    model: Annotated[str | None, typer.Option(help="Base: embedded, a folder, a hub id, a GGUF file.")] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of the base's weights, e.g. bfloat16.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="An edited layer; repeatable. The last three.")] = None,
    projection: Annotated[
        list[str] | None,
        typer.Option(help="An edited module of a layer, e.g. mlp.up_proj; repeatable. The down projection."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Hypernetwork to begin with: models:/NAME/VERSION, a file, a sha256 or trainings/ID. A new one."
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Most time, all runs together.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Most steps, all runs together.")] = 2000,
    every: Annotated[int, typer.Option(min=1, help="Steps between validations, each with a checkpoint.")] = 200,
    patience: Annotated[int, typer.Option(min=1, help="Validations without a better score that end it.")] = 10,
    validation_edits: Annotated[int, typer.Option(min=1, help="Edits to validate by; of DATA a fifth at most.")] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split, the first weights and the order.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            help="rank, learning_rate, step_size, step_learning_rate, warm_up, decay_after, edit_weight, batch, "
            "edits_together, edits_before, ridge, updates_at_once (bounds memory), clip or max_skipped; NAME=VALUE, "
            "repeatable.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in MLflow's registry; mend- and the base's.")] = None,
    line: Annotated[
        str, typer.Option("--line", "-l", help="With --remote: the line that it is deployed for.")
    ] = "main",
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Train the hypernetwork that the method mend needs, and register it in MLflow.

    Killed or interrupted, start it again: it goes on from its last checkpoint, to the same bits. With more
    --steps or --minutes a finished training goes on, too; with fewer it stays as it is.

    Examples:

        errata train-mend zsre_train.parquet --minutes 60

        errata train-mend zsre_train.parquet --start models:/mend-embedded/1 -o edits_together=10 -o batch=1

        errata train-mend edits.jsonl --model ./our-model --layer 10 --layer 11 -o rank=512 -o batch=16
    """
    from editing.methods.mend.method import MendConfig
    from flows.cli.prefect_api import prefect_api
    from flows.cli.remote import follow_run
    from tasks.lines.bases import check_model
    from tasks.lines.hypernetworks import resolve
    from tasks.lines.specs import absolute
    from tasks.names import check_model_name
    from tasks.settings import load_settings
    from tasks.training.data import read_training

    asked: dict[str, Any] = {"layers": layer, "projections": projection or [], "steps": steps, "minutes": minutes}
    asked |= {"every": every, "patience": patience, "validation_edits": validation_edits, "start": start}
    plan = _plan(asked, pairs(option, "--option", "rank=512") | {"seed": seed})
    if remote:
        planned: dict[str, Any] = {"data": data, "plan": plan.model_dump(mode="json", exclude_none=True)}
        given = {"validation": validation, "limit": limit, "model": absolute(model), "dtype": dtype, "name": name}
        follow_run("train-mend", line, planned | given, wait, json)
        return
    settings = load_settings()
    if name is not None:
        check_model_name(name)  # before an hour of training
    if plan.start:  # once: an alias or a file may mean another one later
        plan = plan.model_copy(update={"start": resolve(plan.start, settings)})
    base = absolute(model) or settings.model
    check_model(base, dtype or settings.dtype, MendConfig(layers=plan.layers), settings)
    read_training(data, validation, plan.validation_edits, limit, seed)  # a mistake is found before any work
    with if_stopped("checkpoints stand; start it again, and it goes on from the last"), prefect_api(json) as started:
        from flows.train_mend import train_mend as training

        started()
        with shown_progress(json):
            summary = training(data, plan, validation, limit, model=absolute(model), dtype=dtype, name=name)
    if json:
        as_json(summary.model_dump(mode="json"))
        return
    _show(summary)


def _plan(asked: dict[str, Any], options: dict[str, Any]) -> "TrainingPlan":
    """Raises UsageError that names the option, its value and what is allowed."""
    from pydantic import ValidationError

    from editing.edit import shown
    from editing.methods.mend.options import MendTraining
    from tasks.training.job import TrainingPlan

    try:
        return TrainingPlan.model_validate(asked | {"training": options})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if part != "training")
        known = f"; options are {', '.join(MendTraining.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"train-mend {name} = {shown(first.get('input'))}: {first['msg'].lower()}{known}") from error


def _show(summary: "TrainingSummary") -> None:
    say(
        f"training {summary.training}: {summary.steps} steps in {summary.seconds / 60:.1f} minutes "
        f"(ended: {summary.ended}), the best at step {summary.best_step}"
    )
    rows = [[name, percent(value)] for name, value in summary.validation.items()]
    table("validation", ["metric", "share"], rows, ["share"])
    if summary.refused or summary.skipped:
        say(f"{summary.refused} records refused, {summary.skipped} steps skipped")
    reference = f"models:/{summary.name}/{summary.version}"
    say(f"registered as {reference} (sha256 {summary.hypernetwork[:12]})")
    say(f"next: errata benchmark DATA --method mend --hypernetwork {reference} --out results/")
