"""What a training of MEND's hypernetwork is given, how far it is, and what it says of a step."""

from dataclasses import dataclass

from pydantic import Field

from editing.config import Config
from editing.methods.mend.network import RIDGE


class MendTraining(Config):
    """How a hypernetwork is trained."""

    rank: int = Field(256, ge=1, description="Rank of the shared blocks; published: 1920.")
    step_size: float | None = Field(None, gt=0, description="α at first; none: of some, the best on the first batch.")
    learning_rate: float = Field(3e-4, gt=0, description="Adam's step size.")
    step_learning_rate: float = Field(1e-2, gt=0, description="The same for log α.")
    warm_up: int = Field(20, ge=0, description="Steps in which the step sizes rise to these.")
    decay_after: int = Field(500, ge=1, description="Step from which on they fall, as 1 / √step.")
    edit_weight: float = Field(0.1, gt=0, description="c_edit, as published.")
    batch: int = Field(8, ge=1, description="Updates that one step averages over.")
    edits_together: int = Field(1, ge=1, description="Edits that are written and in force together.")
    edits_before: int = Field(
        0, ge=0, description="Further edits, whose tokens they leave alone, as if written before."
    )
    ridge: float | None = Field(RIDGE, gt=0, description="Of what keeps them apart; none: updates are added up.")
    updates_at_once: int = Field(8, ge=1, description="Updates of one pass: a step accumulates passes; bounds memory.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    max_skipped: int = Field(10, ge=1, description="The training ends at so many losses in a row that are not finite.")
    seed: int = Field(0, ge=0, description="Seed of the first weights and of the order of the edits.")


class MendProgress(Config):
    """How far a training is, beside its tensors."""

    config: MendTraining
    edits: str = Field(description="Digest of the edits.")
    step: int
    skipped: int
    skipped_in_a_row: int


@dataclass(frozen=True)
class StepLosses:
    """What a step saw, means over its edits; where it was skipped, one of them is not finite."""

    step: int
    loss: float
    edit: float
    locality: float
    gradient_norm: float
    skipped: bool
