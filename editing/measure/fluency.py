"""Text that the model writes, and how varied it is.

Fluency is the weighted entropy of word bigrams and trigrams (Zhang et al. 2018, https://arxiv.org/abs/1809.05972) as
ROME's authors use it (Meng et al. 2022, https://arxiv.org/abs/2202.05262): H = 1/3 H2 + 2/3 H3 in bits, over prompt
and continuation, the mean over the texts. A model that repeats itself scores low. They split words with NLTK's
tokeniser; here a regular expression takes runs of letters and single punctuation marks, so the numbers agree closely
with theirs, not to the last digit.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.digests import sha256
from editing.errors import EditingError
from editing.measure.scoring import Query, Score, encode_prompts
from editing.measure.writing import Row, Writing, never
from editing.progress import OnProgress, unheard
from editing.tokens import check_length, max_positions, pad_token
from editing.weights import WeightUpdate, one_each, parts_in_memory

ROWS_AT_ONCE = 64
FLUENCY_TOP_K = 5
Enough = Callable[[str], bool]
"""Whether a text that is written needs no more."""


def fluency(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 50,
    seed: int = 0,
    top_k: int = FLUENCY_TOP_K,
) -> float:
    """Mean weighted entropy, in bits, of the prompts as the model goes on from them."""
    if not prompts:
        raise EditingError("fluency needs at least one prompt")
    found = entropies(model, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed, top_k=top_k)
    return sum(found) / len(found)


def entropies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 50,
    seed: int = 0,
    top_k: int = FLUENCY_TOP_K,
    on_progress: OnProgress = unheard,
) -> list[float]:
    """Of each prompt, as the model goes on from it, the weighted entropy in bits; of different prompts each by itself.

    `on_progress` as in `generate`.
    """
    written = generate(model, tokenizer, prompts, max_new_tokens, seed=seed, top_k=top_k, on_progress=on_progress)
    return [weighted_entropy(prompt + goes_on) for prompt, goes_on in zip(prompts, written, strict=True)]


def weighted_entropy(text: str) -> float:
    """1/3 H2 + 2/3 H3 of a text's words, in bits."""
    words = re.findall(r"\w+(?:['’]\w+)*|[^\w\s]", text)
    return ngram_entropy(words, 2) / 3 + 2 * ngram_entropy(words, 3) / 3


def ngram_entropy(words: Sequence[str], n: int) -> float:
    """H_n: Shannon entropy, in bits, of the frequencies of runs of n words; 0 for a text of fewer words."""
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = sum(counts.values())
    return sum(count / total * math.log2(total / count) for count in counts.values())


