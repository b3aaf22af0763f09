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
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.body import takes_positions
from editing.digests import sha256
from editing.errors import EditingError
from editing.layout import layout_of
from editing.measure.scoring import encode_prompts, output_logits
from editing.onednn import fast_linear
from editing.tokens import align_rows, check_length, max_positions, pad_token
from editing.weights import WeightUpdate, one_each, overlay, parts_in_memory

ROWS_AT_ONCE = 64


def fluency(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 50,
    seed: int = 0,
    top_k: int = 5,
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
    top_k: int = 5,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
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


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    seed: int | None = None,
    top_k: int = 5,
    updates: Sequence[WeightUpdate | None] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """What the model writes after each prompt: greedily, or with `seed` sampled from the `top_k` likeliest tokens.

    A prompt's random numbers depend on seed, prompt and how often it came before, never on the rest of the batch or
    on torch's global state. A row ends at the end-of-text token, or where the model can read no further.

    Args:
        updates: one for each prompt, which is continued as if this update alone were in force; left out, by the model
            as it stands.
        on_progress: hears how many new tokens are written, at most of how many; a row that ends early counts as
            written when its group is.

    Raises:
        InvalidEdit: a prompt without tokens, or longer than the model reads.
        EditingError: there is not one update for each prompt.
    """
    draws = None if seed is None else uniform_draws(prompts, max_new_tokens, seed)
    written = write(
        model, tokenizer, prompts, max_new_tokens, draws, top_k=top_k, updates=updates, on_progress=on_progress
    )
    return [tokenizer.decode(one.ids, skip_special_tokens=True) for one in written]


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    draws: Tensor | None,
    *,
    top_k: int = 5,
    updates: Sequence[WeightUpdate | None] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Written]:
    """`generate` as tokens, with random numbers (prompts, new tokens, 1 + others) as `uniform_draws` gives them."""
    in_force = one_each(updates, len(prompts), "prompt")
    encoded = encode_prompts(tokenizer, prompts)
    rows = [encoded[prompt] for prompt in prompts]
    for row, prompt in zip(rows, prompts, strict=True):
        check_length(model, row, prompt)
    found: dict[int, Written] = {}
    done, total = 0, len(rows) * max_new_tokens
    for group in _groups(rows, max_new_tokens, max_positions(model)):
        for part in parts_in_memory([in_force[i] for i in group]):
            chosen = group[part]
            with fast_linear(model), overlay(model, layout_of(model), [in_force[i] for i in chosen]):
                written = _continue(
                    model,
                    tokenizer,
                    [rows[i] for i in chosen],
                    max_new_tokens,
                    None if draws is None else draws[chosen],
                    top_k,
                    partial(_count, on_progress, done, len(chosen), total),
                )
            done += len(chosen) * max_new_tokens
            on_progress(done, total)
            found |= dict(zip(chosen, written, strict=True))
    return [found[i] for i in range(len(rows))]


def _count(on_progress: Callable[[int, int], None], done: int, rows: int, total: int, steps: int) -> None:
    on_progress(done + rows * steps, total)


def _groups(rows: Sequence[Sequence[int]], new_tokens: int, limit: int | None) -> Iterator[list[int]]:
    """Numbers of rows of like length that go on together; one without room for all new tokens goes alone.

    Rows written together end together: a long one would cut the others short.
    """
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    roomy = [i for i in by_length if limit is None or len(rows[i]) + new_tokens <= limit]
    for start in range(0, len(roomy), ROWS_AT_ONCE):
        yield roomy[start : start + ROWS_AT_ONCE]
    for i in by_length[len(roomy) :]:
        yield [i]


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


@torch.inference_mode()
def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    draws: Tensor | None,
    top_k: int,
    on_step: Callable[[int], None],
) -> list[Written]:
    """New tokens of each row, left-padded in one batch, with the model's own cache of keys and values."""
    longest = max(len(row) for row in prompts)
    limit = max_positions(model)
    steps = max_new_tokens if limit is None else min(max_new_tokens, limit - longest)
    pad_id, ends = pad_token(tokenizer), end_tokens(model, tokenizer)
    batch = align_rows(prompts, [len(row) - 1 for row in prompts], pad_id).to(model.device)
    ids, mask, positions = batch.input_ids, batch.attention_mask, batch.position_ids
    cache: Any = None
    written = [Written(list(prompt), [], []) for prompt in prompts]
    running = set(range(len(prompts)))
    for step in range(steps):
        hidden, cache = _advance(model, ids, mask, positions, cache)
        chosen = _choose(output_logits(model, hidden), None if draws is None else draws[:, step], top_k)
        for i, (token, *others) in enumerate(chosen.tolist()):
            if i in running and token in ends:
                running.discard(i)
            elif i in running:
                written[i].ids.append(token)
                written[i].others.append(others)
        if not running:
            break
        on_step(step + 1)
        ids = chosen[:, :1]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return written


def _advance(model: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Last hidden states (rows, m) after `ids`, and the cache that holds them too."""
    body = model.base_model
    if takes_positions(model):
        out = body(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    else:
        out = body(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
    return out.last_hidden_state[:, -1], out.past_key_values


def _choose(logits_nv: Tensor, draws_nk: Tensor | None, top_k: int) -> Tensor:
    """The likeliest token of each row (n, 1), or with uniform numbers (n, k) samples from the `top_k` likeliest."""
    if draws_nk is None:
        return logits_nv.argmax(1, keepdim=True)
    top = logits_nv.topk(min(top_k, logits_nv.shape[1]), dim=1)
    cumulative = top.values.cpu().double().softmax(1).cumsum(1)
    index = torch.searchsorted(cumulative, draws_nk.contiguous()).clamp(max=cumulative.shape[1] - 1)
    return top.indices.gather(1, index.to(top.indices.device))


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a text, by the tokenizer and the model's configs."""
    known = [
        tokenizer.eos_token_id,
        model.config.get_text_config().eos_token_id,
        getattr(model.generation_config, "eos_token_id", None),
    ]
    ends: set[int] = set()
    for entry in known:
        ends.update(entry if isinstance(entry, list | tuple) else [] if entry is None else [entry])
    return ends
