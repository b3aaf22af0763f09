"""EMMET: a batch of facts under equality constraints, the batched form of ROME.

Gupta et al., "A Unified Framework for Model Editing", EMNLP Findings 2024, https://arxiv.org/abs/2403.14236.

    min tr(Δ C Δᵀ)  so that  Δ K = R        Δ = R (Kᵀ C⁻¹ K)⁻¹ Kᵀ C⁻¹               (eq. 9)

Two edits of one subject can have nearly the same key and want different values; then Kᵀ C⁻¹ K is nearly singular and
the exact solution explodes. A ridge of `ridge` times its mean diagonal bounds that; for keys that differ the
constraint still holds to about the same fraction. The loop over layers is MEMIT's, in `locate`; as published, earlier
batches are not kept in the solve. Shapes: d = key size, m = hidden size, n = edits.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from editing.config import SpreadingConfig
from editing.edit import Edit
from editing.methods.locate import compute_each, compute_together
from editing.methods.restrain import spared_directions
from editing.methods.shared.interface import BatchUpdate, Method, MethodInput
from editing.methods.shared.solve import emmet_gain, rank_one_gains, spared_emmet_gain
from editing.weights import WeightUpdate


class EmmetConfig(SpreadingConfig):
    makes_up: ClassVar[bool] = True

    method: Literal["emmet"] = "emmet"
    ridge: float = Field(1e-4, gt=0, le=1, description="Added to Kᵀ C⁻¹ K, as a fraction of its mean diagonal.")


def compute_update(given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: EmmetConfig) -> BatchUpdate:
    """The update that writes `edits` together."""

    def solve(layer: int, K_dn: Tensor) -> Tensor:
        return _gain(given, layer, config, K_dn)

    return compute_together(given, edits, z_star_nm, solve)


def compute_independent_updates(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: EmmetConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone: one constraint, so a division takes the inverse's place."""

    def solve(layer: int, K_dn: Tensor) -> Tensor:
        if config.spares:
            return torch.cat([_gain(given, layer, config, k_d[:, None]) for k_d in K_dn.unbind(1)])
        return rank_one_gains(given.second_moment(layer), K_dn, K_dn) / (1 + config.ridge)

    return compute_each(given, edits, z_star_nm, solve)


def _gain(given: MethodInput, layer: int, config: EmmetConfig, K_dn: Tensor) -> Tensor:
    """The gain (n, d) of these keys together."""
    C_dd, V_dk = given.second_moment(layer), spared_directions(given.weights, given.layout.weight_name(layer), config)
    if V_dk is None:
        return emmet_gain(C_dd, K_dn, config.ridge)
    return spared_emmet_gain(C_dd, K_dn, config.ridge, V_dk, config.protect_strength)


EMMET = Method("emmet", EmmetConfig, compute_update, compute_independent_updates, rebases=True)
