"""The part of a causal language model below its output matrix, called in one way for every architecture."""

import inspect

from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast


def takes_positions(model: PreTrainedModel) -> bool:
    """True when the model's body takes positions; others count them from the attention mask (ALiBi)."""
    return "position_ids" in inspect.signature(model.base_model.forward).parameters


def run_body(
    model: PreTrainedModel,
    *,
    attention_mask: Tensor,
    position_ids: Tensor,
    input_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    cache: Cache | None = None,
) -> BaseModelOutputWithPast:
    """One forward pass of all layers, from token ids or from embeddings.

    With a cache the pass goes on from it: `attention_mask` (b, before + now) covers it, `position_ids` (b, now) does
    not.
    """
    if takes_positions(model):
        return model.base_model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return model.base_model(
        input_ids=input_ids,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        past_key_values=cache,
        use_cache=cache is not None,
    )
