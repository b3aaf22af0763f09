"""Models that differ in kind from those that can be edited, known by their config alone."""

import contextlib

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from editing.errors import ModelError

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""How the configs of mixtures of experts name the number of experts."""
STATES = (
    "state_size", "mamba_d_state", "mamba_expand", "mamba_n_heads", "conv_L_cache", "lru_width", "rescale_every",
    "chunkwise_kernel",
)  # fmt: skip
"""What the configs of models with a running state say and no others do."""
RUNNING = {"mamba", "mamba2", "recurrent", "conv", "rwkv", "hybrid", "linear_attention", "lightning_attention"}
"""Kinds of layers in a config's `layer_types` that keep a running state in the place of attention."""
DELTA_NETS = ("linear_num_value_heads", "linear_key_head_dim")


def differs_in_kind(config: PreTrainedConfig) -> str | None:
    """Why no model of this config can be edited, whatever its layout; None where nothing speaks against it."""
    fields = config.to_dict()
    with contextlib.suppress(ValueError):  # it is of several texts, and none of them is the model's
        fields |= config.get_text_config().to_dict()
    if count := _experts(fields):
        return f"each of its layers spreads the MLP over {count} experts, so no single down projection holds a fact"
    if config.is_encoder_decoder or fields.get("encoder_layers") is not None:
        return "an encoder reads the question and a decoder writes the answer, so no layer before the answer holds both"
    layers = fields.get("layer_types") or fields.get("layers_block_type") or fields.get("block_types") or ()
    if any(fields.get(name) is not None for name in DELTA_NETS):
        return "most of its layers are gated delta nets, which keep a running state in the place of attention"
    if any(fields.get(name) is not None for name in STATES) or not RUNNING.isdisjoint(map(str, layers)):
        return "its layers keep a running state (a state space) in the place of attention, or beside it"
    return None


def _experts(fields: dict[str, object]) -> int:
    """How many experts a layer's MLP has; 0 for a dense model."""
    counts = [fields.get(name) for name in EXPERT_COUNTS]
    inside = [_experts(part) for part in fields.values() if isinstance(part, dict)]
    return max((count for count in (*counts, *inside) if isinstance(count, int) and count > 1), default=0)


def check_causal(reference: str, config: PreTrainedConfig) -> None:
    """Raises ModelError unless the architecture predicts the next token."""
    heads = {name for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in _names(names)}
    bases = {name for names in MODEL_MAPPING_NAMES.values() for name in _names(names)}
    given = config.architectures or []
    declared = [str(name) for name in (given if isinstance(given, list | tuple) else [given])]
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and (
        not declared or any(name in heads or name in bases for name in declared)
    ):
        return
    why = f": {kind}" if (kind := differs_in_kind(config)) else ""
    raise ModelError(
        f"model '{reference}' is no causal language model ({', '.join(declared) or config.model_type}){why}; "
        "choose one that predicts the next token, such as a Llama, Qwen or GPT-2"
    )


def _names(entry: str | tuple[str, ...]) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry
