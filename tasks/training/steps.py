"""The steps of a training, one Prefect task each; only those that talk to storage or MLflow are retried."""

import time
from collections.abc import Callable

from prefect import task
from prefect.cache_policies import NO_CACHE

from editing.files import write_atomically
from editing.measure.metrics import evaluate
from editing.methods.gradients.memo import release_memory
from editing.methods.mend.files import load_network, network_bytes, parse_network
from editing.methods.mend.training import MendTrainer
from editing.methods.mend.validation import validate as measure
from editing.models import load_model
from tasks.lines.hypernetworks import cached, stored
from tasks.progress import note, progress
from tasks.retries import RETRIES
from tasks.stores.checkpoints import Checkpoint
from tasks.stores.errors import StorageError
from tasks.tracking.hypernetworks import BASE, TRAINING
from tasks.training.job import TrainingJob, TrainingSummary

SHOWN_EVERY_SECONDS = 5.0


@task(task_run_name="prepare", cache_policy=NO_CACHE)
def prepare(job: TrainingJob, model: str, dtype: str) -> None:
    """Load the base, and the training's last whole checkpoint where there is one; check every edit."""
    settings = job.workplace.settings
    progress("model", 0, 1)
    job.identify(load_model(model, dtype=dtype, device=settings.device, cache=settings.cache_folder))
    progress("model", 1, 1)
    found, learnt = job.checkpoints.newest(), job.data.learnt
    if found is None:
        earlier = load_network(cached(settings, job.start), job.start) if job.start else None
        job.trainer = MendTrainer.start(
            job.loaded, learnt, job.layers, job.plan.projections, job.plan.training, earlier
        )
    else:
        job.last, data = found
        job.trainer = MendTrainer.resume_from(data, f"trainings/{job.id}", job.loaded, learnt)
        done = job.ended()
        note(f"training {job.id} {'is complete' if done else 'goes on'}: step {job.last.step}")
        if done:
            return
    job.before = {one.edit_id: one for one in evaluate(job.loaded.model, job.loaded.tokenizer, job.data.validated)}
    job.begin()


@task(task_run_name="train-from-{job.trainer.step}", cache_policy=NO_CACHE)
def train(job: TrainingJob, on_progress: Callable[[], None]) -> None:
    """Steps up to the next checkpoint: the next multiple of `every`, the last step, or when the time is over.

    Raises:
        HypernetworkError: too many losses in a row were not finite.
    """
    plan, shown = job.plan, 0.0
    until = min(plan.steps, (job.trainer.step // plan.every + 1) * plan.every)
    while job.trainer.step < until and not (job.seen and job.out_of_time):
        job.seen.append(job.trainer.train_step())
        job.show()
        if time.monotonic() - shown > SHOWN_EVERY_SECONDS:
            on_progress()
            release_memory()
            shown = time.monotonic()


@task(task_run_name="validate-{job.trainer.step}", cache_policy=NO_CACHE)
def validate(job: TrainingJob) -> dict[str, float]:
    """Measure the hypernetwork as it is on the edits that are held out, as many together as it is trained for."""
    progress("validation", 0, 1)
    together = job.plan.training.edits_together
    found = measure(job.loaded, job.trainer.network, job.data.validated, job.before, together)
    progress("validation", 1, 1)
    return found


@task(task_run_name="checkpoint-{job.trainer.step}", cache_policy=NO_CACHE, **RETRIES)
def checkpoint(job: TrainingJob, validation: dict[str, float], seconds: float) -> None:
    """Publish how far the training is; killed before, during or after, it goes on from the last whole one.

    `seconds` trained so far: a second try publishes the same bytes as the first, which may have got through.
    """
    best, stale = (job.last.best_score, job.last.stale) if job.last else (-1.0, 0)
    better = validation["score"] > best
    job.last = job.checkpoints.publish(
        Checkpoint(
            step=job.trainer.step,
            seconds=seconds,
            validation=validation,
            best_score=max(best, validation["score"]),
            stale=0 if better else stale + 1,
        ),
        job.trainer.to_bytes(),
    )
    job.seen = []


@task(task_run_name="curves-{job.trainer.step}", cache_policy=NO_CACHE, **RETRIES)
def log_curves(job: TrainingJob, validation: dict[str, float]) -> None:
    """The losses of each step since the last checkpoint, and the validation, to MLflow in one go."""
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
        for one in job.seen
    ]
    whole = {f"validation_{name}": value for name, value in validation.items()}
    whole |= {"skipped": float(job.trainer.skipped), "steps_per_second": job.rate}
    whole |= {f"step_size_{i}": size for i, size in enumerate(job.trainer.network.step_sizes().values())}
    job.tracker.log_steps(job.run_id, [*curves, (job.trainer.step, whole)])


@task(task_run_name="register", cache_policy=NO_CACHE, **RETRIES)
def register(job: TrainingJob, name: str, model: str, dtype: str) -> TrainingSummary:
    """The best checkpoint's hypernetwork into the store, the cache and MLflow's registry; each once."""
    found = job.checkpoints.best()
    if found is None:
        raise StorageError(f"training '{job.id}' lost its checkpoints; run the command again")
    best, data = found
    network, _, _ = parse_network(data, f"trainings/{job.id}")
    data = network_bytes(network)
    digest = stored(job.workplace.store.store).put(data)
    write_atomically(cached(job.workplace.settings, digest), data)
    tags = {TRAINING: job.id, BASE: job.loaded.digest, "model": model, "dtype": dtype, "step": str(best.step)}
    measured = {f"validation_{key}": f"{value:.4f}" for key, value in best.validation.items()}
    version = job.tracker.register_hypernetwork(name, job.run_id, data, digest, tags | measured)
    job.tracker.finish_run(job.run_id)
    assert job.last is not None
    return TrainingSummary(
        name=name,
        version=version,
        hypernetwork=digest,
        training=job.id,
        ended=job.ended(),
        steps=job.last.step,
        best_step=best.step,
        seconds=job.last.seconds,
        skipped=job.trainer.skipped,
        learnt=len(job.data.learnt),
        refused=len(job.data.refused),
        validation=best.validation,
    )
