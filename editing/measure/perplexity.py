"""General ability of a model: perplexity on fixed text, to see what editing cost."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.errors import EditingError
from editing.measure.scoring import batches, hidden_states, logit_chunks, tokens_at_once
from editing.placed import device_of
from editing.progress import OnProgress, unheard
from editing.shortage import ELSEWHERE, within_memory
from editing.tokens import align_rows, max_positions, pad_token

TEXTS_AT_ONCE = 64
BLOCK = 32
"""Predicted tokens that are one piece of news about a text."""


class Perplexity(float):
    """exp of the mean negative log-probability a token, and that mean by blocks of BLOCK tokens, in the text's order.

    Two perplexities of one text are compared by their blocks: how much they differ says how sure their ratio is.
    """

    blocks: tuple[float, ...]

    def __new__(cls, value: float, blocks: tuple[float, ...] = ()) -> "Perplexity":
        made = super().__new__(cls, value)
        made.blocks = blocks
        return made


@within_memory(f"take it on fewer tokens (perplexity_tokens), or take {ELSEWHERE}")
def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    window: int = 512,
    max_tokens: int | None = None,
    batch_tokens: int | None = None,
    on_progress: OnProgress = unheard,
) -> Perplexity:
    """exp of the mean negative log-probability a token, over non-overlapping windows of the joined texts.

    The texts are joined by line breaks. The first token of a window is only read, not predicted, unless the tokenizer
    starts a text with a special token, which then starts each window. Infinite for a model that gives NaN, so that a
    threshold on it holds.

    Args:
        window: tokens in a window; less when the model reads less.
        max_tokens: stop after so many tokens of text.
        batch_tokens: tokens in a batch; chosen by the device when left out.
        on_progress: hears how many tokens have run, of how many.

    Raises:
        EditingError: there is nothing to predict in the texts.
    """
    rows = windows(model, tokenizer, texts, window, max_tokens)
    predicted = sum(len(row) - 1 for row in rows)
    found: dict[int, Tensor] = {}
    done = 0
    for group in batches([_Row(row, number) for number, row in enumerate(rows)], batch_tokens or tokens_at_once(model)):
        of_rows = _losses(model, [row.ids for row in group], pad_token(tokenizer))
        found |= zip((row.number for row in group), of_rows, strict=True)
        done += sum(map(len, group))
        on_progress(done, predicted + len(rows))
    losses = torch.cat([found[number] for number in range(len(rows))])
    mean = float(losses.mean())
    blocks = tuple(float(block.mean()) for block in torch.split(losses, BLOCK))
    return Perplexity(math.exp(min(mean, 700.0)) if math.isfinite(mean) else math.inf, blocks)


def windows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    window: int,
    max_tokens: int | None,
) -> list[tuple[int, ...]]:
    """The joined texts in pieces of so many tokens, each with the special tokens that the tokenizer starts a text with.

    Raises:
        EditingError: there is nothing to predict in the texts.
    """
    limit = max_positions(model)
    window = window if limit is None else min(window, limit)
    start = _start_tokens(tokenizer)
    ids = _joined(tokenizer, texts, max_tokens)
    size = window - len(start)
    if size < 2:
        raise EditingError(f"window of {window} tokens leaves nothing to predict; give at least {len(start) + 2}")
    pieces = [(*start, *ids[i : i + size]) for i in range(0, len(ids), size)]
    rows = [row for row in pieces if len(row) > 1]
    if not rows:
        raise EditingError(f"the texts hold {len(ids)} tokens, too few for a perplexity; give longer ones")
    return rows


@dataclass(frozen=True)
class _Row:
    """A window of the text, by its place."""

    ids: tuple[int, ...]
    number: int

    def __len__(self) -> int:
        return len(self.ids)


def _joined(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], max_tokens: int | None) -> list[int]:
    """Token ids of the texts, each ended by a line break, up to `max_tokens`."""
    ids: list[int] = []
    for group in _groups(texts, TEXTS_AT_ONCE):
        for encoded in tokenizer(group, add_special_tokens=False, verbose=False)["input_ids"]:
            ids.extend(encoded)
        if max_tokens is not None and len(ids) >= max_tokens:
            return ids[:max_tokens]
    return ids


def _groups(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    group: list[str] = []
    for text in texts:
        if text.strip():
            group.append(text.rstrip("\n") + "\n")
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _start_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts before a text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a")["input_ids"]
    for count in range(len(full) - len(bare) + 1):
        if full[count : count + len(bare)] == bare:
            return tuple(full[:count])
    return ()


@torch.inference_mode()
def _losses(model: PreTrainedModel, rows: Sequence[tuple[int, ...]], pad_id: int) -> list[Tensor]:
    """The negative log-probabilities of all tokens after the first of each row, float64."""
    batch = align_rows(rows, [0] * len(rows), pad_id).to(device_of(model))
    hidden = hidden_states(model, batch)
    real = batch.attention_mask[:, 1:].bool()
    found = _negative_logprobs(model, hidden[:, :-1][real], batch.input_ids[:, 1:][real])
    return list(torch.split(found, [len(row) - 1 for row in rows]))


def _negative_logprobs(model: PreTrainedModel, hidden_sm: Tensor, labels_s: Tensor) -> Tensor:
    parts = []
    for start, logits in logit_chunks(model, hidden_sm):
        labels = labels_s[start : start + len(logits)]
        parts.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none").cpu().double())
    return torch.cat(parts)
