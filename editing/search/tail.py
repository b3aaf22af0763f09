"""The forward pass of the value search: the layers above L over the columns from the subject on, again and again.

With δ added to layer L's output at the subject's last token, everything before that token, and every layer up to L,
does not depend on δ. It runs once, without gradient, and leaves keys and values behind; each step runs the later
columns through the later layers only.

Shapes: b = rows, P = columns before the subject's last token, S = columns from it on, m = hidden size.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from editing.body import run_body
from editing.keys import capture_output, hidden_of, layers_give, stop_after
from editing.layout import ModelLayout
from editing.linear import fast_linear
from editing.measure.scoring import output_logits
from editing.tokens import Rows


class _FixedPrefix(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values of the columns before the subject, shared by every step: read, never extended."""

    def __init__(self, length: int, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.length, self.keys, self.values, self.is_initialized = length, keys, values, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0


@dataclass(frozen=True)
class UpperLayers:
    """The layers above L, as a function of layer L's output."""

    model: PreTrainedModel
    layout: ModelLayout
    layer: int

    def lower(self, rows: Rows) -> tuple[Tensor, tuple[object, ...]]:
        """Layer L's output at every column (b, P + S, m), and what else the layer returns."""
        last = self.layout.layer_list(self.model)[self.layer]
        with capture_output(last) as output, stop_after(last), fast_linear(self.model):
            run_body(self.model, **rows.inputs)
        extras = () if isinstance(output[0], Tensor) else output[0][1:]
        return hidden_of(output[0]), extras

    def run(
        self,
        hidden: Tensor,
        extras: tuple[object, ...],
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: Cache | None,
    ) -> Tensor:
        """Final hidden states, given layer L's output: the model's own forward, in which the layers up to L give it.

        Where a layer returns a tuple (GPT-J: hidden states and attention weights) so does the stand-in.
        """
        below = self.layout.layer_list(self.model)[: self.layer + 1]
        with layers_give(below, (hidden, *extras) if extras else hidden), fast_linear(self.model):
            final: Tensor = run_body(
                self.model,
                inputs_embeds=torch.zeros_like(hidden),
                attention_mask=attention_mask,
                position_ids=position_ids,
                cache=cache,
            ).last_hidden_state
        return final


@dataclass(frozen=True)
class TailGroup:
    """Rows of like length, and of them all that does not depend on δ."""

    upper: UpperLayers
    extras: tuple[object, ...]
    hidden: Tensor
    """Output of layer L from the subject's last token on, (b, S, m)."""
    attention_mask: Tensor
    """(b, P + S)."""
    position_ids: Tensor
    """(b, S)."""
    keys: list[Tensor]
    values: list[Tensor]
    """Of the layers above L, (b, heads, P, head size) each."""
    row_delta: Tensor
    """The δ that each row belongs to, (b,)."""
    places: Tensor
    """(t, 2): row and column in S of every predicting position."""
    targets: Tensor
    """(t,) wanted tokens; -1 at the KL prompts."""
    weights: Tensor
    """(t,) weight of each position in the loss of its δ."""

    def logprobs(self, delta_nm: Tensor) -> Tensor:
        """Log-probabilities (t, vocabulary) in float32 at `places`, with each row's δ added."""
        hidden = self.hidden
        start = (hidden[:, :1].float() + delta_nm[self.row_delta].unsqueeze(1)).to(hidden.dtype)
        P = self.attention_mask.shape[1] - hidden.shape[1]
        nothing = torch.empty(0)
        below = [_FixedPrefix(P, nothing, nothing)] * (self.upper.layer + 1)
        above = [_FixedPrefix(P, k, v) for k, v in zip(self.keys, self.values, strict=True)]
        final = self.upper.run(
            torch.cat([start, hidden[:, 1:]], dim=1),
            self.extras,
            self.attention_mask,
            self.position_ids,
            Cache(layers=[*below, *above]),
        )
        with fast_linear(self.upper.model):
            logits = output_logits(self.upper.model, final[self.places[:, 0], self.places[:, 1]])
        return logits.float().log_softmax(-1)

    def of(self, going: Tensor) -> "TailGroup":
        """The rows of those δ where `going` is true, and these numbered anew."""
        keep_row = going[self.row_delta]
        if keep_row.all():
            return replace(self, row_delta=(going.cumsum(0) - 1)[self.row_delta])
        keep_place = keep_row[self.places[:, 0]]
        places = self.places[keep_place]
        return replace(
            self,
            hidden=self.hidden[keep_row],
            attention_mask=self.attention_mask[keep_row],
            position_ids=self.position_ids[keep_row],
            keys=[k[keep_row] for k in self.keys],
            values=[v[keep_row] for v in self.values],
            row_delta=(going.cumsum(0) - 1)[self.row_delta[keep_row]],
            places=torch.stack([(keep_row.cumsum(0) - 1)[places[:, 0]], places[:, 1]], dim=1),
            targets=self.targets[keep_place],
            weights=self.weights[keep_place],
        )
