"""The loop of gradient descent that fine-tuning and LoRA share.

A batch is learnt breadth first: every pass goes over all its edits before any edit is seen again (Yang et al.,
"Fine-tuning Done Right in Model Editing", 2025, https://arxiv.org/abs/2509.22072), whole or in minibatches.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from editing.edit import Edit
from editing.errors import SearchError
from editing.methods.gradients.targets import Targets, target_loss
from editing.progress import OnProgress, counted, unheard


@dataclass(frozen=True)
class Descent:
    """Adam on some parameters, until the mean loss of the edits' targets is below `stop_loss`."""

    what: str
    """What is being trained, for messages."""
    passes: int
    """Most passes over the edits."""
    learning_rate: float
    stop_loss: float
    minibatch: int | None = None
    """Edits of one step, drawn anew each pass; all of them when left out."""
    seed: int = 0
    """Of the minibatches."""

    def run(
        self,
        model: PreTrainedModel,
        edits: Sequence[Edit],
        parameters: Sequence[Tensor],
        encode: Callable[[Sequence[Edit]], Targets],
        after_step: Callable[[], None] = lambda: None,
        on_progress: OnProgress = unheard,
    ) -> None:
        """Train `parameters`, which the model computes with; `encode` makes targets of edits.

        A minibatch below `stop_loss` is not stepped on; after the last pass's loss there is no step either.
        `on_progress` hears how many edits were seen, of those in all passes.

        Raises:
            SearchError: the loss became NaN or infinite.
        """
        shuffled = random.Random(self.seed)
        whole = encode(edits) if self.minibatch is None else None
        adam = torch.optim.Adam(parameters, lr=self.learning_rate)
        seen = counted(on_progress, self.passes * len(edits))
        for count in range(1, self.passes + 1):
            total = 0.0
            for part in _parts(edits, self.minibatch, shuffled):
                loss = target_loss(model, whole or encode(part)) / len(part)
                if not math.isfinite(loss.item()):
                    raise SearchError(
                        f"{self.what} on {', '.join(edit.id for edit in part)}: the loss became {loss.item()} at step "
                        f"{count}; lower learning_rate (now {self.learning_rate:g})"
                    )
                total += loss.item() * len(part) / len(edits)
                if loss.item() >= self.stop_loss and count < self.passes:
                    adam.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    adam.step()
                    after_step()
                seen(len(part))
            if total < self.stop_loss:
                break


def _parts(edits: Sequence[Edit], size: int | None, shuffled: random.Random) -> Iterator[Sequence[Edit]]:
    if size is None:
        yield edits
        return
    order = list(edits)
    shuffled.shuffle(order)
    for start in range(0, len(order), size):
        yield order[start : start + size]
