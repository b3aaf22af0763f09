"""The steps of a training, one Prefect task each; only those that talk to storage or MLflow are retried."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from editing.files import write_atomically
from editing.measure.metrics import EditScores, evaluate
from editing.methods.gradients.memo import release_memory
from editing.methods.mend.files import load_network, network_bytes, parse_network
from editing.methods.mend.options import StepLosses
from editing.methods.mend.training import MendTrainer
from editing.methods.mend.validation import validate as measure
from tasks.base_model import loaded_base
from tasks.lines.hypernetworks import cached, stored
from tasks.progress import note, progress, stage
from tasks.retries import RETRIES, outlasting
from tasks.stores.checkpoints import Checkpoint
from tasks.stores.errors import StorageError
from tasks.tracking.hypernetworks import BASE, TRAINING, HypernetworkTracker
from tasks.tracking.steps import StepLog
from tasks.training.data import TrainingData
from tasks.training.job import Pace, Training, TrainingPlan, TrainingSummary, why_ended
from tasks.workplace import Workplace

SHOWN_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class TrackedRun:
    """A training's run in MLflow, and the name under which what it trains is registered."""

    tracker: HypernetworkTracker
    id: str
    name: str


@task(task_run_name="prepare", cache_policy=NO_CACHE)
def prepare(workplace: Workplace, plan: TrainingPlan, data: TrainingData, model: str, dtype: str) -> Training:
    """Load the base, find out which training this is, and say so in the store."""
    settings = workplace.settings
    with stage("load model"):
        loaded = loaded_base(model, dtype, settings)
    training = Training(workplace, plan, data, loaded, {"model": model, "dtype": dtype})
    outlasting(lambda: training.checkpoints.describe(training.description()), workplace.may_be_away)
    return training


@task(task_run_name="go-on", cache_policy=NO_CACHE)
def go_on(training: Training) -> tuple[MendTrainer, Checkpoint | None]:
    """The trainer as its last whole checkpoint left it, or at its beginning where there is none; checks every edit."""
    learnt, plan = training.data.learnt, training.plan
    found = outlasting(training.checkpoints.newest, training.workplace.may_be_away)
    if found is None:
        start, settings = training.start, training.workplace.settings
        earlier = load_network(cached(settings, start), start) if start else None
        loaded, layers = training.loaded, training.layers
        return MendTrainer.start(loaded, learnt, layers, plan.projections, plan.training, earlier), None
    last, data = found
    if why := why_ended(plan, last):
        more = "with more --steps, --minutes or --patience it goes on, with another --seed another one begins"
        note(f"training {training.id} stands at step {last.step} and is trained no further ({why}): {more}")
    else:
        note(f"training {training.id} goes on: step {last.step}")
    return MendTrainer.resume_from(data, f"trainings/{training.id}", training.loaded, learnt), last


@task(task_run_name="ask-the-base", cache_policy=NO_CACHE)
def ask_base(training: Training) -> dict[str, EditScores]:
    """What the base says to the edits that are held out, by id."""
    loaded = training.loaded
    with stage("what the base says") as tell:
        scores = evaluate(loaded.model, loaded.tokenizer, training.data.validated, on_progress=tell)
    return {one.edit_id: one for one in scores}


@task(task_run_name="train-from-{trainer.step}", cache_policy=NO_CACHE)
def train(trainer: MendTrainer, pace: Pace, on_progress: Callable[[], None]) -> list[StepLosses]:
    """Steps up to the next checkpoint: the next multiple of `every`, the last step, or when the time is over.

    Raises:
        HypernetworkError: too many losses in a row were not finite.
    """
    plan, shown = pace.plan, 0.0
    until = min(plan.steps, (trainer.step // plan.every + 1) * plan.every)
    seen: list[StepLosses] = []
    while trainer.step < until and not (seen and pace.out_of_time):
        seen.append(trainer.train_step())
        progress("steps", trainer.step, pace.expected_steps(trainer.step))
        if time.monotonic() - shown > SHOWN_EVERY_SECONDS:
            on_progress()
            release_memory()
            shown = time.monotonic()
    return seen


@task(task_run_name="validate-{trainer.step}", cache_policy=NO_CACHE)
def validate(training: Training, trainer: MendTrainer, before: Mapping[str, EditScores]) -> dict[str, float]:
    """Measure the hypernetwork as it is on the edits that are held out, as many together as it is trained for."""
    together = training.plan.training.edits_together
    with stage("validation") as tell:
        return measure(training.loaded, trainer.network, training.data.validated, before, together, tell)


@task(task_run_name="checkpoint-{trainer.step}", cache_policy=NO_CACHE, **RETRIES)
def checkpoint(
    training: Training, trainer: MendTrainer, last: Checkpoint | None, validation: dict[str, float], seconds: float
) -> Checkpoint:
    """Publish how far the training is; killed before, during or after, it goes on from the last whole one.

    `seconds` trained so far: a second try publishes the same bytes as the first, which may have got through.
    """
    best, stale = (last.best_score, last.stale) if last else (-1.0, 0)
    better = validation["score"] > best
    return training.checkpoints.publish(
        Checkpoint(
            step=trainer.step,
            seconds=seconds,
            validation=validation,
            best_score=max(best, validation["score"]),
            stale=0 if better else stale + 1,
        ),
        trainer.to_bytes(),
    )


def log_curves(
    log: StepLog, trainer: MendTrainer, seen: Sequence[StepLosses], validation: dict[str, float], rate: float
) -> None:
    """The losses of each step since the last checkpoint, and the validation, to MLflow; `rate` in steps a second."""
    curves = [
        (
            one.step,
            {
                "train_loss": one.loss,
                "train_edit_loss": one.edit,
                "train_locality_loss": one.locality,
                "gradient_norm": one.gradient_norm,
            },
        )
        for one in seen
    ]
    whole = {f"validation_{name}": value for name, value in validation.items()}
    whole |= {"skipped": float(trainer.skipped), "steps_per_second": rate}
    whole |= {f"step_size_{i}": size for i, size in enumerate(trainer.network.step_sizes().values())}
    log.log([*curves, (trainer.step, whole)])


@task(task_run_name="register", cache_policy=NO_CACHE, **RETRIES)
def register(training: Training, run: TrackedRun, last: Checkpoint, skipped: int) -> TrainingSummary:
    """The best checkpoint's hypernetwork into the store, the cache and MLflow's registry; each once."""
    found = training.checkpoints.best()
    if found is None:
        raise StorageError(f"training '{training.id}' lost its checkpoints; run the command again")
    best, data = found
    network, _, _ = parse_network(data, f"trainings/{training.id}")
    data = network_bytes(network)
    digest = stored(training.workplace.store.store).put(data)
    write_atomically(cached(training.workplace.settings, digest), data)
    tags = {TRAINING: training.id, BASE: training.loaded.digest, **training.base, "step": str(best.step)}
    measured = {f"validation_{key}": f"{value:.4f}" for key, value in best.validation.items()}
    version = run.tracker.register_hypernetwork(run.name, run.id, data, digest, tags | measured)
    run.tracker.finish_run(run.id)
    return TrainingSummary(
        name=run.name,
        version=version,
        hypernetwork=digest,
        training=training.id,
        ended=why_ended(training.plan, last),
        steps=last.step,
        best_step=best.step,
        seconds=last.seconds,
        skipped=skipped,
        learnt=len(training.data.learnt),
        refused=len(training.data.refused),
        validation=best.validation,
    )
