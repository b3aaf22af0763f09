"""Gates of a policy: tripwires, which count at the single request, and levels, which are shares and sizes of a sample.

A tripwire needs no statistics. A level is breached only beyond what chance would do to its sample, by
tasks/update/evidence.py; where the sample is too small to tell, the verdict says so.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from editing.config import Config

When = Literal["batch", "job", "both"]
"""After each batch, at the end of the job, or both."""
Then = Literal["undo", "stop", "warn"]
"""What a breach does: the batch is undone and halved until the culprit is found; it is undone, nothing more is written
and the rest stays queued; or it is told. At the end of the job, where all is written, all but `warn` fail the verdict.
"""
Form = Literal["share", "bad share", "loss", "number"]
"""Of questions that are right or wrong; of answers that must not be there; nats a token; any size."""

ABSOLUTE: dict[Form, tuple[str, ...]] = {
    "share": ("min",),
    "bad share": ("max",),
    "loss": ("max",),
    "number": ("max",),
}
RELATIVE = ("worse_than_base", "worse_than_champion")
THRESHOLDS = ("min", "max", *RELATIVE)


class Tripwire(Config):
    """What no request may do."""

    when: When = Field("both", description="After each batch, at the end of the job, or both.")
    then: Then = Field("undo", description="What a breach does.")
    most: int = Field(0, ge=0, le=100, description="How often at a request: its paraphrases, or its neighbors.")


class OrLeftOut:
    """In a form what is none is left out: Prefect takes no null inside a parameter."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(schema)
        [one] = (one for one in made.pop("anyOf") if one != {"type": "null"})
        return {**made, **one}


class _OrFalse:
    """In a form what is off is false."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(schema)
        off = {"const": False, "type": "boolean"}
        made["anyOf"] = [off if one == {"type": "null"} else one for one in made["anyOf"]]
        return made


Number = Annotated[float | None, OrLeftOut]


class _Gates(Config):
    """Gates by name; none, or false where none cannot be said: there is no such gate."""

    model_config = ConfigDict(field_title_generator=lambda name, field: name.replace("_", " ").capitalize())

    @model_validator(mode="before")
    @classmethod
    def _false_is_none(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {name: None if value is False else value for name, value in given.items()}


_Tripwire = Annotated[Tripwire | None, _OrFalse]


class Tripwires(_Gates):
    """The tripwires of a policy, by what is counted."""

    said: _Tripwire = Field(Tripwire(), description="Asked by its prompt alone, a request does not say its new answer.")
    said_chat: _Tripwire = Field(Tripwire(), description="The same, asked in the chat, of a line that writes for it.")
    said_paraphrases: _Tripwire = Field(None, description="Paraphrases of a request do not say it.")
    old_chat: _Tripwire = Field(None, description="The old answer still stands in what is said in the chat.")
    neighbors: _Tripwire = Field(None, description="Neighbors of a request lose their answers, by any count.")

    COUNTS: ClassVar[tuple[str, ...]] = ("said_paraphrases", "neighbors")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in type(self).model_fields:
            wire = getattr(self, name)
            if wire and wire.most and name not in self.COUNTS:
                raise ValueError(f"{name} is one question a request, so most = {wire.most} never trips; leave most out")
        return self


class Level(Config):
    """What a share or a size may be. What is worse than base or champion is a share of the questions asked (0.02: two
    points), and of perplexity a multiple less one (0.02: 1.02 times)."""

    when: When = Field("job", description="After each batch, at the end of the job, or both.")
    then: Then = Field("stop", description="What a breach does.")
    min: Number = Field(None, ge=0, le=1, description="Least share.")
    max: Number = Field(None, ge=0, description="Most: a share, a perplexity, a divergence in nats.")
    worse_than_base: Number = Field(None, ge=0, le=1, description="Most by which the base is better.")
    worse_than_champion: Number = Field(None, ge=0, le=1, description="The same of the version in service.")

    @property
    def thresholds(self) -> dict[str, float]:
        """Those that are given, by name."""
        given = {name: getattr(self, name) for name in THRESHOLDS}
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.thresholds:
            raise ValueError(f"a level without a threshold says nothing; give one of {', '.join(THRESHOLDS)}")
        if self.worse_than_champion is not None and self.when == "batch":
            raise ValueError("the version in service is known at the end of a job alone; choose when = job or both")
        if self.then == "undo" and self.when == "job":
            raise ValueError("nothing is undone at the end of a job; choose then = stop or warn, or when = batch")
        return self


_Level = Annotated[Level | None, _OrFalse]


class Levels(_Gates):
    """The levels of a policy, by what is measured."""

    neighbors: _Level = Field(None, description="Neighbors that keep their answers, by each count without a level.")
    neighbors_said: _Level = Field(None, description="Neighbors whose answers are still said.")
    said: _Level = Field(None, description="Requests whose new answer is said where their prompt is completed.")
    said_paraphrases: _Level = Field(None, description="Paraphrases where it is.")
    said_chat: _Level = Field(None, description="Requests whose new answer is said in the chat.")
    old_chat: _Level = Field(None, description="Requests whose old answer is still there in the chat.")
    retained: _Level = Field(None, description="Sampled earlier facts that still hold.")
    perplexity: _Level = Field(None, description="Perplexity on fixed text.")
    kl: _Level = Field(None, description="Divergence of what comes next from the base's, on fixed text.")
    ability: _Level = Field(None, description="Questions of each ability test answered rightly.")
    probes: _Level = Field(None, description="Questions of each kind of probe answered rightly.")

    quantised: _Level = Field(None, description="Requests that a copy with fewer bits says, too.")

    NEIGHBORS: ClassVar[tuple[str, ...]] = ("neighbors", "neighbors_said")
    """Those of answers lost against what was there before, of which nothing is right by itself."""
    AT_THE_END: ClassVar[tuple[str, ...]] = ("ability", "probes", "quantised")
    """Those that are asked of the candidate as a whole alone."""
    FORMS: ClassVar[dict[str, Form]] = {"old_chat": "bad share", "perplexity": "loss", "kl": "number"}
    """Of those that are no share of right answers."""

    @classmethod
    def form(cls, name: str) -> Form:
        return cls.FORMS.get(name, "share")

    @classmethod
    def kinds(cls, name: str) -> tuple[str, ...]:
        """The thresholds that a level has."""
        form = cls.form(name)
        if name in ("quantised", "retained"):  # asked of the candidate alone; what the base has none of
            return ABSOLUTE[form]
        own = () if name in cls.NEIGHBORS else ABSOLUTE[form]  # which neighbors are right before, the base says
        return own if form == "number" else (*own, *RELATIVE)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in type(self).model_fields:
            level = getattr(self, name)
            if level and name in self.AT_THE_END and applies(level.when, "batch"):
                raise ValueError(f"{name} is asked at the end of a job, when is {level.when}; choose when = job")
            for threshold, value in (level.thresholds if level else {}).items():
                if threshold not in self.kinds(name):
                    allowed = ", ".join(self.kinds(name))
                    raise ValueError(f"{name} has no {threshold} (= {value:g}); give one of {allowed}")
                if threshold == "max" and self.form(name) == "bad share" and value > 1:
                    raise ValueError(f"{name}.max = {value:g} is more than all; give a share up to 1")
        return self


def applies(when: When, at: Literal["batch", "job"]) -> bool:
    return when in (at, "both")
