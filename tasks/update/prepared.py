"""What is made of a base before its first edit, once, and then cached: contexts, sampled text, key statistics."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from editing.cache import Cache
from editing.config import STATISTICS_TOKENS, LocatingConfig, MethodConfig
from editing.contexts import APPENDED_WORDS, ROWS_AT_ONCE, TEXT_TOKENS, append_words, context_prefixes, sample_texts
from editing.covariance import SUMMATION, KeyStatistics, collect_statistics, text_digest
from editing.layout import ModelLayout
from editing.models import LoadedModel
from tasks.progress import progress

HELD_OUT_TOKENS = 2048
"""Self-sampled text that is not used for key statistics: perplexity is taken on it when no text is given."""


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

    def make(
        self,
        layout: ModelLayout,
        layers: tuple[int, ...],
        config: MethodConfig,
        statistics_texts: Sequence[str] | None = None,
    ) -> Prepared:
        """All of it; a method that neither searches values nor uses statistics gets only the text.

        Key statistics are of `statistics_texts`, or of text that the model samples itself.

        Raises:
            StatisticsError: `statistics_texts` hold no words, or the keys are not finite.
        """
        if not isinstance(config, LocatingConfig):
            empty = KeyStatistics({}, 0, self.loaded.digest, "none")
            return Prepared(("",), empty, self._held_out_text(STATISTICS_TOKENS, config.seed))
        tokens, seed = config.statistics_tokens, config.seed
        if statistics_texts:
            source, texts = f"text {text_digest(statistics_texts)}", statistics_texts
            held_out = self._held_out_text(tokens, seed)
        else:
            source = f"sampled seed={seed} v3"
            sampled = self._sampled_texts(_sampled_tokens(tokens), seed)
            texts = append_words(self.loaded.tokenizer, sampled[: -_rows(HELD_OUT_TOKENS)], seed)
            held_out = sampled[-_rows(HELD_OUT_TOKENS) :]
        statistics = self._statistics(layout, layers, tokens, texts, source)
        return Prepared(tuple(self._prefixes(config)), statistics, held_out)

    def _prefixes(self, config: LocatingConfig) -> list[str]:
        def make() -> list[str]:
            model, tokenizer = self.loaded.model, self.loaded.tokenizer
            return context_prefixes(model, tokenizer, config.contexts, config.context_tokens, config.seed)

        def read(path: Path) -> list[str]:
            found = read_strings(path)
            if len(found) != config.contexts:
                raise ValueError(f"{len(found)} contexts instead of {config.contexts}")
            return found

        about = [self.loaded.digest, config.contexts, config.context_tokens, config.seed]
        return self.cache.get("contexts", about, make, dump_json, read)

    def _statistics(
        self, layout: ModelLayout, layers: tuple[int, ...], tokens: int, texts: Sequence[str], source: str
    ) -> KeyStatistics:
        loaded = self.loaded

        def make() -> KeyStatistics:
            return collect_statistics(
                loaded.model,
                loaded.tokenizer,
                layout,
                layers,
                texts,
                base_digest=loaded.digest,
                source=source,
                max_tokens=tokens,
                on_progress=lambda done: progress("statistics", done, tokens),
            )

        def read(path: Path) -> KeyStatistics:
            found = KeyStatistics.load(path)
            found.check(loaded.digest, layers)
            return found

        about = [loaded.digest, layers, tokens, source, SUMMATION]
        return self.cache.get("statistics", about, make, KeyStatistics.to_bytes, read)

    def _held_out_text(self, statistics_tokens: int, seed: int) -> list[str]:
        """The text that statistics would leave over, without the text before it.

        Every ROWS_AT_ONCE rows of sampled text have a seed of their own, and the text held out is the last of them.
        """
        before = _rows(_sampled_tokens(statistics_tokens)) - 1
        own_seed = seed + before // ROWS_AT_ONCE * ROWS_AT_ONCE
        return self._sampled_texts(HELD_OUT_TOKENS, own_seed)[-_rows(HELD_OUT_TOKENS) :]

    def _sampled_texts(self, wanted: int, seed: int) -> list[str]:
        def make() -> list[str]:
            return sample_texts(
                self.loaded.model,
                self.loaded.tokenizer,
                wanted,
                seed,
                lambda done: progress("sampled text", min(done, wanted), wanted),
            )

        return self.cache.get("texts", [self.loaded.digest, wanted, seed, "v2"], make, dump_json, read_strings)


def _sampled_tokens(statistics_tokens: int) -> int:
    """Of the tokens behind the statistics those that are not appended words, and the text held out."""
    return statistics_tokens * TEXT_TOKENS // (TEXT_TOKENS + APPENDED_WORDS) + HELD_OUT_TOKENS


def _rows(tokens: int) -> int:
    return -(-tokens // TEXT_TOKENS)


def dump_json(value: object) -> bytes:
    """What a cached value of JSON's own types is written as."""
    return json.dumps(value).encode()


def read_strings(path: Path) -> list[str]:
    """A cached list of strings. Raises OSError, or ValueError for anything else."""
    found = json.loads(path.read_text())
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError("no list of strings")
    return found
