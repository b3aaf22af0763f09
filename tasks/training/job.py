"""A training of a hypernetwork: what is asked for, which training that is, how fast it goes and when it is over."""

import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from editing.config import Config, LayerNumbers
from editing.digests import canonical_json, sha256
from editing.layout import layout_of
from editing.methods import edited_layers
from editing.methods.mend.examples import edits_digest
from editing.methods.mend.method import MendConfig
from editing.methods.mend.options import MendTraining
from editing.models import LoadedModel
from tasks.lines.hypernetworks import resolve
from tasks.stores.checkpoints import Checkpoint, Checkpoints
from tasks.training.data import TrainingData
from tasks.workplace import Workplace

FORMAT = 2
"""Counts the changes of what a training does for one configuration: checkpoints of another are not gone on from."""


class TrainingPlan(Config):
    """What is trained and how long. How long can be changed when a training goes on; all else makes another one."""

    layers: LayerNumbers | None = Field(None, description="Edited layers, rising; none: the last three.")
    projections: tuple[str, ...] = Field((), description="Edited modules of a layer; none: the MLP's down projection.")
    training: MendTraining = Field(MendTraining(), title="Training", description="How it learns.")
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


class Training:
    """Which training it is: base, weights, data and configuration make its id. Nothing here changes while it runs.

    A plain class on purpose: Prefect looks into dataclasses that are passed to tasks, and this one holds a language
    model and all edits.

    Raises:
        ModelError, HypernetworkError, UsageError: the plan does not fit the model, or begins with what is not there.
    """

    def __init__(
        self, workplace: Workplace, plan: TrainingPlan, data: TrainingData, loaded: LoadedModel, base: dict[str, str]
    ) -> None:
        self.workplace, self.plan, self.data, self.loaded = workplace, plan, data, loaded
        self.base = base
        """How the base was asked for: model and dtype."""
        model, layout = loaded.model, layout_of(loaded.model)
        self.layers = edited_layers(model, layout, MendConfig(layers=plan.layers, projections=plan.projections))
        layout.projections(model, self.layers, plan.projections)
        self.start = resolve(plan.start, workplace.settings) if plan.start else None
        """sha256 of the hypernetwork that it begins with."""
        self.id = sha256(canonical_json(self.description()))[:16]
        self.checkpoints = Checkpoints(workplace.store.store, self.id)

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


def why_ended(plan: TrainingPlan, last: Checkpoint | None) -> str:
    """Why no further step is taken after this checkpoint; empty while there is one to take."""
    if last is None:
        return ""
    if last.stale >= plan.patience:
        return f"no better score in {last.stale} validations"
    if last.step > plan.steps:
        return f"it had {last.step} steps before, and {plan.steps} are asked for"
    if last.step == plan.steps:
        return f"{plan.steps} steps"
    if plan.minutes is not None and last.seconds >= 60 * plan.minutes:
        return f"{plan.minutes:g} minutes"
    return ""


@dataclass(frozen=True)
class Pace:
    """How long a training takes: from its plan, where this run began, and the clock."""

    plan: TrainingPlan
    first_step: int
    """The step that this run went on from."""
    earlier: float
    """Seconds trained in runs before this one."""
    begun: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Trained so far, all runs together."""
        return self.earlier + time.monotonic() - self.begun

    @property
    def out_of_time(self) -> bool:
        return self.plan.minutes is not None and self.seconds >= 60 * self.plan.minutes

    def rate(self, step: int) -> float:
        """Steps a second in this run up to `step`, validations included."""
        return (step - self.first_step) / max(time.monotonic() - self.begun, 1e-9)

    def expected_steps(self, step: int) -> int:
        """Where it will end, seen from `step`: at its last step, or where the time will be over."""
        if self.plan.minutes is None or step == self.first_step:
            return max(self.plan.steps, step)
        left = max(0.0, 60 * self.plan.minutes - self.seconds)
        return max(min(self.plan.steps, step + int(left * self.rate(step))), step)

    def minutes_left(self, step: int) -> float:
        return (self.expected_steps(step) - step) / max(self.rate(step), 1e-9) / 60
