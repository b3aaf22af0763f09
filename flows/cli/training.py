"""What `errata train-mend` does: check what is asked, train, show the result."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from editing.edit import shown
from editing.errors import UsageError
from editing.methods.mend.options import MendTraining
from flows.cli.console import as_json, console, percent, shown_progress, table
from tasks.lines.hypernetworks import resolve
from tasks.lines.specs import absolute
from tasks.names import check_model_name
from tasks.settings import load_settings
from tasks.training.data import read_training
from tasks.training.job import TrainingPlan, TrainingSummary


def make_plan(asked: dict[str, Any], options: dict[str, Any]) -> TrainingPlan:
    """Raises UsageError that names the option, its value and what is allowed."""
    try:
        return TrainingPlan.model_validate(asked | {"training": options})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if part != "training")
        known = f"; options are {', '.join(MendTraining.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"train-mend {name} = {shown(first.get('input'))}: {first['msg'].lower()}{known}") from error


def run(
    data: Path, plan: TrainingPlan, validation: Path | None, limit: int | None, base: dict[str, Any], json: bool
) -> None:
    settings = load_settings()
    if base["name"] is not None:
        check_model_name(base["name"])  # before an hour of training
    if plan.start:
        resolve(plan.start, settings)
    read_training(data, validation, plan.validation_edits, limit, plan.training.seed)  # before Prefect starts
    from flows.cli.servers import check_prefect
    from flows.train_mend import train_mend

    check_prefect()
    base["model"] = absolute(base["model"])
    with shown_progress(json):
        summary = train_mend(data, plan, validation, limit, **base)
    if json:
        as_json(summary.model_dump(mode="json"))
        return
    show(summary)


def show(summary: TrainingSummary) -> None:
    rows = [[name, percent(value)] for name, value in summary.validation.items()]
    console.print(
        f"training {summary.training}: {summary.steps} steps in {summary.seconds / 60:.1f} minutes "
        f"(ended: {summary.ended}), the best at step {summary.best_step}"
    )
    table("validation", ["metric", "share"], rows, ["share"])
    if summary.refused or summary.skipped:
        console.print(f"{summary.refused} records refused, {summary.skipped} steps skipped")
    reference = f"models:/{summary.name}/{summary.version}"
    console.print(f"registered as {reference} (sha256 {summary.hypernetwork[:12]})")
    console.print(f"next: errata benchmark DATA --method mend --hypernetwork {reference} --out results/")
