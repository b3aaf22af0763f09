"""LoRA by PEFT: the baseline that trains an adapter on the targets, by the library that people use for that.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, https://arxiv.org/abs/2106.09685:

    W' = W + (α / r) B A,  B (m, r) = 0 and A (r, d) random at first,  −log p(target | prompt) by Adam on A and B

The adapter is put into the model for the time of the training and comes back as factors, α / r in B; the model is then
what it was. A batch trains a new adapter on the weights as they stand. Neither key statistics nor a value search nor
history take part.

Shapes: d = key size, m = value size, r = rank.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from editing.config import MethodConfig
from editing.edit import Edit
from editing.errors import ModelError, UsageError
from editing.methods.gradients.descent import Descent
from editing.methods.gradients.targets import encode_targets
from editing.methods.shared.interface import BatchUpdate, Method, MethodInput, one_by_one
from editing.placed import is_set_aside
from editing.weights import Factors, WeightUpdate

ADAPTER = "errata"


class LoraConfig(MethodConfig):
    method: Literal["lora"] = "lora"
    projections: tuple[str, ...] = Field(
        (), description="Modules of a layer that get an adapter, e.g. mlp.up_proj; none: the MLP's down projection."
    )
    rank: int = Field(8, ge=1, description="r: rank of the adapter.")
    alpha: float = Field(8.0, gt=0, description="α: the adapter counts α / r times.")
    steps: int = Field(80, ge=1, le=10000, description="Most evaluations of the batch's loss.")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's step size.")
    stop_loss: float = Field(0.05, ge=0, description="Training ends when the batch's loss is below this.")


def compute_update(given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: LoraConfig) -> BatchUpdate:
    """The update that an adapter trained on all `edits` together is; `z_star_nm` is not looked at.

    Raises:
        UsageError: peft is not installed.
        SearchError: the loss became NaN or infinite.
        InvalidEdit: a subject is lost in tokenisation.
        ModelError: a layer has no such projection.
    """
    return BatchUpdate(_train(given, edits, config), {})


def compute_independent_updates(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: LoraConfig
) -> list[WeightUpdate]:
    """For each edit the update that an adapter trained on it alone is."""
    return [_train(one, [edit], config) for one, edit in one_by_one(given, edits)]


def _train(given: MethodInput, edits: Sequence[Edit], config: LoraConfig) -> WeightUpdate:
    modules = given.layout.projections(given.model, given.layers, config.projections)
    with adapted(given.model, modules, config, transposed=given.layout.transposed) as pairs:
        descent = Descent("LoRA", config.steps, config.learning_rate, config.stop_loss)
        encode = partial(encode_targets, given.model, given.tokenizer)
        matrices = [matrix for pair in pairs.values() for matrix in pair]
        descent.run(given.model, edits, matrices, encode, on_progress=given.on_progress)
        share = config.alpha / config.rank
        return {
            name: Factors((share * B.detach()).cpu().contiguous(), A.detach().cpu().contiguous().clone())
            for name, (B, A) in pairs.items()
        }


def check_in_place(model: PreTrainedModel) -> None:
    """Raises ModelError for a model whose weights peft does not reach."""
    if is_set_aside(model):
        raise ModelError(
            "method 'lora' trains by peft, which does not reach weights that are set aside (device 'auto'); choose a "
            "device that holds the model, or another method"
        )


@contextmanager
def adapted(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], config: LoraConfig, *, transposed: bool
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Inside, `modules` of the model carry a fresh adapter, given as (B, A) by the name of their weight, in float32.

    Whatever happens inside, the model then has its own modules and attributes again, and no other.

    Raises:
        UsageError: peft is not installed.
    """
    peft = _peft()
    attributes = dict(vars(model))
    wanted_gradient = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    places = {name: name.removesuffix(".weight") for name in modules}
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(config.seed)
            peft.inject_adapter_in_model(_adapter(peft, places.values(), config, transposed), model, ADAPTER)
        yield {name: _pair(model.get_submodule(place)) for name, place in places.items()}
    finally:
        for name, place in places.items():
            parent, _, leaf = place.rpartition(".")
            setattr(model.get_submodule(parent), leaf, modules[name])
        for added in vars(model).keys() - attributes.keys():
            delattr(model, added)
        vars(model).update(attributes)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted_gradient[name])


def _peft() -> ModuleType:
    try:
        import peft  # here, since it need not be installed
    except ImportError as error:
        raise UsageError(
            "method 'lora' trains by the package peft, which is not installed: pip install peft"
        ) from error
    module: ModuleType = peft
    return module


def _adapter(peft: ModuleType, places: Any, config: LoraConfig, transposed: bool) -> Any:
    return peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=list(places), fan_in_fan_out=transposed
    )


def _pair(layer: Any) -> tuple[Tensor, Tensor]:
    """B (m, r) and A (r, d) of a module that carries the adapter; float32 also beside weights of fewer bits."""
    pair = layer.lora_B[ADAPTER].weight, layer.lora_A[ADAPTER].weight
    for matrix in pair:
        matrix.data = matrix.data.float()
    return pair


LORA = Method("lora", LoraConfig, compute_update, compute_independent_updates)
