"""The data of a job's report: what a knowledge update hands over to its reviewer."""

from collections import Counter
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from tasks.secrets import masked
from tasks.text import Text


class Frozen(BaseModel):
    # JSON has no NaN: a metric that could not be measured is written as the string "NaN" and read back as one.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class EditRow(Frozen):
    """One request and what became of it; `answer_before` is the base model's, `answer_after` the written model's."""

    request_id: Text
    subject: Text
    prompt: Text
    target_new: Text
    target_true: Text | None = None
    state: Literal["committed", "quarantined", "rejected"]
    batch: int | None = None
    version: int | None = None
    answer_before: Text = ""
    answer_after: Text = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    reason: Text = ""


class BatchRow(Frozen):
    """One attempt to write a batch; `attempt` is '2' for the whole, '2.1' and '2.2' for its halves."""

    batch: int
    attempt: str
    version: int | None = None
    request_ids: tuple[Text, ...]
    kept: bool
    reasons: tuple[Text, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)
    seconds: float
    search_seconds: float = 0.0
    validate_seconds: float = 0.0


class Sample(Frozen):
    """What three models answer to one prompt; `champion` is None where nothing is in service yet."""

    prompt: Text
    base: Text
    champion: Text | None = None
    candidate: Text


class JobReport(Frozen):
    """Everything a reviewer is shown about one job. Times are UTC; config and policy are stored without secrets."""

    line: str
    base: str
    base_digest: str
    method: str
    config: dict[str, Any]
    policy: dict[str, Any]
    flow_run_id: str
    mlflow_run_id: str
    started: AwareDatetime
    finished: AwareDatetime
    from_version: int
    to_version: int | None
    baseline: dict[str, float]
    champion: dict[str, float] | None = None
    candidate: dict[str, float]
    drift: tuple[dict[str, float], ...] = ()
    batches: tuple[BatchRow, ...] = ()
    edits: tuple[EditRow, ...] = ()
    samples: tuple[Sample, ...] = ()

    @field_validator("config", "policy")
    @classmethod
    def _without_secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        return masked(values)

    @property
    def counts(self) -> Counter[str]:
        """Number of edits in each state."""
        return Counter(edit.state for edit in self.edits)
