"""What is made of a base before its first edit, once, and then cached: contexts, sampled text, key statistics."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from editing.cache import Cache
from editing.collection import SUMMATION, Unfinished, collect_statistics
from editing.config import LocatingConfig, MethodConfig
from editing.contexts import (
    APPENDED_WORDS,
    ROWS_A_SEED,
    TEXT_TOKENS,
    SampledRow,
    append_word_tokens,
    append_words,
    context_prefixes,
    sample_rows,
)
from editing.covariance import KeyStatistics, text_digest
from editing.errors import StatisticsError
from editing.layout import ModelLayout
from editing.models import LoadedModel
from editing.streamed import save_tensors
from editing.token_rows import TokenRow
from tasks.meter import Meter
from tasks.progress import progress
from tasks.update.elsewhere import NOBODY, SAMPLING, Sampling, Shared

PASS_ROWS = 64
"""Most rows of text that are sampled at once and kept together: more cost less a row, fewer are sooner safe."""
HELD_OUT_TOKENS = 2048
"""Self-sampled text that is not used for key statistics: perplexity is taken on it when no text is given."""
HELD_OUT_ROW = 1056
"""Where it begins, whatever is collected: behind the rows of 98,304 tokens of statistics, the most that was usual."""


@dataclass(frozen=True)
class Prepared:
    """What a method reads of the base, and text for perplexity."""

    prefixes: tuple[str, ...]
    statistics: KeyStatistics
    held_out: list[str]
    """Sampled text that no statistics are collected from."""


@dataclass(frozen=True)
class Preparation:
    """A base, and where what is made of it is cached."""

    loaded: LoadedModel
    cache: Cache
    shared: Shared = NOBODY
    """Who makes parts of long texts and of their statistics."""

    def make(
        self,
        layout: ModelLayout,
        layers: tuple[int, ...],
        config: MethodConfig,
        statistics_texts: Sequence[str] | None = None,
        function: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """All of it; a method that neither searches values nor uses statistics gets only the text.

        Key statistics are of `statistics_texts`, or of text that the model samples itself; contexts and the text of
        statistics are those of `function`, where a line knows what it is a function of.

        Raises:
            StatisticsError: `statistics_texts` hold no words, or the keys are not finite.
        """
        if not isinstance(config, LocatingConfig):
            return self.for_asking(config)
        held_out = _held_out(config)
        was = str(function["statistics"]["source"]).removesuffix(", shrunk") if function else None
        statistics = self._statistics(layout, layers, config, statistics_texts, held_out, was)
        if config.shrink:
            statistics = statistics.shrunk(in_place=True)
        prefixes = function["contexts"] if function else self._prefixes(config)
        return Prepared(tuple(prefixes), statistics, self._held_out_text(held_out, config.seed))

    def for_asking(self, config: MethodConfig) -> Prepared:
        """What it takes to measure this base and to write nothing into it: the text."""
        empty = KeyStatistics({}, 0, self.loaded.digest, "none")
        return Prepared(("",), empty, self._held_out_text(_held_out(config), config.seed))

    def _prefixes(self, config: LocatingConfig) -> list[str]:
        def make() -> list[str]:
            model, tokenizer = self.loaded.model, self.loaded.tokenizer
            progress("contexts", 0, max(1, (config.contexts - 1) * config.context_tokens))
            return context_prefixes(
                model,
                tokenizer,
                config.contexts,
                config.context_tokens,
                config.seed,
                lambda done, total: progress("contexts", done, total),
            )

        def read(path: Path) -> list[str]:
            found = read_strings(path)
            if len(found) != config.contexts:
                raise ValueError(f"{len(found)} contexts instead of {config.contexts}")
            return found

        about = [self.loaded.digest, config.contexts, config.context_tokens, config.seed]
        return self.cache.get("contexts", about, make, dump_json, read)

    def _statistics(
        self,
        layout: ModelLayout,
        layers: tuple[int, ...],
        config: LocatingConfig,
        given: Sequence[str] | None,
        held_out: range,
        was: str | None = None,
    ) -> KeyStatistics:
        """As they were collected, not shrunk; sums on the way are kept, so that a killed process goes on from them.

        `was`: what a line has them from; of a text that is not given again they must be in the cache.
        """
        loaded, wanted = self.loaded, config.statistics_tokens
        elsewhere = was if was and was.startswith("text ") and not given else None
        if given or elsewhere:  # nothing stands beside its tokens, so that it takes more of them for as many keys
            wanted *= 1 + config.statistics_alternatives
        sampled = f"sampled seed={config.seed} alternatives={config.statistics_alternatives} {SAMPLING}"
        source = f"text {text_digest(given)}" if given else elsewhere or sampled
        about = [loaded.digest, layers, wanted, source, SUMMATION]

        def make() -> KeyStatistics:
            if elsewhere:
                raise StatisticsError(
                    f"the line's key statistics are of {elsewhere[:17]}…, and are not in the cache here; give that "
                    "text by --statistics-text"
                )
            texts = given or self._rows_with_words(config, held_out)
            with self.shared.summed(loaded, layers, texts, wanted) as summed:
                made = collect_statistics(
                    loaded.model,
                    loaded.tokenizer,
                    layout,
                    layers,
                    texts,
                    base_digest=loaded.digest,
                    source=source,
                    max_tokens=wanted,
                    on_progress=lambda done: progress("statistics", done, wanted),
                    unfinished=Unfinished(
                        lambda: self.cache.read("statistics", [*about, "unfinished"], load_file),
                        lambda state: self.cache.write(
                            "statistics", [*about, "unfinished"], partial(save_tensors, tensors=state)
                        ),
                    ),
                    elsewhere=summed,
                )
            progress("statistics", wanted, wanted)  # the text may be shorter
            return made

        def read(path: Path) -> KeyStatistics:
            found = KeyStatistics.load(path)
            found.check(loaded.digest, layers)
            return found

        found = self.cache.get("statistics", about, make, lambda made: made.save, read)
        self.cache.drop("statistics", [*about, "unfinished"])
        return found

    def _rows_with_words(self, config: LocatingConfig, held_out: range) -> Sequence[str | TokenRow]:
        """Sampled rows from the first on, with words of the vocabulary appended.

        The text held out is sampled with them: it will be wanted, and what is still to come is known from the start.
        Without alternatives it is text, and as every release had it: rows until they have the tokens asked for.
        """
        tokenizer, seed, tokens = self.loaded.tokenizer, config.seed, config.statistics_tokens
        alternatives, most = config.statistics_alternatives, _rows_behind(tokens)
        passes = _passes(min(_rows(tokens * TEXT_TOKENS // (TEXT_TOKENS + APPENDED_WORDS)), most))
        asked = [(rows, alternatives) for rows in passes]
        rows = [row for one in self._sampled([*asked, (held_out, 0)], seed)[:-1] for row in one]
        if alternatives:
            return append_word_tokens(tokenizer, rows, seed, alternatives)
        texts = [row.text for row in rows]
        while len(texts) < most and _count_tokens(tokenizer, append_words(tokenizer, texts, seed)) < tokens:
            further = range(len(texts), min(len(texts) + len(passes[0]), most))  # rows that ended early left room
            texts += [row.text for row in self._sampled([(further, 0)], seed)[0]]
        return append_words(tokenizer, texts, seed)

    def _held_out_text(self, rows: range, seed: int) -> list[str]:
        return [row.text for row in self._sampled([(rows, 0)], seed)[0]]

    def _sampled(self, passes: Sequence[Sampling], seed: int) -> list[list[SampledRow]]:
        """Rows by their numbers, with so many alternatives: each pass sampled in one go and kept when it is there."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        total = sum(len(rows) for rows, _ in passes) * TEXT_TOKENS

        def make(missing: list[int]) -> Iterator[list[SampledRow]]:
            before = total - sum(len(passes[number][0]) for number in missing) * TEXT_TOKENS
            wanted = [passes[number] for number in missing]
            with (
                self.shared.sampled(self.loaded, wanted, seed) as elsewhere,
                Meter("sampled text", total, before) as meter,
            ):
                for place, number in enumerate(missing):
                    rows, alternatives = passes[number]
                    part = meter.part(len(rows) * TEXT_TOKENS)
                    found = elsewhere(place)
                    yield sample_rows(model, tokenizer, rows, seed, alternatives, part) if found is None else found
                    part(1, 1)

        abouts = [[self.loaded.digest, [rows.start, rows.stop], seed, number, SAMPLING] for rows, number in passes]
        return self.cache.get_all("texts", abouts, make, _dump_rows, _read_rows)


