"""What is made of a base before its first edit, once, and then cached: contexts, sampled text, key statistics."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from editing.config import MethodConfig
from editing.contexts import APPENDED_WORDS, ROWS_AT_ONCE, TEXT_TOKENS, append_words, context_prefixes, sample_texts
from editing.covariance import SUMMATION, KeyStatistics, collect_statistics, text_digest
from editing.errors import StatisticsError
from editing.files import write_atomically
from editing.layout import ModelLayout
from editing.methods import find_method
from editing.models import LoadedModel

HELD_OUT_TOKENS = 2048
"""Self-sampled text that is not used for key statistics: perplexity is taken on it when no text is given."""

Progress = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class Prepared:
    """What a method reads of the base, and text for perplexity."""

    prefixes: tuple[str, ...]
    statistics: KeyStatistics
    held_out: list[str]
    """Sampled text that no statistics are collected from."""


def prepare(
    loaded: LoadedModel,
    layout: ModelLayout,
    layers: tuple[int, ...],
    config: MethodConfig,
    cache: Path,
    statistics_texts: Sequence[str] | None,
    on_progress: Progress,
) -> Prepared:
    """All of it, from the cache where it is there; a method that uses no statistics gets only the text.

    Raises:
        StatisticsError: `statistics_texts` hold no words, or the keys are not finite.
    """
    if not find_method(config.method).uses_statistics:
        empty = KeyStatistics({}, 0, loaded.digest, "none")
        return Prepared(("",), empty, _held_out_text(loaded, config, cache, on_progress))
    prefixes = _prefixes(loaded, config, cache)
    if statistics_texts:
        source, texts = f"text {text_digest(statistics_texts)}", statistics_texts
        held_out = _held_out_text(loaded, config, cache, on_progress)
    else:
        source = f"sampled seed={config.seed} v3"
        sampled = _sampled_texts(loaded, _sampled_tokens(config), config.seed, cache, on_progress)
        texts = append_words(loaded.tokenizer, sampled[: -_rows(HELD_OUT_TOKENS)], config.seed)
        held_out = sampled[-_rows(HELD_OUT_TOKENS) :]
    statistics = _statistics(loaded, layout, layers, config, cache, texts, source, on_progress)
    return Prepared(tuple(prefixes), statistics, held_out)


def _prefixes(loaded: LoadedModel, config: MethodConfig, cache: Path) -> list[str]:
    about = json.dumps([loaded.digest, config.contexts, config.context_tokens, config.seed])
    path = cache / "contexts" / f"{hashlib.sha256(about.encode()).hexdigest()}.json"
    found = _read_strings(path)
    if found is None or len(found) != config.contexts:
        found = context_prefixes(loaded.model, loaded.tokenizer, config.contexts, config.context_tokens, config.seed)
        write_atomically(path, json.dumps(found).encode())
    return found


def _statistics(
    loaded: LoadedModel,
    layout: ModelLayout,
    layers: tuple[int, ...],
    config: MethodConfig,
    cache: Path,
    texts: Sequence[str],
    source: str,
    on_progress: Progress,
) -> KeyStatistics:
    used = config.statistics_tokens
    about = json.dumps([loaded.digest, layers, used, source, SUMMATION])
    path = cache / "statistics" / f"{hashlib.sha256(about.encode()).hexdigest()}.safetensors"
    statistics = _read_statistics(path, loaded.digest, layers)
    if statistics is None:
        statistics = collect_statistics(
            loaded.model,
            loaded.tokenizer,
            layout,
            layers,
            texts,
            base_digest=loaded.digest,
            source=source,
            max_tokens=used,
            on_progress=lambda done: on_progress("statistics", done, used),
        )
        statistics.save(path)
    return statistics


def _held_out_text(loaded: LoadedModel, config: MethodConfig, cache: Path, on_progress: Progress) -> list[str]:
    """The text that statistics would leave over, without the text before it.

    Every ROWS_AT_ONCE rows of sampled text have a seed of their own, and the text held out is the last of them.
    """
    before = _rows(_sampled_tokens(config)) - 1
    seed = config.seed + before // ROWS_AT_ONCE * ROWS_AT_ONCE
    return _sampled_texts(loaded, HELD_OUT_TOKENS, seed, cache, on_progress)[-_rows(HELD_OUT_TOKENS) :]


def _sampled_texts(loaded: LoadedModel, wanted: int, seed: int, cache: Path, on_progress: Progress) -> list[str]:
    about = json.dumps([loaded.digest, wanted, seed, "v2"])
    path = cache / "texts" / f"{hashlib.sha256(about.encode()).hexdigest()}.json"
    found = _read_strings(path)
    if found is None:
        found = sample_texts(
            loaded.model,
            loaded.tokenizer,
            wanted,
            seed,
            lambda done: on_progress("sampled text", min(done, wanted), wanted),
        )
        write_atomically(path, json.dumps(found).encode())
    return found


def _sampled_tokens(config: MethodConfig) -> int:
    """Of the tokens behind the statistics those that are not appended words, and the text held out."""
    return config.statistics_tokens * TEXT_TOKENS // (TEXT_TOKENS + APPENDED_WORDS) + HELD_OUT_TOKENS


def _rows(tokens: int) -> int:
    return -(-tokens // TEXT_TOKENS)


def _read_strings(path: Path) -> list[str] | None:
    """A cached list of strings; a broken file counts as absent and is made anew."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) and all(isinstance(text, str) for text in found) else None


def _read_statistics(path: Path, base_digest: str, layers: Sequence[int]) -> KeyStatistics | None:
    try:
        statistics = KeyStatistics.load(path)
        statistics.check(base_digest, layers)
    except StatisticsError:
        return None
    return statistics
