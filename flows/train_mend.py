"""Training of MEND's hypernetwork: steps, validation and checkpoint in turn, until it is over; then the registry."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from editing.methods.mend.training import MendTrainer
from flows.endings import ended_well, mlflow_status
from tasks.lines.specs import read_line
from tasks.names import artifact_key, check_model_name
from tasks.progress import note, stage
from tasks.retries import outlasting
from tasks.runlog import told_to_prefect
from tasks.tracking.errors import TrackingError
from tasks.tracking.hypernetworks import HypernetworkTracker
from tasks.tracking.steps import StepLog
from tasks.training.data import TrainingData, read_training
from tasks.training.job import Pace, Training, TrainingPlan, TrainingSummary, why_ended
from tasks.training.steps import (
    TrackedRun,
    ask_base,
    checkpoint,
    go_on,
    log_curves,
    prepare,
    register,
    train,
    validate,
)
from tasks.workplace import EXPERIMENT, Workplace, open_workplace

NAME_LENGTH = 100


@flow(name="train-mend", flow_run_name="train on {data.name}", persist_result=False)
@ended_well
def train_mend(
    data: Path,
    plan: TrainingPlan = TrainingPlan(),  # noqa: B008  # frozen
    validation: Path | None = None,
    limit: int | None = None,
    model: str | None = None,
    dtype: str | None = None,
    name: str | None = None,
    line: str | None = None,
) -> TrainingSummary:
    """Train a hypernetwork of a base on edits, and register it.

    Args:
        data: File of edits to learn from, on the machine of the job, in any form that is read.
        plan: What is trained, and how long.
        validation: File of edits to validate by; none, some of `data`, held out by whole subjects.
        limit: Only the first so many records of `data`; none, all.
        model: The base; none, that of the line, or else of the settings.
        dtype: dtype of the base's weights; none, that of the line, or else of the settings.
        name: Name of the registered model; none, mend- and the base's.
        line: The line whose base it is, where no model is named.

    Killed at any point it can be started again: it goes on from its last whole checkpoint, to the same bits.

    Raises:
        HypernetworkError: losses were not finite too often, or nothing says what is to stay as it is.
        UsageError: there are too few edits, or MLflow cannot name a model so.
    """
    with told_to_prefect("steps"):
        return _train(data, plan, validation, limit, (model, dtype, line), name)


def _train(
    data: Path,
    plan: TrainingPlan,
    validation: Path | None,
    limit: int | None,
    asked: tuple[str | None, str | None, str | None],
    name: str | None,
) -> TrainingSummary:
    workplace = open_workplace()
    base, kind = outlasting(lambda: _base(workplace, *asked), workplace.may_be_away)
    name = check_model_name(name or default_name(base))
    read = read_training(data, validation, plan.validation_edits, limit, plan.training.seed)
    refuse(read)
    if (held_out := len(read.validated)) < plan.validation_edits:
        note(f"{held_out} of {plan.validation_edits} edits to validate by: {_fewer(validation)}")
    training = prepare(workplace, plan, read, base, kind)
    trainer, last = go_on(training)
    before = {} if why_ended(plan, last) else ask_base(training)
    run = _start_tracking(training, name)
    log = StepLog(run.tracker, run.id)
    try:
        pace = Pace(plan, trainer.step, last.seconds if last else 0.0)
        follow = _progress_artifact(training, run.name, trainer, pace)
        while not why_ended(plan, last):
            seen = train(trainer, pace, follow)
            found = validate(training, trainer, before)
            log_curves(log, trainer, seen, found, pace.rate(trainer.step))
            last = checkpoint(training, trainer, last, found, pace.seconds)
            note(_line(trainer, pace, found))
            follow()
        assert last is not None  # no training ends before its first checkpoint
        log.finish()
        return register(training, run, last, trainer.skipped)
    except BaseException as error:
        with suppress(TrackingError):
            run.tracker.finish_run(run.id, mlflow_status(error))
        raise


def _base(workplace: Workplace, model: str | None, dtype: str | None, line: str | None) -> tuple[str, str]:
    """Reference and dtype of the base: as named, or else of the line if there is one, or else of the settings."""
    defined = read_line(workplace.store.store, line) if line and model is None else None
    usual = defined or workplace.settings
    return model or usual.model, dtype or usual.dtype


def _fewer(validation: Path | None) -> str:
    """Why there are fewer edits to validate by than asked for."""
    return "of the edits to learn from a fifth at most is held out" if validation is None else "the file has no more"


def refuse(data: TrainingData) -> None:
    """Name the records that are left out."""
    for reason in data.refused:
        note(reason, "refused")


def default_name(model: str) -> str:
    """A registered model's name out of a base's reference."""
    last = model.rstrip("/").rpartition("/")[2].partition("@")[0]
    return "mend-" + (re.sub(r"[^a-z0-9._-]+", "-", last.lower())[:NAME_LENGTH].strip("-.") or "model")


def _start_tracking(training: Training, name: str) -> TrackedRun:
    settings = training.workplace.settings
    tracker = HypernetworkTracker(settings.mlflow_uri, settings.artifact_root, EXPERIMENT)
    plan = training.plan.model_dump(mode="json")
    params = training.description() | plan | training.base | {"layers": list(training.layers)}
    with stage("opening MLflow's records"):
        return TrackedRun(tracker, tracker.open_run(name, training.id, params, {"actor": settings.who}), name)


def _progress_artifact(training: Training, name: str, trainer: MendTrainer, pace: Pace) -> Callable[[], None]:
    what = f"training {training.id} of {name}"
    artifact = create_progress_artifact(0.0, key=artifact_key(name, "training"), description=what)
    assert isinstance(artifact, UUID)

    def follow() -> None:
        done = 100.0 * trainer.step / pace.expected_steps(trainer.step)
        update_progress_artifact(artifact, done, description=f"{_pace(trainer.step, pace)} of {what}")

    return follow


def _pace(step: int, pace: Pace) -> str:
    expected, left = pace.expected_steps(step), pace.minutes_left(step)
    return f"step {step} of {expected}, {pace.rate(step):.2f} steps/s, {left:.1f} minutes left"


def _line(trainer: MendTrainer, pace: Pace, found: dict[str, float]) -> str:
    shares = ("efficacy_argmax", "generalization_argmax", "locality_kept_tokens", "score")
    shown = "  ".join(f"{name} {found[name]:.3f}" for name in shares if name in found)
    skipped = f"  {trainer.skipped} skipped" if trainer.skipped else ""
    return f"{_pace(trainer.step, pace)}: {shown}{skipped}"
