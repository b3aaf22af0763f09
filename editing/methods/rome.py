"""ROME and R-ROME: one fact, one layer, one rank.

Meng et al., "Locating and Editing Factual Associations in GPT" (ROME), NeurIPS 2022,
https://arxiv.org/abs/2202.05262; Gupta et al., "Rebuilding ROME: Resolving Model Collapse during Sequential Model
Editing" (R-ROME), EMNLP 2024, https://arxiv.org/abs/2403.07175.

    min tr(Δ C Δᵀ)  so that  (W + Δ) k* = v*        Δ = (v* − W k*) (C⁻¹ k*)ᵀ / ((C⁻¹ k*)ᵀ k*)     (eq. 2)

k* is the key averaged over contexts. ROME's published code takes it in C⁻¹ k* only, and the bare prompt's key in the
other places: where the two differ much the divisor comes near zero and the model collapses. R-ROME takes the mean key
everywhere, which is the default here. v* is what the value search finds, since adding δ to the MLP's output or to the
layer's output is the same: v* = W k + R, at the bare prompt's key k, with R = z* − z as in `base`.

A batch is its edits one after the other, each seeing what those before it wrote. Earlier facts are not kept in the
solve. Shapes: d = key size, m = hidden size, n = edits.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from editing.config import OneLayerConfig, ValueSearchConfig
from editing.edit import Edit
from editing.methods.base import BatchUpdate, Located, Method, Setting, locate, only_layer
from editing.solve import factors, rank_one_gains
from editing.weights import Factors, WeightUpdate, concatenate


class RomeSearchConfig(ValueSearchConfig):
    steps: int = Field(20, ge=1, le=1000, description="Most evaluations of the loss.")
    clamp: float = Field(4.0, gt=0, description="Largest |δ| as a multiple of the hidden state's norm.")


class RomeConfig(OneLayerConfig):
    search: RomeSearchConfig = RomeSearchConfig()
    method: Literal["rome"] = "rome"
    mean_key: bool = Field(True, description="The mean key everywhere (R-ROME); false: ROME as its code was published.")


def compute_update(setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: RomeConfig) -> BatchUpdate:
    """The update that writes `edits` in their order.

    Raises:
        SolveError: C is singular.
        InvalidEdit: a subject is lost in tokenisation.
    """
    layer = only_layer(setting, "rome")
    update: dict[str, Factors] = {}
    keys = []
    for i, edit in enumerate(edits):
        found = locate(setting, [edit], z_star_nm[i : i + 1], layer, [update])
        [written] = _rank_ones(setting, layer, found, update, config)
        update = concatenate([update, written])
        keys.append(found.K_nd.cpu())
    return BatchUpdate(update, {layer: torch.cat(keys)})


def compute_independent_updates(
    setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: RomeConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone."""
    layer = only_layer(setting, "rome")
    found = locate(setting, edits, z_star_nm, layer, [{}] * len(edits))
    return _rank_ones(setting, layer, found, {}, config)


def _rank_ones(
    setting: Setting, layer: int, found: Located, update: WeightUpdate, config: RomeConfig
) -> list[WeightUpdate]:
    """Each edit's Δ of rank one, with `update` in force."""
    name = setting.layout.weight_name(layer)
    C_dd = setting.second_moment(layer)
    if config.mean_key:
        R_mn = found.R_mn + _product(setting, name, update, (found.bare_nd - found.K_nd).T)  # v* − W k*
        gain_nd = rank_one_gains(C_dd, found.K_nd.T, found.K_nd.T)
    else:
        R_mn, gain_nd = found.R_mn, rank_one_gains(C_dd, found.K_nd.T, found.bare_nd.T)
    return [{name: factors(R_mn[:, i : i + 1], gain_nd[i : i + 1])} for i in range(len(gain_nd))]


def _product(setting: Setting, name: str, update: WeightUpdate, X_dn: Tensor) -> Tensor:
    """W X (m, n) float32 with `update` in force."""
    product = setting.layout.oriented(setting.model.get_parameter(name)).float() @ X_dn
    if name in update:
        product += update[name].B.to(X_dn.device) @ (update[name].A.to(X_dn.device) @ X_dn)
    return product


ROME = Method("rome", RomeConfig, compute_update, compute_independent_updates)
