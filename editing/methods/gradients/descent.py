"""The loop of gradient descent that fine-tuning and LoRA share.

A batch is learnt breadth first: every pass goes over all its edits before any edit is seen again (Yang et al.,
"Fine-tuning Done Right in Model Editing", 2025, https://arxiv.org/abs/2509.22072), whole or in minibatches.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from editing.edit import Edit
from editing.errors import SearchError
from editing.methods.gradients.targets import Targets, encode_targets, target_loss
from editing.methods.shared.interface import MethodInput


def descend(
    given: MethodInput,
    edits: Sequence[Edit],
    parameters: Sequence[Tensor],
    *,
    what: str,
    passes: int,
    learning_rate: float,
    stop_loss: float,
    minibatch: int | None = None,
    seed: int = 0,
    encode: Callable[[Sequence[Edit]], Targets] | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Adam on `parameters`, which the model computes with, until the mean loss is below `stop_loss`.

    A minibatch below `stop_loss` is not stepped on; after the last pass's loss there is no step either.

    Args:
        what: what is being trained, for messages.
        passes: most passes over the edits.
        minibatch: edits of one step, drawn anew each pass; all of them when left out.
        encode: how edits become targets; plainly when left out.

    Raises:
        SearchError: the loss became NaN or infinite.
    """
    encode = encode or (lambda some: encode_targets(given.model, given.tokenizer, some))
    shuffled = random.Random(seed)
    whole = encode(edits) if minibatch is None else None
    adam = torch.optim.Adam(parameters, lr=learning_rate)
    for count in range(1, passes + 1):
        total = 0.0
        for part in _parts(edits, minibatch, shuffled):
            loss = target_loss(given.model, whole or encode(part)) / len(part)
            if not math.isfinite(loss.item()):
                raise SearchError(
                    f"{what} on {', '.join(edit.id for edit in part)}: the loss became {loss.item()} at step {count}; "
                    f"lower learning_rate (now {learning_rate:g})"
                )
            total += loss.item() * len(part) / len(edits)
            if loss.item() >= stop_loss and count < passes:
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                after_step()
        if total < stop_loss:
            break


def _parts(edits: Sequence[Edit], size: int | None, shuffled: random.Random) -> Iterator[Sequence[Edit]]:
    if size is None:
        yield edits
        return
    order = list(edits)
    shuffled.shuffle(order)
    for start in range(0, len(order), size):
        yield order[start : start + size]
