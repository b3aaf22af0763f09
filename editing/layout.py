"""Where each architecture keeps the weights that are edited: model families are data.

The edited weight of a layer is the MLP's down projection W: key (d) to value (m). `torch.nn.Linear` stores it as
(m, d); GPT-2's `Conv1D` stores the transpose (d, m).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from editing.errors import ModelError


@dataclass(frozen=True)
class ModelLayout:
    """Module paths of one architecture, seen from the causal language model."""

    layers: str
    """Path of the list of decoder layers."""
    down_projection: str
    """Path of the MLP's down projection inside a layer."""
    transposed: bool = False
    """True when the weight is stored as (key, value), as GPT-2's Conv1D does."""
    post_norm: str | None = None
    """Path, inside a layer, of an RMS norm through which the MLP's output passes before it joins the hidden state."""

    def layer_list(self, model: PreTrainedModel) -> nn.ModuleList:
        modules = model.get_submodule(self.layers)
        assert isinstance(modules, nn.ModuleList)
        return modules

    def projection(self, model: PreTrainedModel, layer: int) -> nn.Module:
        return self.layer_list(model)[layer].get_submodule(self.down_projection)

    def projections(self, model: PreTrainedModel, layers: Iterable[int], paths: Sequence[str]) -> dict[str, nn.Module]:
        """Linear modules of `layers` by the name of their weight: at `paths` inside a layer, or the down projections.

        Raises:
            ModelError: a layer has no such module, or it is none that multiplies by a matrix.
        """
        kind = Conv1D if self.transposed else nn.Linear
        found = {}
        for layer in layers:
            inside = dict(self.layer_list(model)[layer].named_modules())
            for path in paths or [self.down_projection]:
                module = inside.get(path)
                if not isinstance(module, kind):
                    known = ", ".join(name for name, one in inside.items() if isinstance(one, kind))
                    raise ModelError(f"layer {layer} has no projection '{path}'; it has {known}")
                found[f"{self.layers}.{layer}.{path}.weight"] = module
        return found

    def norm_after(self, model: PreTrainedModel, layer: int) -> nn.Module | None:
        """The norm between the down projection and the hidden state, where the architecture has one."""
        return None if self.post_norm is None else self.layer_list(model)[layer].get_submodule(self.post_norm)

    def weight_name(self, layer: int) -> str:
        return f"{self.layers}.{layer}.{self.down_projection}.weight"

    def weight_layer(self, name: str) -> int:
        """The layer of a weight named by `weight_name`."""
        return int(name.removeprefix(f"{self.layers}.").split(".", 1)[0])

    def oriented(self, weight_or_delta: torch.Tensor) -> torch.Tensor:
        """A view of (m, d) in the stored orientation, or of a stored weight as (m, d)."""
        return weight_or_delta.T if self.transposed else weight_or_delta

    def key_size(self, model: PreTrainedModel, layer: int = 0) -> int:
        weight: torch.Tensor = model.get_parameter(self.weight_name(layer))
        return self.oriented(weight).shape[1]


_LLAMA = ModelLayout("model.layers", "mlp.down_proj")

LAYOUTS = {
    "bloom": ModelLayout("transformer.h", "mlp.dense_4h_to_h"),
    "gemma2": ModelLayout("model.layers", "mlp.down_proj", post_norm="post_feedforward_layernorm"),
    "gemma3": ModelLayout("model.language_model.layers", "mlp.down_proj", post_norm="post_feedforward_layernorm"),
    "gemma3_text": ModelLayout("model.layers", "mlp.down_proj", post_norm="post_feedforward_layernorm"),
    "gpt2": ModelLayout("transformer.h", "mlp.c_proj", transposed=True),
    "gpt_neox": ModelLayout("gpt_neox.layers", "mlp.dense_4h_to_h"),
    "gptj": ModelLayout("transformer.h", "mlp.fc_out"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "olmo2": ModelLayout("model.layers", "mlp.down_proj", post_norm="post_feedforward_layernorm"),
    "phi": ModelLayout("model.layers", "mlp.fc2"),
    "phi3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""One layout a `config.model_type`."""

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""How the configs of mixtures of experts name the number of experts."""


def layout_of(model: PreTrainedModel) -> ModelLayout:
    """The layout of a loaded model.

    Raises:
        ModelError: the architecture has no layout, or the model is wrapped, quantised or in float64 where that fails.
    """
    model_type = model.config.model_type
    named = f"architecture '{model_type}' ({type(model).__name__})"
    known = ", ".join(sorted(LAYOUTS))
    if model_type not in LAYOUTS:
        if count := expert_count(model):
            raise ModelError(
                f"{named} cannot be edited: each of its layers spreads the MLP over {count} experts, so no single "
                f"down projection holds a fact; choose a dense model: {known}"
            )
        raise ModelError(
            f"no layout for {named}; known are {known}. If each of its layers has one MLP down projection, add its "
            "module paths to LAYOUTS in editing/layout.py; without one it cannot be edited, choose another model."
        )
    layout = LAYOUTS[model_type]
    _check_weight(model, layout, named)
    return layout


def expert_count(model: PreTrainedModel) -> int:
    """How many experts a layer's MLP has, by the model's config; 0 for a dense model."""
    config = model.config.get_text_config()
    counts = [getattr(config, name, None) for name in EXPERT_COUNTS]
    return max((count for count in counts if isinstance(count, int) and count > 1), default=0)


def _check_weight(model: PreTrainedModel, layout: ModelLayout, named: str) -> None:
    """Raises ModelError unless the first layer's down projection is a plain matrix of floating point numbers."""
    name = layout.weight_name(0)
    try:
        weight = model.get_parameter(name)
    except AttributeError as error:
        raise ModelError(
            f"{named} has no weight '{name}'; wrapped or converted models are not edited: load the plain model"
        ) from error
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ModelError(
            f"weight '{name}' of {named} is {weight.dtype} of shape {tuple(weight.shape)}, not a matrix of floating "
            "point numbers; load the model without quantisation, in float32 or bfloat16"
        )
    if weight.dtype == torch.float64 and model.config._attn_implementation == "eager":
        # Its softmax runs in float32, where float64's smallest number, which masks padding, becomes -inf: padding
        # turns into NaN, and NaN times zero reaches the real tokens.
        raise ModelError(f"{named} computes attention in a way that gives NaN in float64; load it in float32")


def check_layers(
    model: PreTrainedModel, layout: ModelLayout, layers: tuple[int, ...], *, searched: bool = True
) -> None:
    """Raises ModelError unless `layers` rise strictly and lie inside the model.

    `searched`: values are searched at the last of them, which needs a layer above it.
    """
    count = len(layout.layer_list(model))
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise ModelError(f"layers {list(layers)} must be distinct, rising and not negative, e.g. [2, 3, 4]")
    if not searched and layers[-1] >= count:
        raise ModelError(f"layer {layers[-1]} is above the model's last one; choose layers of 0 to {count - 1}")
    if searched and layers[-1] >= count - 1:
        raise ModelError(
            f"layer {layers[-1]} leaves nothing above it to search through: the model has {count} layers; "
            f"choose layers below {count - 1}"
        )
