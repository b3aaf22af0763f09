"""Sampled text and key statistics of much text, made by the workers of a job: `workers` of its policy.

Text is sampled in passes, and its keys are summed in parts, with fixed borders; the job adds the sums in their order.
So the job alone, one worker and many come to the same bits. A text of one part the job sums itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain

import torch

from editing.collection import SUMMATION, Elsewhere, parts_of, sum_part
from editing.contexts import SampledRow, sample_rows
from editing.digests import json_digest
from editing.key_sums import KeySums, PartSums
from editing.layout import layout_of
from editing.models import LoadedModel
from editing.progress import OnProgress
from editing.token_rows import TokenRow
from tasks.base_model import loaded_base
from tasks.lines.specs import LineSpec
from tasks.progress import note
from tasks.retries import outlasting
from tasks.settings import Settings
from tasks.stores.errors import StorageError
from tasks.stores.search_records import UNNAMED, Chunk, Passage, Row, Sampled, Search, release
from tasks.update.elsewhere import SAMPLING, Rows, Sampling
from tasks.update.run import Run
from tasks.update.team import Team

SHARED_PASSES = 3
"""Passes that are shared out: fewer are sampled before a worker has loaded the base."""
SHARED_PARTS = 2
"""Parts that are."""


@dataclass(frozen=True)
class PreparedBase:
    """A base that samples text, or through which text is passed, and nothing else is done."""

    loaded: LoadedModel
    search: Search

    def work(self, chunk: Chunk) -> int:
        """What it counts, for progress: rows of a passage, tokens of a part."""
        if chunk.passage is not None:
            return chunk.passage.stop - chunk.passage.first
        return sum(map(len, rows_of(chunk)))

    def name(self, number: int) -> str:
        """What a chunk is known by: all that is found for it is a function of, the number of threads included."""
        search, chunk = self.search, self.search.chunks[number]
        about = chunk.model_dump(mode="json", exclude={"name", "groups"})
        return json_digest([SUMMATION, SAMPLING, self.loaded.digest, search.layers, search.threads, about])

    def find(self, number: int, on_progress: OnProgress) -> PartSums | Sampled:
        """The sums of a part, or the rows of a pass."""
        (model, tokenizer), chunk = (self.loaded.model, self.loaded.tokenizer), self.search.chunks[number]
        if (passage := chunk.passage) is None:
            return sum_part(model, tokenizer, layout_of(model), self.search.layers, rows_of(chunk), on_progress)
        numbers = range(passage.first, passage.stop)
        rows = sample_rows(model, tokenizer, numbers, passage.seed, passage.alternatives, on_progress)
        return Sampled(rows=tuple(Row.model_validate(asdict(row)) for row in rows))


def base_of(search: Search, settings: Settings) -> LoadedModel:
    """Load the base of a search, which must be the job's.

    Raises:
        UsageError: another release of Errata began this.
        ModelError: the base here has other weights, or cannot be loaded.
    """
    spec = LineSpec.model_validate(search.spec)
    search.check_release()
    loaded = loaded_base(spec.model, spec.dtype, settings)
    search.check_base(loaded.digest)
    return loaded


@dataclass(frozen=True)
class Workers:
    """Those of a job, as far as they prepare its base: where that is little, the job does it alone."""

    run: Run

    @contextmanager
    def sampled(self, loaded: LoadedModel, passes: Sequence[Sampling], seed: int) -> Iterator[Rows]:
        """Inside, workers sample these passes of text."""
        if len(passes) < SHARED_PASSES:
            yield lambda number: None
            return
        passages = [Passage(first=rows.start, stop=rows.stop, seed=seed, alternatives=count) for rows, count in passes]
        chunks = [Chunk(name=UNNAMED, passage=passage) for passage in passages]
        with self._team(loaded, (), chunks, f"{len(chunks)} passes of text are sampled") as team:
            yield partial(_sampled, team)

    @contextmanager
    def summed(
        self, loaded: LoadedModel, layers: tuple[int, ...], texts: Sequence[str | TokenRow], tokens: int
    ) -> Iterator[Elsewhere]:
        """Inside, workers sum the parts of a text."""
        parts = list(parts_of(loaded.model, loaded.tokenizer, texts, tokens))
        if len(parts) < SHARED_PARTS:
            yield lambda number, sums: False
            return
        chunks = [Chunk(name=UNNAMED, rows=tuple(map(row_of, chain(*part)))) for part in parts]
        with self._team(loaded, layers, chunks, f"key statistics of {len(chunks)} parts of text are summed") as team:
            yield partial(_summed, team, [(len(part), sum(map(len, chain(*part)))) for part in parts])

    @contextmanager
    def _team(self, loaded: LoadedModel, layers: tuple[int, ...], chunks: Sequence[Chunk], what: str) -> Iterator[Team]:
        team = Team(self.run, planned(self.run, loaded, layers, chunks), what)
        try:
            team.begin()
            yield team
        finally:
            team.end()


def planned(run: Run, loaded: LoadedModel, layers: tuple[int, ...], chunks: Sequence[Chunk]) -> Search:
    """What is to be made, its chunks by their names."""
    search = Search(
        line=run.line,
        release=release(),
        base=loaded.digest,
        spec=run.spec.model_dump(mode="json"),
        layers=layers,
        contexts=(),
        threads=torch.get_num_threads(),
        chunks=tuple(chunks),
        prepares=True,
    )
    return search.named(PreparedBase(loaded, search).name)


def rows_of(chunk: Chunk) -> list[TokenRow]:
    """The rows of a part, as they are summed."""
    return [TokenRow(row.ids, row.others) for row in chunk.rows]


def row_of(row: TokenRow) -> Row:
    """A row as it is stored."""
    return Row(ids=tuple(row.ids), others=tuple(map(tuple, row.others)))


def _sampled(team: Team, number: int) -> list[SampledRow] | None:
    """The rows of that pass, if a worker sampled them."""
    found = team.found(number, team.searches.sampled)
    if found is None:
        return None
    return [SampledRow(row.text, list(row.ids), [list(others) for others in row.others]) for row in found.rows]


def _summed(team: Team, sizes: Sequence[tuple[int, int]], number: int, sums: KeySums) -> bool:
    """Whether a worker found the sums of that part, of so many batches and tokens, and they are added."""
    found = team.found(number, team.searches.sums)
    if found is None:
        return False
    try:
        if (found.batches, found.tokens) != sizes[number]:
            raise ValueError(f"what was found is of {found.tokens} tokens in the place of {sizes[number][1]}")
        sums.take(replace(found, upper=lambda layer: outlasting(partial(found.upper, layer))))
    except (StorageError, LookupError, ValueError) as error:
        note(f"part {number + 1} of the key statistics is summed by the job itself: {error}", "warning")
        return False
    return True
