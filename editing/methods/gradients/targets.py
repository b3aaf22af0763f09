"""What gradient methods learn from: prompts with the beginnings of their targets, and the token wanted at each place.

Shapes: b = rows, t = wanted tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.body import run_body
from editing.edit import Edit
from editing.errors import ModelError
from editing.linear import fast_linear
from editing.measure.scoring import encode_queries, output_logits
from editing.methods.gradients.lower_states import LowerStates
from editing.placed import device_of
from editing.tokens import Rows, align_rows, encode_prompt, pad_token, target_ids


@dataclass(frozen=True)
class Targets:
    """Edits as rows. The prompt itself is never asked for: only the target's tokens are."""

    rows: Rows
    places: Tensor
    """Row and column at which each wanted token is predicted, (t, 2)."""
    tokens: Tensor
    """The wanted tokens, (t,)."""
    weights: Tensor
    """1 / length of the target that each belongs to, (t,): every edit counts the same."""
    below: LowerStates | None = None
    """What knows the layers below the edited ones, where nothing changes them."""

    def summed(self) -> "Targets":
        """The same, every token counting the same: the loss is −log p of the whole targets."""
        return replace(self, weights=torch.ones_like(self.weights))


def encode_targets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    *,
    at_last: bool = False,
    append_eos: bool = False,
) -> Targets:
    """The edits' prompts and targets, where the model is.

    Args:
        at_last: ask every token of the target of the prompt's last token, the target's beginnings not shown.
        append_eos: the target ends with the tokenizer's end of text.

    Raises:
        InvalidEdit: a subject is lost in tokenisation.
        ModelError: the tokenizer has no end of text to append.
    """
    end = [_end_of_text(tokenizer)] if append_eos else []
    prompts = [encode_prompt(tokenizer, "", edit.prompt, edit.subject).ids for edit in edits]
    wanted = [target_ids(tokenizer, edit.text, edit.target_new) + end for edit in edits]
    return _laid_out(model, tokenizer, prompts, wanted, at_last)


def encode_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> Targets:
    """Prompts, whole sentences, and their targets.

    Raises:
        InvalidEdit: a prompt or a target has no tokens, or they are longer than the model reads.
    """
    encoded = encode_queries(model, tokenizer, pairs)
    queries = [encoded[pair] for pair in pairs]
    prompts = [query.row[: query.first + 1] for query in queries]
    return _laid_out(model, tokenizer, prompts, [list(query.target) for query in queries], at_last=False)


def _laid_out(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    wanted: Sequence[list[int]],
    at_last: bool,
) -> Targets:
    ids, ends, places, tokens, weights = [], [], [], [], []
    for row, (prompt, target) in enumerate(zip(prompts, wanted, strict=True)):
        ids.append(prompt if at_last else prompt + tuple(target[:-1]))
        ends.append(len(prompt) - 1)
        places += [(row, 0 if at_last else k) for k in range(len(target))]
        tokens += target
        weights += [1 / len(target)] * len(target)
    device = device_of(model)
    rows = align_rows(ids, ends, pad_token(tokenizer)).to(device)
    at = torch.tensor(places, device=device) + torch.tensor([0, rows.anchor], device=device)
    return Targets(rows, at, torch.tensor(tokens, device=device), torch.tensor(weights, device=device))


def target_loss(model: PreTrainedModel, targets: Targets) -> Tensor:
    """Σ over edits of the mean −log p of the target's tokens: a sum, so each edit adds what it adds alone."""
    logits = target_logits(model, targets)
    return (nn.functional.cross_entropy(logits, targets.tokens, reduction="none") * targets.weights).sum()


def target_logits(model: PreTrainedModel, targets: Targets) -> Tensor:
    """Logits at each place, (t, vocabulary), in float32 or wider."""
    rows = targets.rows
    with fast_linear(model):
        if targets.below is not None:
            final = targets.below.final(rows)
        else:
            final = run_body(model, **rows.inputs).last_hidden_state
        return output_logits(model, final[targets.places[:, 0], targets.places[:, 1]])


def _end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError("the tokenizer has no end of text to append to targets; leave append_eos out")
    return tokenizer.eos_token_id
