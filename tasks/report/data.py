"""The data of a job's report: what a knowledge update hands over to its reviewer."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    computed_field,
    field_validator,
    model_validator,
)

from tasks.names import shown_version
from tasks.secrets import masked
from tasks.text import Text


class Frozen(BaseModel):
    # JSON has no NaN: a metric that could not be measured is written as the string "NaN" and read back as one.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Check(Frozen):
    """One row of a verdict: a measure held against a limit of the policy, made by tasks/update/judge.py.

    A row that says why nothing could be measured comes from tasks/update/validation.py. What decides and
    what is printed are these rows: nobody else compares a number with a limit.
    """

    measure: Text
    """What was measured, by its name in tasks/report/verdict.py."""
    value: float | None = None
    """A share, a multiple of the base's number, or a count of answers lost; None where nothing was asked."""
    limit: float | None = None
    """The least or most that passes, in the same unit; None where no limit applies."""
    field: str = ""
    """The policy's field that the limit comes from."""
    sample: int | None = None
    """How many were asked; None where the measure counts nothing. Where nothing was asked, nothing can fail."""
    holds: bool
    """Whether nothing was found against it; where `told` is false, that says no more than that."""
    reason: Text = ""
    """Why it does not hold, one sentence."""
    request_id: Text | None = None
    """The request that the row is about; None: all of them together."""
    kind: Literal["", "tripwire", "level"] = ""
    """What counts at a single request, or a share or size held against its limit beyond what chance does to it."""
    then: Literal["", "undo", "stop", "warn"] = ""
    """What it does where it does not hold; empty: it undoes a batch, and fails a job."""
    p: float | None = None
    """Of a level: how often chance alone gives such a sample, were the limit just kept."""
    told: bool = True
    """Whether the sample is large enough to tell: beyond the limit, or not five points beyond it."""
    needs: int | None = None
    """Where it is not: about how many it takes."""

    @property
    def fails(self) -> bool:
        """It does not hold, and more is done about it than to say so."""
        return not self.holds and self.then != "warn"


def reasons_of(checks: Iterable[Check]) -> tuple[str, ...]:
    """Why a verdict fails, one sentence a row; empty when it passes."""
    return tuple(check.reason for check in checks if check.fails)


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
    question: Text = ""
    """What a person asks in the model's chat; empty where it has none, as the two answers to it."""
    chat_before: Text = ""
    chat_after: Text = ""
    neighbors_lost: tuple[Text, ...] = ()
    """Neighbors that no longer say what the base says, one line each: prompt, before, now."""
    metrics: dict[str, float] = Field(default_factory=dict)
    reason: Text = ""
    findings: tuple[Text, ...] = ()
    """What was left out of the request because the model cannot read it, one sentence each."""
    alike: tuple[Text, ...] = ()
    """What other facts its subject is hard to tell from, one sentence each."""
    replaces: tuple[Text, ...] = ()
    """The requests whose place it takes, with what they answered: `geo-3 (Oslo)`."""
    carried: dict[str, Any] = Field(default_factory=dict)
    """What the request carries besides its fact: source, ticket and so on."""

    @property
    def told(self) -> tuple[str, ...]:
        """What it replaces and carries, one line each."""
        return (*(f"replaces {one}" for one in self.replaces), *told_of(self.carried))


def told_of(carried: Mapping[str, Any]) -> tuple[str, ...]:
    """What a request carries besides its fact, one line each."""
    texts = {name: ", ".join(map(str, x)) if isinstance(x, list | tuple) else str(x) for name, x in carried.items()}
    return tuple(f"{name.replace('_', ' ')}: {text}" for name, text in texts.items())


class GoneRow(Frozen):
    """A fact that left, stays though it was to leave, or was written back."""

    request_id: Text
    prompt: Text = ""
    target: Text = ""
    what: Literal["retracted", "left out", "replaced", "stays", "written back"]
    by: Text = ""
    """The request that asked for it."""
    reason: Text = ""
    asked: Text = ""
    """What was asked where it left, as people ask."""
    base_says: Text = ""
    now_says: Text = ""
    """The model without it."""

    @property
    def taken_out(self) -> bool:
        """Whether it left, and nothing took its place."""
        return self.what in ("retracted", "left out")

    @property
    def sentence(self) -> str:
        """In one line."""
        fact = f"{self.request_id} ({self.prompt} → {self.target})" if self.prompt else self.request_id
        return f"{fact}: {self.what}{f' by {self.by}' if self.by else ''}{f', {self.reason}' if self.reason else ''}"


