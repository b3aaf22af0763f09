"""Records of work that several processes share: what is to be done, in chunks, and what was found for one of them."""

import importlib.metadata
from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from editing.edit import Edit
from editing.errors import ModelError, UsageError

UNNAMED = "0" * 64
"""Of a chunk that is to be named."""


def release() -> str:
    """Of this Errata."""
    return importlib.metadata.version("errata-lm")


class Row(BaseModel):
    """A row of text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = ""
    ids: tuple[int, ...]
    others: tuple[tuple[int, ...], ...] = Field((), description="Of each token those that stand beside it.")


class Passage(BaseModel):
    """Rows of text that are sampled in one go, by their numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: int = Field(ge=0)
    stop: int = Field(ge=1)
    seed: int
    alternatives: int = Field(ge=0, description="Tokens drawn beside each of its own.")


class Chunk(BaseModel):
    """What one process does in one go: what its last bits depend on.

    Facts whose values are searched in one batch of rows; the rows of one part of the text of key statistics; or a
    passage to be sampled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of all that its answer is a function of.")
    groups: tuple[tuple[Edit, ...], ...] = Field((), description="Facts that share a key have one value.")
    rows: tuple[Row, ...] = ()
    passage: Passage | None = None

    @property
    def edits(self) -> tuple[Edit, ...]:
        return tuple(chain.from_iterable(self.groups))


class Asked(BaseModel):
    """Of what version all facts of a search are asked, where no values are searched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot: str
    probes: int = Field(ge=1, description="Neighborhood probes of a fact.")
    whole: int = Field(ge=0, description="Chunks, the first ones, whose facts are asked all; of others their prompts.")


class Told(BaseModel):
    """What a version says of a chunk of facts, in the order in which tasks/update/asked.py asks it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scores: tuple[tuple[float, bool, tuple[int, ...]], ...]
    """The fields of each `Score`."""
    texts: tuple[str, ...]


class Summed(BaseModel):
    """The sums of the keys of one part of a text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    batches: int = Field(ge=1)
    tokens: int = Field(ge=1)
    fourth_powers: dict[int, float]
    uppers: dict[int, str]
    """Digests of the blobs, by layer: each may be most of a gigabyte."""


class Sampled(BaseModel):
    """Rows of text as they were sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[Row, ...]


class Search(BaseModel):
    """What is searched, sampled, summed or asked for one job, and with what."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    FORMAT: ClassVar[int] = 1

    format: int = 1
    line: str
    release: str = Field(description="Of Errata.")
    base: str = Field(description="Digest of the base's tensors.")
    spec: dict[str, Any] = Field(description="The line, as its definition says it.")
    layers: tuple[int, ...]
    contexts: tuple[str, ...]
    threads: int = Field(ge=1, description="Of matrix products: their last bits depend on it.")
    chunks: tuple[Chunk, ...]
    asked: Asked | None = None
    prepares: bool = Field(False, description="Text is sampled, or its keys are summed.")

    def named(self, name: Callable[[int], str]) -> "Search":
        """With each chunk known by the name that is given for its number."""
        chunks = [chunk.model_copy(update={"name": name(number)}) for number, chunk in enumerate(self.chunks)]
        return self.model_copy(update={"chunks": tuple(chunks)})

    def check_release(self) -> None:
        """Raises UsageError where another release of Errata began this."""
        if self.release != release():
            raise UsageError(
                f"line '{self.line}': its job runs Errata {self.release}, this worker has {release()}; install the "
                "job's release here"
            )

    def check_base(self, digest: str) -> None:
        """Raises ModelError where the base here has other weights."""
        if digest != self.base:
            raise ModelError(
                f"line '{self.line}': its base '{self.spec['model']}' has digest {self.base[:12]} for the job and "
                f"{digest[:12]} here; give this worker the same model"
            )


class Answer(BaseModel):
    """Where the values or sums of a chunk are or what was told of it, and who found that."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    FORMAT: ClassVar[int] = 1

    format: int = 1
    values: str = Field("", description="Digest of the blob.")
    told: Told | None = None
    summed: Summed | None = None
    sampled: Sampled | None = None
    host: str
    device: str
    seconds: float

    @property
    def blobs(self) -> list[str]:
        """The digests of all that lies beside it."""
        return [*([self.values] if self.values else []), *(self.summed.uppers.values() if self.summed else ())]