@dataclass(frozen=True)
class Written:
    """What the model wrote after a prompt, as tokens."""

    prompt: list[int]
    ids: list[int]
    others: list[list[int]]
    """For each of `ids` what else was drawn in its place, if that was asked for."""
    cut: bool = False
    """It has as many tokens as were wanted; else it came to its own end."""
    scores: Sequence[Score] = ()
    """Of the targets that were asked beside it; none for a model that takes one text a row."""


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int | Sequence[int],
    *,
    seed: int | None = None,
    top_k: int = FLUENCY_TOP_K,
    updates: Sequence[WeightUpdate | None] | None = None,
    enough: Sequence[Enough | None] | None = None,
    on_progress: OnProgress = unheard,
) -> list[str]:
    """What the model writes after each prompt: greedily, or with `seed` sampled from the `top_k` likeliest tokens.

    A prompt's random numbers depend on seed, prompt and how often it came before, never on the rest of the batch or
    on torch's global state. A row ends at the end-of-text token, or where the model can read no further.

    Args:
        max_new_tokens: of all prompts, or of each.
        updates: one for each prompt, which is continued as if this update alone were in force; left out, by the model
            as it stands.
        enough: one for each prompt: told the text so far, whether nobody wants more of it. None: never.
        on_progress: hears how many new tokens are written, at most of how many; those that a row did without count as
            written when it has ended.

    Raises:
        InvalidEdit: a prompt without tokens, or longer than the model reads.
        EditingError: there is not one update for each prompt.
    """
    tokens = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    draws = None if seed is None else uniform_draws(prompts, max(tokens, default=0), seed)
    written = write(
        model, tokenizer, prompts, tokens, draws, top_k=top_k, updates=updates, enough=enough, on_progress=on_progress
    )
    return [tokenizer.decode(one.ids, skip_special_tokens=True) for one in written]


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int | Sequence[int],
    draws: Tensor | None,
    *,
    top_k: int = FLUENCY_TOP_K,
    updates: Sequence[WeightUpdate | None] | None = None,
    enough: Sequence[Enough | None] | None = None,
    queries: Sequence[Sequence[Query]] | None = None,
    on_progress: OnProgress = unheard,
) -> list[Written]:
    """`generate` as tokens, with random numbers (prompts, new tokens, 1 + others) as `uniform_draws` gives them.

    `queries`: for each prompt, targets that are scored while it is read, with its update in force.
    """
    rows = rows_of(model, tokenizer, prompts, max_new_tokens, draws, updates=updates, enough=enough)
    if queries is not None:
        rows = [replace(row, queries=asked) for row, asked in zip(rows, queries, strict=True)]
    found: dict[int, Written] = {}
    done, total = 0, sum(row.tokens for row in rows)
    for group in _groups(rows):
        for part in parts_in_memory([rows[i].update for i in group]):
            chosen = group[part]
            writing = Writing(model, tokenizer, [rows[i] for i in chosen], pad_token(tokenizer), top_k)
            writing.run(on_step=partial(_count, on_progress, done, total))
            done += writing.done
            on_progress(done, total)
            for i, ids, others, scores in zip(chosen, writing.ids, writing.others, writing.scores, strict=True):
                cut = len(ids) == rows[i].tokens
                found[i] = Written(list(rows[i].prompt), ids, others, cut=cut, scores=scores)
    return [found[i] for i in range(len(rows))]


def rows_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int | Sequence[int],
    draws: Tensor | None = None,
    *,
    updates: Sequence[WeightUpdate | None] | None = None,
    enough: Sequence[Enough | None] | None = None,
) -> list[Row]:
    """What is written after each prompt, as `write` takes it; no longer than the model can read.

    Raises:
        InvalidEdit: a prompt without tokens, or longer than the model reads.
        EditingError: there is not one update for each prompt.
    """
    in_force = one_each(updates, len(prompts), "prompt")
    tokens = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    encoded, limit = encode_prompts(tokenizer, prompts), max_positions(model)
    rows = []
    for i, (prompt, wanted, update) in enumerate(zip(prompts, tokens, in_force, strict=True)):
        ids = tuple(encoded[prompt])
        check_length(model, ids, prompt, with_target=False)
        room = wanted if limit is None else min(wanted, limit - len(ids))
        drawn, ends = None if draws is None else draws[i], enough[i] if enough else None
        rows.append(Row(ids, room, drawn, update, never if ends is None else partial(_is_enough, tokenizer, ends)))
    return rows


def _is_enough(tokenizer: PreTrainedTokenizerBase, enough: Enough, ids: Sequence[int]) -> bool:
    return enough(tokenizer.decode(ids, skip_special_tokens=True))


def _count(on_progress: OnProgress, before: int, total: int, done: int) -> None:
    on_progress(before + done, total)


def _groups(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Numbers of rows of like length that go on together."""
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield by_length[start : start + ROWS_AT_ONCE]


def uniform_draws(prompts: Sequence[str], steps: int, seed: int, others: int = 0) -> Tensor:
    """Uniform numbers (prompts, steps, 1 + others), one stream a prompt, and one for its others."""
    seen: Counter[str] = Counter()
    streams = []
    for prompt in prompts:
        key = f"{seed} {seen[prompt]} {prompt}"
        seen[prompt] += 1
        drawn = [_uniform(key, steps, 1)] + ([_uniform(f"{key} others", steps, others)] if others else [])
        streams.append(torch.cat(drawn, dim=1))
    return torch.stack(streams) if streams else torch.empty(0, steps, 1 + others)


def _uniform(key: str, steps: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(int(sha256(key.encode())[:14], 16))
    return torch.rand(steps, count, generator=generator, dtype=torch.float64)
