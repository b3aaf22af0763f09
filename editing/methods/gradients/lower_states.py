"""Hidden states below the edited layers, kept from step to step of a training that changes nothing there.

Each text runs by itself, so that its states, to the last bit, do not depend on what else is in a batch: a training that
goes on after a stop meets the same numbers as one that never stopped.

Shapes: b = rows, s = columns, m = hidden size.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from editing.layout import layout_of
from editing.methods.gradients.memo import TensorMemo
from editing.placed import device_of
from editing.search.tail import UpperLayers
from editing.tokens import Rows, align_rows


class LowerStates:
    """Output of layer `first` − 1 on texts, for a model whose layers below `first` stay as they are."""

    def __init__(self, model: PreTrainedModel, first: int) -> None:
        self.upper = UpperLayers(model, layout_of(model), first - 1)
        self.memo = TensorMemo()
        self.extras: tuple[object, ...] = ()

    def final(self, rows: Rows) -> Tensor:
        """The model's last hidden states on `rows`, (b, s, m)."""
        return self.upper.run(self._below(rows), self.extras, rows.attention_mask, rows.position_ids, None)

    def _below(self, rows: Rows) -> Tensor:
        model = self.upper.model
        real = rows.attention_mask.bool()
        states = [self._one(tuple(ids[here].tolist())) for ids, here in zip(rows.input_ids, real, strict=True)]
        hidden = torch.zeros(*real.shape, states[0].shape[-1], dtype=states[0].dtype, device=device_of(model))
        hidden[real] = torch.cat(states).to(device_of(model))
        return hidden

    def _one(self, ids: tuple[int, ...]) -> Tensor:
        [states] = self.memo.get(ids, lambda: (self._run(ids),))
        return states

    @torch.no_grad()
    def _run(self, ids: tuple[int, ...]) -> Tensor:
        hidden, self.extras = self.upper.lower(align_rows([ids], [0], 0).to(device_of(self.upper.model)))
        return hidden[0]


def lower_states(model: PreTrainedModel, first: int) -> LowerStates | None:
    """The same; None where there is no layer below."""
    return LowerStates(model, first) if first else None
