"""The command that trains MEND's hypernetwork."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.app import Json, app, pairs


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
    steps: Annotated[int, typer.Option(help="Most steps, all runs together.")] = 2000,
    every: Annotated[int, typer.Option(help="Steps between validations, each with a checkpoint.")] = 200,
    patience: Annotated[int, typer.Option(help="Validations without a better score that end it.")] = 10,
    validation_edits: Annotated[int, typer.Option(help="Edits to validate by.")] = 64,
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
    json: Json = False,
) -> None:
    """Train the hypernetwork that the method mend needs, and register it in MLflow.

    Killed or interrupted, start it again: it goes on from its last checkpoint, to the same bits. With more
    --steps or --minutes a finished training goes on, too.

    Examples:

        errata train-mend zsre_train.parquet --minutes 60

        errata train-mend zsre_train.parquet --start models:/mend-embedded/1 -o edits_together=10 -o batch=1

        errata train-mend edits.jsonl --model ./our-model --layer 10 --layer 11 -o rank=512 -o batch=16
    """
    from flows.cli import training

    asked: dict[str, Any] = {"layers": layer, "projections": projection or [], "steps": steps, "minutes": minutes}
    asked |= {"every": every, "patience": patience, "validation_edits": validation_edits, "start": start}
    plan = training.make_plan(asked, pairs(option, "--option") | {"seed": seed})
    training.run(data, plan, validation, limit, {"model": model, "dtype": dtype, "name": name}, json)
