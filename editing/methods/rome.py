"""ROME and R-ROME: one fact, one layer, one rank.

Meng et al., "Locating and Editing Factual Associations in GPT" (ROME), NeurIPS 2022,
https://arxiv.org/abs/2202.05262; Gupta et al., "Rebuilding ROME: Resolving Model Collapse during Sequential Model
Editing" (R-ROME), EMNLP 2024, https://arxiv.org/abs/2403.07175.

    min tr(Δ C Δᵀ)  so that  (W + Δ) k* = v*        Δ = (v* − W k*) (C⁻¹ k*)ᵀ / ((C⁻¹ k*)ᵀ k*)     (eq. 2)

k* is the key averaged over contexts. ROME's published code takes it in C⁻¹ k* only, and the bare prompt's key in the
other places: where the two differ much the divisor comes near zero and the model collapses. R-ROME takes the mean key
everywhere, which is the default here. v* is what the value search finds, since adding δ to the MLP's output or to the
layer's output is the same: v* = W k + R, at the bare prompt's key k, with R = z* − z as in `locate`.

A batch is its edits one after the other, each seeing what those before it wrote. Earlier facts are not kept in the
solve. Shapes: d = key size, m = hidden size, n = edits.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from editing.config import LocatingConfig, OneLayerConfig, ValueSearchConfig
from editing.edit import Edit
from editing.methods.encoded import SOLVE, encoded, groups_of
from editing.methods.located import Located, locate
from editing.methods.restrain import spared_directions
from editing.methods.shared.interface import BatchUpdate, Method, MethodInput, only_layer
from editing.methods.shared.postnorm import change_before_norm
from editing.methods.shared.solve import factors, rank_one_gains, spared_rank_one_gains
from editing.placed import tensor_of
from editing.weights import WeightUpdate


class RomeSearchConfig(ValueSearchConfig):
    steps: int = Field(20, ge=1, le=1000, description="Most evaluations of the loss.")
    clamp: float = Field(4.0, gt=0, description="Largest |δ| as a multiple of the hidden state's norm.")


class RomeConfig(OneLayerConfig, LocatingConfig):
    makes_up: ClassVar[bool] = True

    search: RomeSearchConfig = RomeSearchConfig()
    method: Literal["rome"] = "rome"
    mean_key: bool = Field(True, description="The mean key everywhere (R-ROME); false: ROME as its code was published.")


def compute_update(given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: RomeConfig) -> BatchUpdate:
    """The update that writes `edits` in their order.

    Keys of a layer do not depend on what is written into it, so all are read in one go, and what an edit finds changed
    by those before it is Δ k.

    Raises:
        SolveError: C is singular.
        InvalidEdit: a subject is lost in tokenisation.
    """
    layer = only_layer(given, "rome")
    found, gain_nd = _solved(given, edits, z_star_nm, layer, config)
    gain_nd = gain_nd.float()
    R_mn = torch.empty_like(found.R_mn)
    norm, own_mn = given.layout.norm_after(given.model, layer), _own(given, layer, found, config)
    at_nd = found.K_nd if config.mean_key else found.bare_nd
    for i in range(len(edits)):
        changed_mk = R_mn[:, :i] @ (gain_nd[:i] @ torch.stack([found.bare_nd[i], at_nd[i]]).T)
        left_m = _left(norm, found.written_nm[i], found.missing_nm[i], changed_mk[:, 0])
        R_mn[:, i] = left_m + own_mn[:, i] + changed_mk[:, 0] - changed_mk[:, 1]
    name = given.layout.weight_name(layer)
    return BatchUpdate({name: factors(R_mn, gain_nd)}, {layer: found.remembered(groups_of(given, edits), False)})


def compute_independent_updates(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: RomeConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone."""
    layer = only_layer(given, "rome")
    found, gain_nd = _solved(given, edits, z_star_nm, layer, config)
    R_mn = found.R_mn + _own(given, layer, found, config)
    name = given.layout.weight_name(layer)
    return [{name: factors(R_mn[:, i : i + 1], gain_nd[i : i + 1])} for i in range(len(edits))]


def _solved(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, layer: int, config: RomeConfig
) -> tuple[Located, Tensor]:
    """Where the edits are read, and each one's gain of rank one, (n, d) float64."""
    texts = encoded(given, edits)
    done = texts.counting(given)
    found = locate(given, edits, z_star_nm, layer, [{}] * len(edits), texts, done=done)
    at_nd = found.K_nd if config.mean_key else found.bare_nd
    C_dd, V_dk = given.second_moment(layer), spared_directions(given.weights, given.layout.weight_name(layer), config)
    if V_dk is None:
        gain_nd = rank_one_gains(C_dd, found.K_nd.T, at_nd.T)
    else:
        gain_nd = spared_rank_one_gains(C_dd, found.K_nd.T, at_nd.T, V_dk, config.protect_strength)
    done(SOLVE)
    return found, gain_nd


def _own(given: MethodInput, layer: int, found: Located, config: RomeConfig) -> Tensor:
    """W (k − k*), (m, n): what makes v* − W k* of v* − W k, k being the bare prompt's key; zero for published ROME."""
    if not config.mean_key:
        return torch.zeros_like(found.R_mn)
    W_md = given.layout.oriented(tensor_of(given.model, given.layout.weight_name(layer))).float()
    return W_md @ (found.bare_nd - found.K_nd).T


def _left(norm: nn.Module | None, written_m: Tensor, missing_m: Tensor, changed_m: Tensor) -> Tensor:
    """The residual of an edit after edits before it have changed what its layer writes."""
    if norm is None:
        return missing_m - changed_m
    now_m, dtype = written_m + changed_m, next(norm.parameters()).dtype
    moved_m = norm(now_m.to(dtype)).float() - norm(written_m.to(dtype)).float()
    return change_before_norm(norm, now_m[None], (missing_m - moved_m)[None])[0]


ROME = Method("rome", RomeConfig, compute_update, compute_independent_updates, rebases=True)
