"""Where each architecture keeps the weights that are edited: model families are data.

The edited weight of a layer is the MLP's down projection W: key (d) to value (m). `torch.nn.Linear` stores it as
(m, d); GPT-2's `Conv1D` stores the transpose (d, m).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from editing.errors import ModelError, NoSuchModel
from editing.kinds import differs_in_kind


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
    multiplier: str | None = None
    """Name in the config of a number by which the MLP's output is multiplied before it joins the hidden state."""

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
                    raise NoSuchModel(f"layer {layer} has no projection '{path}'; it has {known}")
                found[f"{self.layers}.{layer}.{path}.weight"] = module
        return found

    def norm_after(self, model: PreTrainedModel, layer: int) -> nn.Module | None:
        """The norm between the down projection and the hidden state, where the architecture has one."""
        return None if self.post_norm is None else self.layer_list(model)[layer].get_submodule(self.post_norm)

    def gain_after(self, model: PreTrainedModel, layer: int) -> torch.Tensor | None:
        """The gain g (m,) of that norm."""
        norm = self.norm_after(model, layer)
        return None if norm is None else gain_of(norm, model.config.get_text_config().hidden_size)

    def scale(self, model: PreTrainedModel) -> float:
        """By what the MLP's output is multiplied before it joins the hidden state: 1 but for some architectures."""
        return 1.0 if self.multiplier is None else float(getattr(model.config.get_text_config(), self.multiplier))

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


@torch.no_grad()
def gain_of(norm: nn.Module, size: int) -> torch.Tensor:
    """The gain (size,) of an RMS norm: what it makes of equal numbers, whatever it calls it (Gemma stores g − 1)."""
    weight = next(norm.parameters())
    device = "cpu" if weight.is_meta else weight.device  # of weights that are set aside, accelerate moves inputs itself
    gain: torch.Tensor = norm(torch.full((size,), 1e4, dtype=weight.dtype, device=device))
    return gain


_LLAMA = ModelLayout("model.layers", "mlp.down_proj")
_NORMED = ModelLayout("model.layers", "mlp.down_proj", post_norm="post_feedforward_layernorm")

LAYOUTS = {
    "bloom": ModelLayout("transformer.h", "mlp.dense_4h_to_h"),
    "cohere": _LLAMA,
    "cohere2": _LLAMA,
    "exaone4": _NORMED,
    "falcon": ModelLayout("transformer.h", "mlp.dense_4h_to_h"),
    "gemma": _LLAMA,
    "gemma2": _NORMED,
    "gemma3": ModelLayout("model.language_model.layers", "mlp.down_proj", post_norm="post_feedforward_layernorm"),
    "gemma3_text": _NORMED,
    "glm": _LLAMA,
    "glm4": ModelLayout("model.layers", "mlp.down_proj", post_norm="post_mlp_layernorm"),
    "gpt2": ModelLayout("transformer.h", "mlp.c_proj", transposed=True),
    "gpt_neo": ModelLayout("transformer.h", "mlp.c_proj"),
    "gpt_neox": ModelLayout("gpt_neox.layers", "mlp.dense_4h_to_h"),
    "gptj": ModelLayout("transformer.h", "mlp.fc_out"),
    "granite": ModelLayout("model.layers", "mlp.down_proj", multiplier="residual_multiplier"),
    "llama": _LLAMA,
    "ministral": _LLAMA,
    "ministral3": _LLAMA,
    "mistral": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _NORMED,
    "olmo3": _NORMED,
    "opt": ModelLayout("model.decoder.layers", "fc2"),
    "phi": ModelLayout("model.layers", "mlp.fc2"),
    "phi3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "stablelm": _LLAMA,
    "starcoder2": ModelLayout("model.layers", "mlp.c_proj"),
}
"""One layout a `config.model_type`."""


def layout_of(model: PreTrainedModel) -> ModelLayout:
    """The layout of a loaded model.

    Raises:
        ModelError: the architecture has no layout, or the model is wrapped, quantised or in float64 where that fails.
    """
    named = f"architecture '{model.config.model_type}' ({type(model).__name__})"
    check_architecture(model.config, named)
    layout = LAYOUTS[model.config.model_type]
    _check_weight(model, layout, named)
    return layout


def check_architecture(config: PreTrainedConfig, named: str) -> None:
    """Raises ModelError unless there is a layout for models of this config."""
    known = ", ".join(sorted(LAYOUTS))
    if config.model_type not in LAYOUTS:
        if why := differs_in_kind(config):
            raise ModelError(f"{named} cannot be edited: {why}; choose a dense model: {known}")
        raise ModelError(
            f"no layout for {named}; known are {known}. If each of its layers has one MLP down projection, add its "
            "module paths to LAYOUTS in editing/layout.py; without one it cannot be edited, choose another model."
        )


def _check_weight(model: PreTrainedModel, layout: ModelLayout, named: str) -> None:
    """Raises ModelError unless the first layer's down projection is a plain matrix of floating point numbers."""
    name = layout.weight_name(0)
    try:
        weight = model.get_parameter(name)
    except AttributeError as error:
        raise ModelError(
            f"{named} has no weight '{name}'; wrapped or converted models are not edited: load the plain model"
        ) from error
    if model.config.model_type == "opt" and not model.config.do_layer_norm_before:
        raise ModelError(
            f"{named} cannot be edited: a norm follows the sum of each layer's MLP and its input (do_layer_norm_before "
            "is false, as in OPT-350M), so what is written does not come out as it is; choose another size"
        )
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
    check_layer_numbers(len(layout.layer_list(model)), layers, searched=searched)


def check_layer_numbers(count: int, layers: Sequence[int], *, searched: bool = True) -> None:
    """The same of a model with so many layers, which need not be loaded."""
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise NoSuchModel(f"layers {list(layers)} must be distinct, rising and not negative, e.g. [2, 3, 4]")
    if not searched and layers[-1] >= count:
        raise NoSuchModel(f"layer {layers[-1]} is above the model's last one; choose layers of 0 to {count - 1}")
    if searched and layers[-1] >= count - 1:
        raise NoSuchModel(
            f"layer {layers[-1]} leaves nothing above it to search through: the model has {count} layers; "
            f"choose layers below {count - 1}"
        )
