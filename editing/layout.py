"""Where each architecture keeps the weights that are edited: model families are data.

The edited weight of a layer is the MLP's down projection W: key (d) to value (m). `torch.nn.Linear` stores it as
(m, d); GPT-2's `Conv1D` stores the transpose (d, m).
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

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

    def layer_list(self, model: PreTrainedModel) -> nn.ModuleList:
        modules = model.get_submodule(self.layers)
        assert isinstance(modules, nn.ModuleList)
        return modules

    def projection(self, model: PreTrainedModel, layer: int) -> nn.Module:
        return self.layer_list(model)[layer].get_submodule(self.down_projection)

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


LAYOUTS = {
    "llama": ModelLayout("model.layers", "mlp.down_proj"),
    "mistral": ModelLayout("model.layers", "mlp.down_proj"),
    "qwen2": ModelLayout("model.layers", "mlp.down_proj"),
    "gpt2": ModelLayout("transformer.h", "mlp.c_proj", transposed=True),
}
"""One layout a `config.model_type`."""


def layout_of(model: PreTrainedModel) -> ModelLayout:
    """The layout of a loaded model.

    Raises:
        ModelError: the architecture has no layout.
    """
    model_type = model.config.model_type
    if model_type not in LAYOUTS:
        raise ModelError(
            f"no layout for architecture '{model_type}' ({type(model).__name__}); known are "
            f"{', '.join(sorted(LAYOUTS))}. Add its module paths to LAYOUTS in editing/layout.py."
        )
    return LAYOUTS[model_type]


def check_layers(model: PreTrainedModel, layout: ModelLayout, layers: tuple[int, ...]) -> None:
    """Raises ModelError unless `layers` rise strictly and lie inside the model."""
    count = len(layout.layer_list(model))
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise ModelError(f"layers {list(layers)} must be distinct, rising and not negative, e.g. [2, 3, 4]")
    if layers[-1] >= count - 1:
        raise ModelError(
            f"layer {layers[-1]} leaves nothing above it to search through: the model has {count} layers; "
            f"choose layers below {count - 1}"
        )
