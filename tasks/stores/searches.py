"""Value searches that several processes share: what is to be searched, and what was found, in the store of a job.

    searches/tasks/<sha256>.json              a search: base, contexts, facts in chunks; the job that began it ends it
    searches/answers/<chunk>.json             created once, after its blob: which values a chunk of facts has
    searches/values/<sha256>.safetensors      these values

A chunk is known by what its values are a function of, so whoever searches the same facts on the same base finds them,
such as a job that was killed and is started again. Of two answers the first counts. Nothing here is the only copy of
anything: values that are used are stored with their versions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from editing.edit import Edit
from tasks.stores.blobs import Blobs
from tasks.stores.errors import ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record, record_bytes

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "searches"
REMEDY = "remove it: it is found again"


class Chunk(BaseModel):
    """Facts whose values are searched in one batch of rows: what their last bits depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of all that its values are a function of.")
    groups: tuple[tuple[Edit, ...], ...] = Field(description="Facts that share a key have one value.")


class Search(BaseModel):
    """What is searched for one job, and with what."""

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


class Answer(BaseModel):
    """Where the values of a chunk are, and who found them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    FORMAT: ClassVar[int] = 1

    format: int = 1
    values: str = Field(description="Digest of the blob.")
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

    def answer(self, chunk: str, z_star_gm: "Tensor", host: str, device: str, seconds: float) -> None:
        """Store the values of a chunk, a row a group; where another was first, its answer stands."""
        from tasks.stores.tensors import tensor_bytes  # torch takes seconds, and who only tidies up does without

        blob = tensor_bytes({"z_star": z_star_gm}, f"the values of chunk {chunk[:12]}")
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

        key = _answer_key(chunk.name)
        try:
            data = self.store.get(key)[0]
        except ObjectNotFound:
            return None
        answer = read_record(Answer, data, f"'{key}' in '{self.store.uri}'", REMEDY)
        what = f"the values of '{key}' in '{self.store.uri}'"
        z_star = parsed(self._values.get(answer.values), what).get("z_star")
        if z_star is None or z_star.dim() != 2 or len(z_star) != len(chunk.groups) or not z_star.isfinite().all():
            raise StorageError(f"{what} are no values of {len(chunk.groups)} facts: {REMEDY}")
        return z_star, answer

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
            self._values.delete(answer.values)


def _answer_key(chunk: str) -> str:
    return f"{FOLDER}/answers/{chunk}.json"
