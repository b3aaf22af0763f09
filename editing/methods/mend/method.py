"""MEND: a hypernetwork, trained beforehand, turns the gradient of an edit into an update, in one step.

Mitchell et al., "Fast Model Editing at Scale", ICLR 2022, https://arxiv.org/abs/2110.11309; what the hypernetwork does
stands in editing/methods/mend/network.py, how it is trained in editing/methods/mend/training.py.

Each edit's update is from its own gradient at the model as it stands (section 3.1); out of a batch's one is made by
editing/methods/mend/combine.py. An update has one rank for each token of the prompt and the target's beginnings whose
output the loss depends on. The loss of an edit is −log p of its whole target, no mean over tokens: what one token needs
does not depend on how many others there are, and dates have nine. Neither key statistics nor a value search take part;
the history holds the inputs of down projections at the tokens of earlier edits, which later ones leave alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.config import MethodConfig
from editing.edit import Edit
from editing.errors import HypernetworkError
from editing.layout import ModelLayout, layout_of
from editing.methods.gradients.features import TokenGradients, join, token_gradients
from editing.methods.gradients.lower_states import lower_states
from editing.methods.gradients.targets import encode_targets
from editing.methods.mend.combine import combine, unit_inputs
from editing.methods.mend.files import load_network
from editing.methods.mend.network import MendNetwork
from editing.methods.mend.shares import CONFIDENCE, scaled, shares_needed
from editing.methods.shared.interface import BatchUpdate, Method, MethodInput, one_by_one
from editing.placed import device_of
from editing.progress import OnProgress, counted, unheard
from editing.weights import Factors, WeightUpdate

EDITS_AT_ONCE = 16


class MendConfig(MethodConfig):
    last_layers: ClassVar[int | None] = 3

    method: Literal["mend"] = "mend"
    hypernetwork: str = Field("", description="File of the trained hypernetwork; it belongs to one base.")
    hypernetwork_digest: str | None = Field(None, description="sha256 that the file must have.")
    confidence: float | None = Field(
        CONFIDENCE, gt=0, lt=1, description="An edit written alone takes only as much of its update as this needs."
    )
    projections: tuple[str, ...] = Field(
        (), description="Edited modules of a layer, as trained, e.g. mlp.up_proj; none: the MLP's down projection."
    )


def compute_update(given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: MendConfig) -> BatchUpdate:
    """One update that writes all edits; `z_star_nm` is not looked at.

    Raises:
        HypernetworkError: there is no hypernetwork, or it belongs to another base or other weights.
        SearchError: the loss is NaN or infinite.
        InvalidEdit: a subject is lost in tokenisation.
        ModelError: a layer has no such projection.
    """
    network = network_for(given.model, given.layout, given.layers, given.statistics.base_digest, config)
    update, gradients = _together(
        network.to(device_of(given.model)),
        given.model,
        given.tokenizer,
        edits,
        config.confidence,
        _earlier(given, network),
        given.on_progress,
    )
    keys = {
        layer: unit_inputs(gradients[name]).float().cpu() for name, layer in remembered(given.layout, network).items()
    }
    return BatchUpdate(update, keys)


def compute_independent_updates(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: MendConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone."""
    network = network_for(given.model, given.layout, given.layers, given.statistics.base_digest, config)
    model, tokenizer, network = given.model, given.tokenizer, network.to(device_of(given.model))
    if earlier := _earlier(given, network):
        return [
            _together(network, model, tokenizer, [edit], config.confidence, earlier, one.on_progress)[0]
            for one, edit in one_by_one(given, edits)
        ]
    return updates_of(network, model, tokenizer, edits, config.confidence, given.on_progress)


def remembered(layout: ModelLayout, network: MendNetwork) -> dict[str, int]:
    """The weights whose inputs later batches are to leave alone, down projections all, and their layers."""
    if network.spec.ridge is None:
        return {}
    layers = {name: layout.weight_layer(name) for name in network.spec.shapes}
    return {name: layer for name, layer in layers.items() if name == layout.weight_name(layer)}


def _earlier(given: MethodInput, network: MendNetwork) -> dict[str, Tensor]:
    """H (d, d) float64 by weight; empty when there are no earlier batches."""
    if not given.history.count:
        return {}
    return {name: given.earlier_keys(layer) for name, layer in remembered(given.layout, network).items()}


