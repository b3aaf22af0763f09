"""How much of its update an edit takes: the smallest share with which the target is said with confidence, or all of it.

A hypernetwork learns one step size for all edits; most are said with less of it, and what is not written disturbs
nothing. That holds for an edit that is written alone; beside others each wants its whole update. The shares are tried
side by side in one forward pass of the layers that are edited and those above. Ours: as published every edit takes its
update whole.

Shapes: r = rows, one for every share of every edit; t = wanted tokens of all rows.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.edit import Edit
from editing.layout import layout_of
from editing.methods.gradients.lower_states import LowerStates
from editing.methods.gradients.targets import encode_targets, target_logits
from editing.weights import Factors, WeightUpdate, overlay

SHARES = (0.5, 0.7)
WHOLE = 1.0
CONFIDENCE = 0.9
"""Probability of a target's token, their geometric mean, that is enough."""


@torch.no_grad()
def shares_needed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    updates: Sequence[WeightUpdate],
    confidence: float,
    below: LowerStates | None = None,
) -> list[float]:
    """For each edit, alone, the smallest of SHARES with which all its target's tokens are the most probable ones and
    have `confidence`; where there is none, WHOLE.

    `below`, where it is given, knows the layers below those of the updates.
    """
    targets = replace(encode_targets(model, tokenizer, [edit for edit in edits for _ in SHARES]), below=below)
    with overlay(model, layout_of(model), [scaled(update, share) for update in updates for share in SHARES]):
        logits = target_logits(model, targets)
    logprobs_t = logits.log_softmax(-1).gather(1, targets.tokens[:, None])[:, 0]
    missed_t = (logits.argmax(-1) != targets.tokens).to(logprobs_t)
    nothing_r = logprobs_t.new_zeros(len(edits) * len(SHARES))
    means = nothing_r.index_add(0, targets.places[:, 0], logprobs_t * targets.weights).view(-1, len(SHARES))
    missed = nothing_r.index_add(0, targets.places[:, 0], missed_t).view(-1, len(SHARES))
    enough = (missed == 0) & (means >= math.log(confidence))
    return [next(itertools.compress(SHARES, row), WHOLE) for row in enough.tolist()]


def scaled(update: WeightUpdate, share: float) -> dict[str, Factors]:
    return {name: Factors(share * factors.B, factors.A) for name, factors in update.items()}
