"""Work that several processes share: values that are searched and facts that are asked, in the store of a job.

    searches/tasks/<sha256>.json              what is to be done: base, contexts, facts in chunks; its job ends it
    searches/answers/<chunk>.json             created once: what a version says of a chunk of facts, or, after its
                                              blob, which values the chunk has
    searches/values/<sha256>.safetensors      these values

A chunk is known by what its answer is a function of, so whoever does the same finds it, such as a job that was killed
and is started again. Of two answers the first counts. Nothing here is the only copy of anything: values that are used
are stored with their versions, and what was said with the report.
"""

import importlib.metadata
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from editing.edit import Edit
from editing.errors import ModelError, UsageError
from tasks.stores.blobs import Blobs
from tasks.stores.errors import ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record, record_bytes

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "searches"
REMEDY = "remove it: it is found again"


def release() -> str:
    """Of this Errata."""
    return importlib.metadata.version("errata-lm")


class Chunk(BaseModel):
    """Facts whose values are searched in one batch of rows: what their last bits depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of all that its answer is a function of.")
    groups: tuple[tuple[Edit, ...], ...] = Field(description="Facts that share a key have one value.")

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


class Search(BaseModel):
    """What is searched or asked for one job, and with what."""

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
    """Where the values of a chunk are or what was told of it, and who found that."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    FORMAT: ClassVar[int] = 1

    format: int = 1
    values: str = Field("", description="Digest of the blob.")
    told: Told | None = None
    host: str
    device: str
    seconds: float


class Searches:
    """The searches of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._tasks = Blobs(store, f"{FOLDER}/tasks", ".json")
        self._values = Blobs(store, f"{FOLDER}/values")

    def begin(self, search: Search) -> str:
        """Store what is to be searched; returns the digest that it is known by. Raises RecordError."""
        return self._tasks.put(record_bytes(search))

    def read(self, digest: str) -> Search:
        """Raises ObjectNotFound where it was ended, DigestMismatch, RecordError, NewerFormat."""
        return read_record(Search, self._tasks.get(digest), f"search {digest[:12]} in '{self.store.uri}'", REMEDY)

    def goes_on(self, digest: str) -> bool:
        return self._tasks.exists(digest)

    def is_answered(self, chunk: str) -> bool:
        return self.store.exists(_answer_key(chunk))

    def answer(self, chunk: str, found: "Tensor | Told", host: str, device: str, seconds: float) -> None:
        """Store what was found for a chunk, of values a row a group; where another was first, its answer stands."""
        if isinstance(found, Told):
            answer = Answer(told=found, host=host, device=device, seconds=seconds)
        else:
            from tasks.stores.tensors import tensor_bytes  # torch takes seconds, and who only tidies up does without

            blob = tensor_bytes({"z_star": found}, f"the values of chunk {chunk[:12]}")
            answer = Answer(values=self._values.put(blob), host=host, device=device, seconds=seconds)
        try:
            self.store.put_if_absent(_answer_key(chunk), record_bytes(answer))
        except ObjectConflict:
            return

    def found(self, chunk: Chunk) -> "tuple[Tensor, Answer] | None":
        """The values of a chunk, (groups, m), and who found them; None where there are none yet.

        Raises:
            DigestMismatch, RecordError, StorageError: what lies there is something else.
        """
        from tasks.stores.tensors import parsed  # as in `answer`

        if (answer := self._answer(chunk)) is None:
            return None
        what = f"the values of '{_answer_key(chunk.name)}' in '{self.store.uri}'"
        z_star = parsed(self._values.get(answer.values), what).get("z_star")
        if z_star is None or z_star.dim() != 2 or len(z_star) != len(chunk.groups) or not z_star.isfinite().all():
            raise StorageError(f"{what} are no values of {len(chunk.groups)} facts: {REMEDY}")
        return z_star, answer

    def told(self, chunk: Chunk) -> tuple[Told, Answer] | None:
        """What was told of a chunk, and by whom; None where nothing was yet.

        Raises:
            RecordError, StorageError: what lies there is something else.
        """
        if (answer := self._answer(chunk)) is None:
            return None
        if answer.told is None:
            raise StorageError(f"'{_answer_key(chunk.name)}' in '{self.store.uri}' tells nothing: {REMEDY}")
        return answer.told, answer

    def _answer(self, chunk: Chunk) -> Answer | None:
        key = _answer_key(chunk.name)
        try:
            data = self.store.get(key)[0]
        except ObjectNotFound:
            return None
        return read_record(Answer, data, f"'{key}' in '{self.store.uri}'", REMEDY)

    def end(self, digest: str, chunks: Sequence[Chunk]) -> None:
        """Take a search away, with what was found for these chunks; first the task, so that nobody goes on with it."""
        self._tasks.delete(digest)
        for chunk in chunks:
            key = _answer_key(chunk.name)
            try:
                answer = read_record(Answer, self.store.get(key)[0], key)
            except StorageError:  # none was given, or it is damaged
                self.store.delete(key)
                continue
            self.store.delete(key)
            if answer.values:
                self._values.delete(answer.values)


def _answer_key(chunk: str) -> str:
    return f"{FOLDER}/answers/{chunk}.json"
