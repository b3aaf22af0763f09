"""Work that several processes share, in the store of a job: values searched, keys summed, facts asked.

    searches/tasks/<sha256>.json              what is to be done: base, contexts, facts or text in chunks; its job
                                              ends it
    searches/answers/<chunk>.json             created once: what a version says of a chunk of facts, or, after their
                                              blobs, which values or sums the chunk has
    searches/values/<sha256>.safetensors      these values, or the sums of one layer

A chunk is known by what its answer is a function of, so whoever does the same finds it, such as a job that was killed
and is started again. Of two answers the first counts. Nothing here is the only copy of anything: values that are used
are stored with their versions, and what was said with the report.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tasks.stores.blobs import Blobs
from tasks.stores.errors import ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record, record_bytes
from tasks.stores.search_records import Answer, Chunk, Sampled, Search, Summed, Told

if TYPE_CHECKING:
    from torch import Tensor

    from editing.key_sums import PartSums

    Found: TypeAlias = Tensor | Told | Sampled | PartSums

FOLDER = "searches"
REMEDY = "remove it: it is found again"


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

    def answer(self, chunk: str, found: "Found", host: str, device: str, seconds: float) -> None:
        """Store what was found for a chunk, of values a row a group; where another was first, its answer stands."""
        about: dict[str, Any] = {"host": host, "device": device, "seconds": seconds}
        try:
            self.store.put_if_absent(_answer_key(chunk), record_bytes(Answer(**self._stored(chunk, found), **about)))
        except ObjectConflict:
            return

    def _stored(self, chunk: str, found: "Found") -> dict[str, Any]:
        """What of an answer says what was found, whose blobs lie there."""
        if isinstance(found, Told):
            return {"told": found}
        if isinstance(found, Sampled):
            return {"sampled": found}
        from torch import Tensor  # torch takes seconds, and who only tidies up does without

        if isinstance(found, Tensor):
            return {"values": self._put("z_star", found, f"the values of chunk {chunk[:12]}")}
        what = f"the sums of chunk {chunk[:12]}"
        uppers = {layer: self._put("upper", found.upper(layer), what) for layer in found.fourth_powers}
        return {
            "summed": Summed(
                batches=found.batches, tokens=found.tokens, fourth_powers=dict(found.fourth_powers), uppers=uppers
            )
        }

    def _put(self, name: str, tensor: "Tensor", what: str) -> str:
        from tasks.stores.tensors import tensor_bytes  # as above

        return self._values.put(tensor_bytes({name: tensor}, what))

    def _get(self, name: str, digest: str, what: str) -> "Tensor":
        """A tensor that must be finite and of two dimensions. Raises DigestMismatch, StorageError."""
        from tasks.stores.tensors import parsed  # as above

        tensor = parsed(self._values.get(digest), what).get(name)
        if tensor is None or tensor.dim() != 2 or not bool(tensor.isfinite().all()):
            raise StorageError(f"{what} are no finite '{name}': {REMEDY}")
        return tensor

    def found(self, chunk: Chunk) -> "tuple[Tensor, Answer] | None":
        """The values of a chunk, (groups, m), and who found them; None where there are none yet.

        Raises:
            DigestMismatch, RecordError, StorageError: what lies there is something else.
        """
        if (answer := self._answer(chunk)) is None:
            return None
        what = f"the values of '{_answer_key(chunk.name)}' in '{self.store.uri}'"
        z_star = self._get("z_star", answer.values, what)
        if len(z_star) != len(chunk.groups):
            raise StorageError(f"{what} are no values of {len(chunk.groups)} facts: {REMEDY}")
        return z_star, answer

    def sums(self, chunk: Chunk) -> "tuple[PartSums, Answer] | None":
        """The sums of a chunk, of which each layer is read when it is wanted; None where there are none yet.

        Raises:
            RecordError, StorageError: what lies there is something else, as may come out at reading a layer.
        """
        from editing.key_sums import PartSums  # as above

        if (answer := self._answer(chunk)) is None:
            return None
        what = f"the sums of '{_answer_key(chunk.name)}' in '{self.store.uri}'"
        if (found := answer.summed) is None:
            raise StorageError(f"{what} are none: {REMEDY}")
        upper = lambda layer: self._get("upper", found.uppers[layer], what)  # noqa: E731
        return PartSums(found.batches, found.tokens, found.fourth_powers, upper), answer

    def sampled(self, chunk: Chunk) -> tuple[Sampled, Answer] | None:
        """The rows of a passage; None where there are none yet. Raises RecordError, StorageError for anything else."""
        if (answer := self._answer(chunk)) is None:
            return None
        passage, found = chunk.passage, answer.sampled
        if passage is None or found is None or len(found.rows) != passage.stop - passage.first:
            raise StorageError(f"'{_answer_key(chunk.name)}' in '{self.store.uri}' has no such rows: {REMEDY}")
        return found, answer

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
            for blob in answer.blobs:
                self._values.delete(blob)


def _answer_key(chunk: str) -> str:
    return f"{FOLDER}/answers/{chunk}.json"
