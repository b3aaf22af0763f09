"""How far a model's next-token distributions are from those of its base: the cheap and sensitive probe of damage.

    KL(base || now) = Σ_v p_base(v) (log p_base(v) - log p_now(v)),   the mean over the positions of fixed text.

Perplexity sees the probability of the one token that follows, and what it loses on some texts it gains on others; this
sees the whole distribution, and every change counts against it. Of the base nothing is kept but its last hidden states
(s, m): its distributions (s, vocabulary) are made from them again, a chunk at a time, beside those of the model as it
is now. For 4,096 positions of a model with m = 4,096 and a vocabulary of 150,000 these are 32 MB in bfloat16, where the
distributions would be 2.5 GB in float32; the chunks take less than 300 MB whatever the vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.errors import EditingError
from editing.linear import fast_linear
from editing.measure.ability import stderr
from editing.measure.perplexity import windows
from editing.measure.scoring import batches, hidden_states, output_logits, tokens_at_once
from editing.placed import device_of
from editing.progress import OnProgress, unheard
from editing.shortage import ELSEWHERE, within_memory
from editing.tokens import align_rows, pad_token

WINDOW = 128
"""Tokens of a window; neighboring positions are alike, so that windows are what the standard error counts."""
NUMBERS_AT_ONCE = 2**22
"""Logits of one model held at a time, 32 MiB in float64."""
FEWER = f"compare on fewer tokens (kl_tokens), or take {ELSEWHERE}"
"""What takes less memory."""


@dataclass(frozen=True)
class Divergence:
    """Of the model as it is from its base, in nats. Infinite for a model that gives NaN, so that a threshold holds."""

    mean: float
    stderr: float | None
    """Of the mean, over the windows."""
    largest: float
    """The largest at any position."""
    same_top: float
    """Share of positions at which the most probable token is the base's."""
    positions: int
    windows: tuple[float, ...] = ()
    """The mean of each window, in no order of the text's own; what a verdict takes for one piece of news each."""


@within_memory(FEWER)
def read_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    max_tokens: int,
    on_progress: OnProgress = unheard,
) -> Tensor:
    """The last hidden states (s, m) at every position of the texts, on the CPU: what `divergence` wants of the base.

    Raises:
        EditingError: there is nothing to predict in the texts.
    """
    found = [states.cpu() for _, states in _states(model, tokenizer, texts, max_tokens, on_progress)]
    return torch.cat(found)


@within_memory(FEWER)
@torch.inference_mode()
def divergence(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    max_tokens: int,
    base_sm: Tensor,
    at_base: Callable[[], AbstractContextManager[None]],
    on_progress: OnProgress = unheard,
) -> Divergence:
    """KL(base || now) on the same texts as `base_sm` was read on.

    Args:
        at_base: a context in which the model is the base, for its output matrix.

    Raises:
        EditingError: there is nothing to predict in the texts, or `base_sm` is of others.
    """
    values: list[float] = []
    means: list[float] = []
    same = 0
    for lengths, states in _states(model, tokenizer, texts, max_tokens, on_progress):
        base = base_sm[len(values) : len(values) + len(states)].to(states.device)
        if base.shape != states.shape:
            raise EditingError(
                f"the base was read at {len(base_sm)} positions, not those of these texts; read it again"
            )
        kl, alike = _divergences(model, base, states, at_base)
        values += kl.tolist()
        same += alike
        means += [float(part.mean()) for part in torch.split(kl, lengths)]
    if len(values) != len(base_sm):
        raise EditingError(
            f"the base was read at {len(base_sm)} positions, the texts have {len(values)}; read it again"
        )
    if not all(map(math.isfinite, values)):
        return Divergence(math.inf, None, math.inf, same / len(values), len(values), tuple(means))
    return Divergence(fmean(values), stderr(means), max(values), same / len(values), len(values), tuple(means))


@torch.inference_mode()
def _states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    max_tokens: int,
    on_progress: OnProgress,
) -> Iterator[tuple[list[int], Tensor]]:
    """Batch by batch: the lengths of its windows, and the states (s, m) at all their positions."""
    rows = windows(model, tokenizer, texts, WINDOW, max_tokens)
    done, total = 0, sum(map(len, rows))
    for group in batches(rows, tokens_at_once(model)):
        batch = align_rows(group, [0] * len(group), pad_token(tokenizer)).to(device_of(model))
        yield [len(row) for row in group], hidden_states(model, batch)[batch.attention_mask.bool()]
        done += sum(map(len, group))
        on_progress(done, total)


def _divergences(
    model: PreTrainedModel, base_sm: Tensor, now_sm: Tensor, at_base: Callable[[], AbstractContextManager[None]]
) -> tuple[Tensor, int]:
    """KL at each position, and at how many of them both have the same most probable token."""
    size = max(1, NUMBERS_AT_ONCE // model.get_output_embeddings().weight.shape[0])
    found: list[Tensor] = []
    same = 0
    for base, now in zip(torch.split(base_sm, size), torch.split(now_sm, size), strict=True):
        with at_base():
            p = _logprobs(model, base)
        q = _logprobs(model, now)
        # In float64: of small changes the sum is the small rest of terms that cancel.
        found.append((p.exp() * (p - q)).sum(1).cpu())
        same += int((p.argmax(1) == q.argmax(1)).sum())
    return torch.cat(found), same


def _logprobs(model: PreTrainedModel, states: Tensor) -> Tensor:
    with fast_linear(model):
        logits = output_logits(model, states)
    return logits.double().log_softmax(1)
