"""A training of a hypernetwork under way: what its steps share, and when it is over.

A plain class on purpose, as tasks/update/job.py's: Prefect looks into dataclasses that are passed to tasks, and this
one holds a language model.
"""

import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from editing.config import Config, LayerNumbers
from editing.layout import layout_of
from editing.measure.metrics import EditScores
from editing.methods import edited_layers
from editing.methods.mend.examples import edits_digest
from editing.methods.mend.method import MendConfig
from editing.methods.mend.options import MendTraining, StepLosses
from editing.methods.mend.training import MendTrainer
from editing.models import LoadedModel
from tasks.lines.hypernetworks import resolve
from tasks.progress import progress
from tasks.stores.checkpoints import Checkpoint, Checkpoints
from tasks.stores.objects import canonical_json, sha256
from tasks.tracking.hypernetworks import HypernetworkTracker
from tasks.training.data import TrainingData
from tasks.workplace import EXPERIMENT, Workplace

FORMAT = 2
"""Counts the changes of what a training does for one configuration: checkpoints of another are not gone on from."""


class TrainingPlan(Config):
    """What is trained and how long. How long can be changed when a training goes on; all else makes another one."""

    layers: LayerNumbers | None = Field(None, description="Edited layers, rising; none: the last three.")
    projections: tuple[str, ...] = Field((), description="Edited modules of a layer; none: the MLP's down projection.")
    training: MendTraining = MendTraining()
    start: str | None = Field(None, description="Hypernetwork to begin with, by reference; none: a new one.")
    steps: int = Field(2000, ge=1, description="Most steps, all runs together.")
    minutes: float | None = Field(None, gt=0, description="Most time, all runs together; none: as long as it takes.")
    every: int = Field(200, ge=1, description="Steps between validations, each with a checkpoint.")
    patience: int = Field(10, ge=1, description="The training ends at so many validations without a better score.")
    validation_edits: int = Field(64, ge=1, description="Edits to validate by; a fifth of the file at most.")


class TrainingSummary(BaseModel):
    """What a training came to."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    """Version of the registered model in MLflow."""
    hypernetwork: str
    """sha256 of the file."""
    training: str
    """Its id: `trainings/ID` names its best checkpoint in the store."""
    ended: str
    steps: int
    best_step: int
    seconds: float
    skipped: int
    learnt: int
    refused: int
    validation: dict[str, float]


class TrainingJob:
    """What the steps of one training share."""

    loaded: LoadedModel
    layers: tuple[int, ...]
    start: str | None
    """sha256 of the hypernetwork that it begins with."""
    id: str
    checkpoints: Checkpoints
    trainer: MendTrainer
    before: dict[str, EditScores]
    tracker: HypernetworkTracker

    def __init__(self, workplace: Workplace, plan: TrainingPlan, data: TrainingData) -> None:
        self.workplace, self.plan, self.data = workplace, plan, data
        self.run_id = ""
        self.last: Checkpoint | None = None
        """The checkpoint that the training goes on from."""
        self.seen: list[StepLosses] = []
        """Steps since that checkpoint."""
        self.earlier = 0.0
        """Seconds trained in runs before this one."""
        self.begun = time.monotonic()
        self.first_step = 0

    def identify(self, loaded: LoadedModel) -> None:
        """Which training this is: base, weights, data and configuration make its id."""
        self.loaded, model = loaded, loaded.model
        layout, config = layout_of(model), MendConfig(layers=self.plan.layers, projections=self.plan.projections)
        self.layers = edited_layers(model, layout, config)
        layout.projections(model, self.layers, self.plan.projections)
        self.start = resolve(self.plan.start, self.workplace.settings) if self.plan.start else None
        description = self.description()
        self.id = sha256(canonical_json(description))[:16]
        self.checkpoints = Checkpoints(self.workplace.store.store, self.id)
        self.checkpoints.describe(description)

    def description(self) -> dict[str, Any]:
        """Everything that the hypernetwork is a function of, but for when the training ends."""
        return {
            "format": FORMAT,
            "base": self.loaded.digest,
            "layers": self.layers,
            "projections": self.plan.projections,
            "learnt": edits_digest(self.data.learnt),
            "validated": edits_digest(self.data.validated),
            "training": self.plan.training.model_dump(mode="json"),
            "start_digest": self.start,
        }

    def new_tracker(self) -> HypernetworkTracker:
        settings = self.workplace.settings
        return HypernetworkTracker(settings.mlflow_uri, settings.artifact_root, EXPERIMENT)

    def begin(self) -> None:
        """Time counts from now."""
        self.earlier = self.last.seconds if self.last else 0.0
        self.begun, self.first_step = time.monotonic(), self.trainer.step

    @property
    def seconds(self) -> float:
        """Trained so far, all runs together."""
        return self.earlier + time.monotonic() - self.begun

    @property
    def out_of_time(self) -> bool:
        return self.plan.minutes is not None and self.seconds >= 60 * self.plan.minutes

    @property
    def rate(self) -> float:
        """Steps a second in this run, validations included."""
        return (self.trainer.step - self.first_step) / max(time.monotonic() - self.begun, 1e-9)

    @property
    def expected_steps(self) -> int:
        """Where it will end: at its last step, or where the time will be over."""
        if self.plan.minutes is None or self.trainer.step == self.first_step:
            return self.plan.steps
        left = max(0.0, 60 * self.plan.minutes - self.seconds)
        return min(self.plan.steps, self.trainer.step + int(left * self.rate))

    @property
    def minutes_left(self) -> float:
        return max(0, self.expected_steps - self.trainer.step) / max(self.rate, 1e-9) / 60

    def ended(self) -> str:
        """Why no further step is taken; empty while there is one to take. Asked at checkpoints only."""
        if self.last is None:
            return ""
        if self.last.stale >= self.plan.patience:
            return f"no better score in {self.last.stale} validations"
        if self.last.step >= self.plan.steps:
            return f"{self.plan.steps} steps"
        if self.plan.minutes is not None and self.last.seconds >= 60 * self.plan.minutes:
            return f"{self.plan.minutes:g} minutes"
        return ""

    def show(self) -> None:
        """Let whoever listens know how far it is."""
        progress("steps", self.trainer.step, max(self.expected_steps, self.trainer.step))