class MovedRow(Frozen):
    """A fact that was moved from another line: what people ask, and what is said there and by the new base."""

    request_id: Text
    asked: Text
    target: Text
    line_says: Text = ""
    base_says: Text = ""
    known: bool
    """Whether the new base says it already; then nothing is written."""


class Moved(Frozen):
    """The facts of another line that this one was made for."""

    line: Text
    version: int
    """Which of its versions was in service."""
    model: Text
    """Its base."""
    rows: tuple[MovedRow, ...]


class BatchRow(Frozen):
    """One attempt to write a batch; `attempt` is '2' for the whole, '2.1' and '2.2' for its halves."""

    batch: int
    attempt: str
    version: int | None = None
    request_ids: tuple[Text, ...]
    kept: bool
    checks: tuple[Check, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)
    seconds: float
    search_seconds: float = 0.0
    validate_seconds: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _reasons_as_rows(cls, fields: Any) -> Any:
        """Release 0.1 wrote the reasons alone; in today's files they stand beside the rows that they come from."""
        if not isinstance(fields, Mapping) or "reasons" not in fields:
            return fields
        rest = {name: value for name, value in fields.items() if name != "reasons"}
        rows = [{"measure": "reason", "holds": False, "reason": reason} for reason in fields["reasons"]]
        return {"checks": rows} | rest

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way to write a property down
    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the batch was undone: those of the rows that do not hold."""
        return reasons_of(self.checks)


class Sample(Frozen):
    """What three models answer to one prompt; `champion` is None where nothing is in service yet."""

    prompt: Text
    base: Text
    champion: Text | None = None
    candidate: Text


class LiveFacts(Frozen):
    """The facts in the weights at the end of a job, asked again: all of them, or a sample of these."""

    facts: int
    asked: int
    held: int
    by_age: tuple[float, ...] = ()
    """The share that holds of as many parts of them, the oldest first."""
    lost: tuple[Text, ...] = ()
    """Those that no longer do, one line each; not all where they are many."""


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
    in_context: dict[str, float] = Field(default_factory=dict)
    """The base's numbers where it reads each correction before what it is asked; empty where nobody asked so."""
    fewer_bits: dict[str, float] = Field(default_factory=dict)
    """The candidate's numbers where a copy with rounded weights is asked, as the policy's `quantised` says."""
    checks: tuple[Check, ...] = ()
    """The verdict on the candidate as a whole; none in the reports of release 0.1."""
    live: LiveFacts | None = None
    drift: tuple[dict[str, float], ...] = ()
    standing: dict[str, Any] = Field(default_factory=dict)
    """How much of the correction of each live fact is missing: quantiles, and the worst by name; empty: not told."""
    capacity: dict[str, Any] = Field(default_factory=dict)
    """Facts, and by layer drift and directions used; about how many more there is room for; empty: not told."""
    batches: tuple[BatchRow, ...] = ()
    edits: tuple[EditRow, ...] = ()
    gone: tuple[GoneRow, ...] = ()
    """Facts that leave with this job, one row each, and those that were to leave and stay."""
    moved: Moved | None = None
    """Where its facts come from, if from another line."""
    samples: tuple[Sample, ...] = ()
    mlflow_versions: dict[int, int] = Field(default_factory=dict)
    """MLflow's own numbers by the line's, of the versions that the report speaks of; in the reports before: none."""
    expires: AwareDatetime | None = None
    """When the version is rejected unless somebody decides; None: never."""

    @property
    def move(self) -> tuple[tuple[MovedRow, str, str], ...]:
        """Each fact that was moved, what this line says to it, and what became of it."""
        edits = {edit.request_id: edit for edit in self.edits}
        return tuple((row, *_became(row, edits.get(row.request_id))) for row in (self.moved.rows if self.moved else ()))

    @field_validator("config", "policy")
    @classmethod
    def _without_secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        return masked(values)

    @property
    def counts(self) -> Counter[str]:
        """Number of edits in each state."""
        return Counter(edit.state for edit in self.edits)

    def shown(self, version: int) -> str:
        """A version as people read it, with MLflow's number; version 0 is the base."""
        return shown_version(version, self.mlflow_versions.get(version)) if version else "the base"


def _became(row: MovedRow, edit: EditRow | None) -> tuple[str, str]:
    """What is said, and how its request ended in this job."""
    if row.known:
        return row.base_says, "known to the base"
    if edit is None:
        return "", "not written in this job"
    said = edit.chat_after if edit.question == row.asked else edit.answer_after
    return said, "moved" if edit.state == "committed" else edit.state