def update_together(
    network: MendNetwork,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    confidence: float | None = CONFIDENCE,
) -> WeightUpdate:
    """What the hypernetwork makes of all edits' gradients at the model as it stands, one update on the CPU.

    Raises:
        SearchError: the loss is NaN or infinite.
    """
    return _together(network, model, tokenizer, edits, confidence, {})[0]


def _together(
    network: MendNetwork,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    confidence: float | None,
    earlier: Mapping[str, Tensor],
    on_progress: OnProgress = unheard,
) -> tuple[WeightUpdate, dict[str, TokenGradients]]:
    """One update of all edits, and the tokens that it is made of."""
    # What is enough for an edit alone is too little beside others.
    made = list(_made(network, model, tokenizer, edits, confidence if len(edits) == 1 else None, on_progress))
    gradients = {name: join([tokens[name] for tokens, _ in made]) for name in network.spec.shapes}
    update = combine([one for _, updates in made for one in updates], gradients, network.spec.ridge, earlier)
    return {name: _stored(factors) for name, factors in update.items()}, gradients


def updates_of(
    network: MendNetwork,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    confidence: float | None = CONFIDENCE,
    on_progress: OnProgress = unheard,
) -> list[WeightUpdate]:
    """What the hypernetwork makes of each edit's gradient at the model as it stands, alone, on the CPU.

    Raises:
        SearchError: the loss is NaN or infinite.
    """
    return [
        {name: _stored(factors) for name, factors in update.items()}
        for _, updates in _made(network, model, tokenizer, edits, confidence, on_progress)
        for update in updates
    ]


def _made(
    network: MendNetwork,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    confidence: float | None,
    on_progress: OnProgress,
) -> Iterator[tuple[dict[str, TokenGradients], list[dict[str, Factors]]]]:
    """The tokens of some edits at a time, and the edits' updates, where the model is."""
    layout = layout_of(model)
    modules = {name: model.get_submodule(name.removesuffix(".weight")) for name in network.spec.shapes}
    first = min(layout.weight_layer(name) for name in modules)
    done = counted(on_progress, len(edits))
    for start in range(0, len(edits), EDITS_AT_ONCE):
        some = edits[start : start + EDITS_AT_ONCE]
        below = None if confidence is None else lower_states(model, first)
        gradients = token_gradients(
            model, modules, replace(encode_targets(model, tokenizer, some).summed(), below=below)
        )
        with torch.no_grad():
            found = network.updates(gradients)
        if confidence is not None:
            shares = shares_needed(model, tokenizer, some, found, confidence, below)
            found = [scaled(update, share) for update, share in zip(found, shares, strict=True)]
        yield gradients, found
        done(len(some))


def network_for(
    model: PreTrainedModel, layout: ModelLayout, layers: Sequence[int], base_digest: str, config: MendConfig
) -> MendNetwork:
    """The configured hypernetwork, the same object for the same file, to be used as it is.

    Raises:
        HypernetworkError: there is none, or it belongs to another base or other weights.
        ModelError: a layer has no such projection.
    """
    if not config.hypernetwork:
        raise HypernetworkError("mend needs the file of a trained hypernetwork: train one, then give hypernetwork=PATH")
    modules = layout.projections(model, layers, config.projections)
    network = _read(Path(config.hypernetwork), config.hypernetwork_digest)
    network.spec.check(base_digest, weight_shapes(model, layout, modules))
    return network


def _read(path: Path, digest: str | None) -> MendNetwork:
    """The hypernetwork of a file, read anew only when it is another file than the last time."""
    found = path.stat() if path.is_file() else None
    return _last_read(path, digest, (found.st_ino, found.st_size, found.st_mtime_ns) if found else None)


@lru_cache(maxsize=1)
def _last_read(path: Path, digest: str | None, version: tuple[int, int, int] | None) -> MendNetwork:
    return load_network(path, digest)


def weight_shapes(
    model: PreTrainedModel, layout: ModelLayout, modules: dict[str, nn.Module]
) -> dict[str, tuple[int, int]]:
    """(m, d) of the weights of `modules`."""
    shapes = {}
    for name in modules:
        m, d = layout.oriented(model.get_parameter(name)).shape
        shapes[name] = (m, d)
    return shapes


def _stored(factors: Factors) -> Factors:
    """Copies: a view would keep the factors of all edits in memory."""
    return Factors(*(part.cpu().clone(memory_format=torch.contiguous_format) for part in (factors.B, factors.A)))


MEND = Method("mend", MendConfig, compute_update, compute_independent_updates)
