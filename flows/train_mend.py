"""Training of MEND's hypernetwork: steps, validation and checkpoint in turn, until it is over; then the registry."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.names import artifact_key, check_model_name
from tasks.progress import note
from tasks.tracking.errors import TrackingError
from tasks.training.data import TrainingData, read_training
from tasks.training.job import TrainingJob, TrainingPlan, TrainingSummary
from tasks.training.steps import checkpoint, log_curves, prepare, register, train, validate
from tasks.workplace import open_workplace

NAME_LENGTH = 100


@flow(name="train-mend", flow_run_name="train on {data.name}", persist_result=False)
def train_mend(
    data: Path,
    plan: TrainingPlan = TrainingPlan(),  # noqa: B008  # frozen
    validation: Path | None = None,
    limit: int | None = None,
    model: str | None = None,
    dtype: str | None = None,
    name: str | None = None,
) -> TrainingSummary:
    """Train a hypernetwork of a base on edits, and register it.

    Args:
        data: Edits to learn from, in any form that is read.
        plan: What is trained, and how long.
        validation: Edits to validate by; none: some of `data`, held out by whole subjects.
        limit: Only the first so many records of `data`.
        model, dtype: The base, where it differs from the settings.
        name: Of the registered model; none: mend- and the base's.

    Killed at any point it can be started again: it goes on from its last whole checkpoint, to the same bits.

    Raises:
        HypernetworkError: losses were not finite too often, or nothing says what is to stay as it is.
        UsageError: there are too few edits, or MLflow cannot name a model so.
    """
    workplace = open_workplace()
    base, kind = model or workplace.settings.model, dtype or workplace.settings.dtype
    name = check_model_name(name or default_name(base))
    read = read_training(data, validation, plan.validation_edits, limit, plan.training.seed)
    refuse(read)
    job = TrainingJob(workplace, plan, read)
    prepare(job, base, kind)
    _start_tracking(job, name, base, kind)
    try:
        follow = _progress_artifact(job, name)
        while not job.ended():
            train(job, follow)
            found = validate(job)
            log_curves(job, found)
            checkpoint(job, found, job.seconds)
            note(_line(job, found))
            follow()
        return register(job, name, base, kind)
    except BaseException:
        with suppress(TrackingError):
            job.tracker.finish_run(job.run_id, "FAILED")
        raise


def refuse(data: TrainingData) -> None:
    """Name the records that are left out."""
    for reason in data.refused:
        note(reason, "refused")


def default_name(model: str) -> str:
    """A registered model's name out of a base's reference."""
    last = model.rstrip("/").rpartition("/")[2].partition("@")[0]
    return "mend-" + (re.sub(r"[^a-z0-9._-]+", "-", last.lower())[:NAME_LENGTH].strip("-.") or "model")


def _start_tracking(job: TrainingJob, name: str, model: str, dtype: str) -> None:
    job.tracker = job.new_tracker()
    plan = job.plan.model_dump(mode="json")
    params = job.description() | plan | {"model": model, "dtype": dtype, "layers": list(job.layers)}
    job.run_id = job.tracker.open_run(name, job.id, params, {"actor": job.workplace.settings.who})


def _progress_artifact(job: TrainingJob, name: str) -> Callable[[], None]:
    artifact = create_progress_artifact(
        0.0, key=artifact_key(name, "training"), description=f"Training {job.id} of {name}"
    )
    assert isinstance(artifact, UUID)

    def follow() -> None:
        done = 100.0 * job.trainer.step / max(job.expected_steps, job.trainer.step)
        update_progress_artifact(artifact, done, description=f"{_pace(job)} of training {job.id} of {name}")

    return follow


def _pace(job: TrainingJob) -> str:
    return (
        f"step {job.trainer.step} of {job.expected_steps}, {job.rate:.2f} steps/s, {job.minutes_left:.1f} minutes left"
    )


def _line(job: TrainingJob, found: dict[str, float]) -> str:
    shares = ("efficacy_argmax", "generalization_argmax", "locality_kept_tokens", "score")
    shown = "  ".join(f"{name} {found[name]:.3f}" for name in shares if name in found)
    skipped = f"  {job.trainer.skipped} skipped" if job.trainer.skipped else ""
    return f"{_pace(job)}: {shown}{skipped}"
