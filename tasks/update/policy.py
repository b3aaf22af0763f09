"""The policy of a job: how many edits are validated together, what a validation must find, and what is done otherwise.

Built from its defaults, from a file (tasks/update/policy_file.py), from the form of a flow, and from single values.
"""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from editing.config import Config, FewerBits
from tasks.options import checked
from tasks.text import Text
from tasks.update.gates import Level, Levels, OrLeftOut, Tripwires

ProbeName = Literal["prefix50", "prefix200", "choice", "negation", "drift", "reverse"]
"""Those of editing/measure/probes.py."""

NEIGHBORS = {"neighbors": Level(worse_than_base=0.01), "neighbors_said": Level(worse_than_base=0.12)}
"""The levels of a policy that says nothing about neighbors."""


class AbilityFile(Config):
    """A file of questions, on the machine of the job; its name alone will do."""

    file: Text = Field(min_length=1, description="Parquet: LAMBADA, PIQA, HellaSwag, ARC, or multiple choice.")
    questions: int = Field(200, ge=10, description="Most questions, drawn by chance and always the same.")
    sha256: str = Field("", description="Of the file; the job fills it in, and refuses another one.")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:
        return {"file": given} if isinstance(given, str) else given

    @property
    def name(self) -> str:
        """How its level and its numbers are called."""
        return re.sub(r"[^\w-]", "_", PurePath(self.file).stem.removeprefix("ability_"))


class Policy(Config):
    """Thresholds of validation. The three dimensions are edit success, kept neighborhood knowledge and fluency."""

    batch_size: int = Field(10, ge=1, le=10, description="Edits written and validated together; at most ten.")
    min_efficacy: float = Field(
        1.0, ge=0, le=1, description="Least share of a batch that takes; at 1 nothing is kept that did not take."
    )
    max_locality_drop: float = Field(
        0.15, ge=0, le=1, description="Most neighborhood answers lost, as a share; one lost answer always passes."
    )
    max_edit_locality_drop: float = Field(
        0.5, ge=0, le=1, description="The same at any one edit, so that a batch of ten does not hide it."
    )
    min_fluency_ratio: float = Field(0.9, ge=0, description="Least fluency, as a multiple of the base model's.")
    max_perplexity_ratio: float = Field(1.1, ge=1, description="Most perplexity, as a multiple of the base model's.")
    min_retained: float = Field(0.9, ge=0, le=1, description="Least share of sampled earlier facts that still hold.")
    retained_sample: int = Field(20, ge=0, le=1000, description="Earlier facts looked at again in each validation.")
    live_facts: int = Field(
        200, ge=0, le=10_000, description="Facts in the weights that are asked again at the end, if more than those."
    )
    neighborhood_probes: int = Field(5, ge=1, le=100, description="Neighborhood probes asked for each edit.")
    fluency_prompts: int = Field(5, ge=1, le=100, description="Edited subjects that a text is generated from.")
    fluency_tokens: int = Field(40, ge=3, le=1000, description="Length of each generated text.")
    perplexity_tokens: int = Field(1024, ge=64, description="Tokens of fixed text that perplexity is taken on.")
    on_conflict: Literal["replace", "reject"] = Field(
        "replace", description="What a request does that asks anew what a fact in service answers otherwise."
    )
    rebase_every: Annotated[int | None, OrLeftOut] = Field(
        None,
        ge=0,
        description="Versions on each other at which a job ends by making the line anew from the base; 0: never; none: "
        "10 where the method keeps the values of facts.",
    )
    workers: int = Field(
        0,
        ge=0,
        le=1000,
        description="Workers that prepare, search values and ask the candidate beside a job; 0: it does so alone.",
    )
    quantised: Annotated[FewerBits | None, OrLeftOut] = Field(
        None, description="Bits of a copy of the candidate that is asked at the end: int8, q8_0 or q4_1."
    )
    kl_tokens: int = Field(1024, ge=1024, description="Tokens of fixed text that levels.kl is taken on.")
    ability: tuple[AbilityFile, ...] = Field(
        (), max_length=20, description="Files of questions about general ability, asked at the end."
    )
    probes: tuple[ProbeName, ...] = Field((), description="Other ways of asking for a fact, at the end.")
    in_context: bool = Field(True, description="Ask the base, too, with each correction in its prompt, at the end.")
    probed_facts: int = Field(50, ge=1, le=1000, description="Facts that both are asked about, evenly spread.")
    too_few: Literal["wait", "warn"] = Field(
        "wait",
        description="A level that too few were asked to tell: wait for a person, or warn, and rules may approve.",
    )
    tripwires: Tripwires = Field(
        Tripwires(), title="Tripwires of single requests", description="What no request may do."
    )
    levels: Levels = Field(Levels(), title="Levels of the job", description="Shares and sizes, judged beyond chance.")

    @model_validator(mode="before")
    @classmethod
    def _neighbors(cls, given: Any) -> Any:
        """Who sets the most that neighborhoods may lose sets it for the job, too; who says nothing is told more."""
        if not isinstance(given, Mapping) or "max_locality_drop" in given:
            return given
        levels = given.get("levels", {})
        says_itself = not isinstance(levels, Mapping) or "neighbors" in levels  # which is of all counts, if alone
        return given if says_itself else {**given, "levels": {**NEIGHBORS, **levels}}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.levels.retained is not None and self.retained_sample == 0:
            raise ValueError("levels.retained asks nobody, retained_sample is 0; raise it, or leave the level out")
        for level, asked in (("ability", self.ability), ("probes", self.probes)):
            if getattr(self.levels, level) is not None and not asked:
                raise ValueError(f"levels.{level} asks nothing, {level} is empty; name some, or leave the level out")
        if self.levels.probes is not None and {*self.probes} <= {"drift"}:
            raise ValueError("levels.probes has nothing to count: of drift nothing is right or wrong; name another")
        names = [one.name for one in self.ability]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two files of ability are named '{twice}'; rename one")
        if (self.quantised is None) != (self.levels.quantised is None):
            raise ValueError(
                "a copy with fewer bits takes both quantised (int8, q8_0 or q4_1) and levels.quantised.min; give both"
            )
        most = self.tripwires.neighbors.most if self.tripwires.neighbors else 0
        if most and most >= self.neighborhood_probes:
            probes = f"neighborhood_probes = {self.neighborhood_probes}"
            raise ValueError(f"tripwires.neighbors.most = {most} never trips at {probes}; lower it")
        return self

    @property
    def asked_at_the_end(self) -> int:
        """How many of the facts in the weights are asked again at the end of a job."""
        return max(self.retained_sample, self.live_facts)

    def as_form(self) -> dict[str, Any]:
        """As the form of a run takes it: without what is none, and a gate that is off is false."""
        found = self.model_dump(mode="json", exclude_none=True)
        for name, gates in (("tripwires", self.tripwires), ("levels", self.levels)):
            found[name] |= {gate: False for gate in type(gates).model_fields if getattr(gates, gate) is None}
        return found

    def as_thresholds(self) -> dict[str, float]:
        return {name: value for name, value in self.model_dump().items() if name.startswith(("min_", "max_"))}


def make_policy(**fields: Any) -> Policy:
    """Raises PolicyError that names the field, its value and what is allowed."""
    return checked(Policy, "policy", fields)
