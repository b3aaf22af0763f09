"""A shard of what a job shares out, by whatever process has the same base: every so manieth chunk, one after another.

What a chunk gives depends on base, configuration or version, facts and the number of threads; which process does it,
and how many there are, changes nothing. Killed in the middle, a shard has lost the chunk that it was at.
"""

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from editing.chat import chat_of
from editing.config import LocatingConfig
from editing.covariance import KeyStatistics
from editing.edit import Edit
from editing.errors import UsageError
from editing.layout import layout_of
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.models import LoadedModel
from editing.progress import OnProgress
from editing.search.values import search_values
from tasks.lines.specs import LineSpec
from tasks.meter import Meter
from tasks.retries import outlasting
from tasks.settings import Settings
from tasks.stores.errors import ObjectNotFound
from tasks.stores.objects import ObjectStore
from tasks.stores.search_records import Chunk, Search
from tasks.stores.searches import Searches
from tasks.update.asked import AskedVersion, open_asked
from tasks.update.preparing import PreparedBase, base_of
from tasks.update.searched import about_value, chunk_name, search_chunk


class ShardDone(BaseModel):
    """What a shard came to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chunks: int
    """Done here; others had been, or the job had ended."""
    facts: int
    """None where text is sampled or summed."""
    load_seconds: float
    search_seconds: float
    device: str

    @property
    def said(self) -> str:
        """In one line."""
        if not self.chunks:
            return "nothing was left to do"
        times = f"{self.search_seconds:.1f} s, after {self.load_seconds:.1f} s for loading"
        done = f"{self.facts} facts in {self.chunks} chunks" if self.facts else f"text in {self.chunks} chunks"
        return f"{done} on {self.device}: {times}"


def search_shard(store: ObjectStore, settings: Settings, digest: str, first: int, every: int) -> ShardDone:
    """Do the chunks `first`, `first + every` and so on of a search, as far as nobody has; store what is found.

    A search that the job has ended is no error: there is nothing left to do.

    Raises:
        UsageError, ModelError: release, base or configuration here are not the job's.
        DigestMismatch: the version that is asked is not what was recorded.
        SearchError: the loss of an edit became NaN or infinite.
    """
    searches, started = Searches(store), time.perf_counter()
    try:
        search = outlasting(lambda: searches.read(digest))
    except ObjectNotFound:
        return ShardDone(chunks=0, facts=0, load_seconds=0.0, search_seconds=0.0, device=settings.device)
    base = _opened(search, store, settings)
    loaded, chunks, facts = time.perf_counter(), 0, 0
    mine = range(len(search.chunks))[first::every]
    what = "text" if search.prepares else "facts"
    with same_threads(search.threads), Meter(what, sum(map(base.work, search.chunks[first::every]))) as meter:
        for number in mine:
            chunk = search.chunks[number]
            tell = meter.part(base.work(chunk))
            if not outlasting(partial(searches.goes_on, digest)):
                break
            if outlasting(partial(searches.is_answered, chunk.name)):
                continue
            _check_same(search.line, chunk.name, base.name(number))
            begun = time.perf_counter()
            found = base.find(number, tell)
            taken = time.perf_counter() - begun
            outlasting(partial(searches.answer, chunk.name, found, platform.node(), settings.device, taken))
            chunks, facts = chunks + 1, facts + len(chunk.groups)
    seconds = time.perf_counter() - loaded
    return ShardDone(
        chunks=chunks, facts=facts, load_seconds=loaded - started, search_seconds=seconds, device=settings.device
    )


def _opened(search: Search, store: ObjectStore, settings: Settings) -> "SearchedBase | PreparedBase | AskedVersion":
    """What finds the chunks of a search."""
    if search.asked is not None:
        return open_asked(search, store, settings)
    return PreparedBase(base_of(search, settings), search) if search.prepares else open_base(search, settings)


def _check_same(line: str, jobs: str, mine: str) -> None:
    """Raises UsageError where this process would do something else than the job means."""
    if mine != jobs:
        raise UsageError(
            f"line '{line}': a search is known as {jobs[:12]} to the job and as {mine[:12]} here: tokenizer, chat "
            "template or configuration are not the same; give this worker the job's model and release"
        )


@contextmanager
def same_threads(count: int) -> Iterator[None]:
    """Inside, products run on so many threads: the order in which they add up depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class SearchedBase:
    """A base on which values are searched and nothing else is done: it has neither statistics nor edits."""

    loaded: LoadedModel
    given: MethodInput
    config: LocatingConfig
    chunks: tuple[Chunk, ...]

    def work(self, chunk: Chunk) -> int:
        """What it counts, for progress."""
        return len(chunk.groups) * self.config.search.steps

    def name(self, number: int) -> str:
        """What a chunk is known by here."""
        groups = self.chunks[number].groups
        abouts = [about_value(self.given, self.loaded.digest, self.config, group) for group in groups]
        return chunk_name(self.loaded.tokenizer, abouts, groups)

    def find(self, number: int, on_progress: OnProgress) -> Tensor:
        """The values of a chunk, (groups, m) float32."""
        return search_chunk(self.search, self.chunks[number].groups, on_progress)

    def search(self, edits: Sequence[Edit], on_progress: OnProgress) -> Tensor:
        """z* of each edit (n, m) float32, as a job would search it."""
        found = search_values(
            self.loaded.model, self.loaded.tokenizer, self.given.layout, edits, self.given.layers[-1],
            self.config.search, self.given.prefixes, on_progress, self.given.chat,
        )  # fmt: skip
        return torch.stack([value.z_star for value in found])


def open_base(search: Search, settings: Settings) -> SearchedBase:
    """Load the base of a search, which must be the job's.

    Raises:
        UsageError: another release of Errata began the search.
        ModelError: the base here has other weights, or cannot be loaded.
    """
    spec = LineSpec.model_validate(search.spec)
    assert isinstance(spec.config, LocatingConfig)  # of no other is anything searched
    loaded = base_of(search, settings)
    given = MethodInput(
        loaded.model, loaded.tokenizer, layout_of(loaded.model), search.layers,
        KeyStatistics({}, 0, loaded.digest, "none"), KeyHistory(), search.contexts,
        chat=chat_of(loaded.tokenizer, spec.template, spec.system),
    )  # fmt: skip
    return SearchedBase(loaded, given, spec.config, search.chunks)