def _held_out(config: MethodConfig) -> range:
    """The rows of sampled text that no statistics are collected from."""
    tokens = config.statistics_tokens if isinstance(config, LocatingConfig) else 0
    first = max(HELD_OUT_ROW, _rows_behind(tokens))
    return range(first, first + _rows(HELD_OUT_TOKENS))


def _rows_behind(tokens: int) -> int:
    """Most rows that so many tokens of statistics are collected from, appended words being a third of them.

    Rows that end early are short, so there are more than it takes: together with the text held out, whole seeds of
    them.
    """
    held_out = _rows(HELD_OUT_TOKENS)
    rows = _rows(tokens * TEXT_TOKENS // (TEXT_TOKENS + APPENDED_WORDS) + HELD_OUT_TOKENS)
    return -(-rows // ROWS_A_SEED) * ROWS_A_SEED - held_out


def _passes(rows: int) -> list[range]:
    """So many rows from the first on, in the fewest parts of at most PASS_ROWS, as even as they can be."""
    count = max(1, -(-rows // PASS_ROWS))
    borders = [rows * i // count for i in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(borders)]


def _rows(tokens: int) -> int:
    return -(-tokens // TEXT_TOKENS)


def _count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> int:
    return sum(len(tokenizer(text, verbose=False)["input_ids"]) for text in texts)


def _dump_rows(rows: list[SampledRow]) -> bytes:
    return dump_json([asdict(row) for row in rows])


_ROWS = TypeAdapter(list[SampledRow], config=ConfigDict(strict=True, extra="forbid"))


def _read_rows(path: Path) -> list[SampledRow]:
    """Raises OSError, or ValueError for anything but sampled rows."""
    return _ROWS.validate_json(path.read_bytes())


def dump_json(value: object) -> bytes:
    """What a cached value of JSON's own types is written as."""
    return json.dumps(value).encode()


def read_strings(path: Path) -> list[str]:
    """A cached list of strings. Raises OSError, or ValueError for anything else."""
    found = json.loads(path.read_text())
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError("no list of strings")
    return found
