"""MEMIT: facts written into several MLP layers at once, and with history the earlier facts kept.

Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, https://arxiv.org/abs/2210.07229;
the keys of earlier facts in the solve as in AlphaEdit's sequential setting (Fang et al., ICLR 2025).

    Δ = R Kᵀ (λC + H + K Kᵀ)⁻¹                                                       (eq. 14; H = 0 as published)

The loop over layers is in `base`. Shapes: d = key size, m = hidden size, n = edits.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from editing.config import MethodConfig
from editing.edit import Edit
from editing.methods.base import BatchUpdate, Method, Setting, compute_each, compute_together
from editing.solve import independent_gains, memit_gain
from editing.weights import WeightUpdate


class MemitConfig(MethodConfig):
    method: Literal["memit"] = "memit"
    statistics_weight: float = Field(2000.0, gt=0, description="λ: weight of general text against the facts.")
    history: bool = Field(True, description="Keep the keys of earlier facts in the solve; false: as published.")


def compute_update(setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: MemitConfig) -> BatchUpdate:
    """The update that writes `edits` together."""

    def solve(layer: int, K_dn: Tensor) -> Tensor:
        return memit_gain(*_moments(setting, layer, config), K_dn, config.statistics_weight)

    return compute_together(setting, edits, z_star_nm, solve)


def compute_independent_updates(
    setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: MemitConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone."""

    def solve(layer: int, K_dn: Tensor) -> Tensor:
        return independent_gains(*_moments(setting, layer, config), K_dn, config.statistics_weight)

    return compute_each(setting, edits, z_star_nm, solve)


def _moments(setting: Setting, layer: int, config: MemitConfig) -> tuple[Tensor, Tensor]:
    """C and H of a layer."""
    C_dd = setting.second_moment(layer)
    return C_dd, setting.earlier_keys(layer) if config.history else torch.zeros_like(C_dd)


MEMIT = Method("memit", MemitConfig, compute_update, compute_independent_updates)
