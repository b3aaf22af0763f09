"""MEMIT: facts written into several MLP layers at once, and with history the earlier facts kept.

Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, https://arxiv.org/abs/2210.07229;
the keys of earlier facts in the solve as in AlphaEdit's sequential given (Fang et al., ICLR 2025).

    Δ = R Kᵀ (λC + H + K Kᵀ)⁻¹                                                       (eq. 14; H = 0 as published)

Two options come from other papers. `ridge` ρ adds ρ |Δ|² to the objective, ρ tr(C)/d · I to the matrix, as ENCORE does
(Gupta et al., 2025, https://arxiv.org/abs/2502.01636); with history it holds for the sum of all batches. The unit is
C's mean eigenvalue, so that ρ does not depend on the scale of a model's keys. Few directions make most of that mean: on
SmolLM2-135M, layer 2, ρ = 50 takes 40 % off |Δ| and 1000 takes 86 %. `neurons` restricts Δ to the key coordinates I
that carry most of the batch's |k|, as NSE does (Jiang et al., ACL 2025, https://arxiv.org/abs/2410.04045): the same
formula of K_I, C_II and H_II, zero elsewhere.

A fact is read behind many beginnings, and the mean of its keys is nobody's key: with `bare_apart` the solve has two
columns a fact, the bare prompt's key and the mean of the contexts', and both are to give what is missing. Measured on
SmolLM2-135M, 100 facts: nine in ten of the targets that one column leaves unsaid at the bare prompt are said with two.
H holds the mean of both, √2 times as long, and of a fact's k conversations theirs, √k times as long.

With `exact_order` each fact's keys and residuals are its own alone (editing/methods/exact.py): no order, batch or way
to some facts changes what they come to.

The loop over layers is in `locate`. Shapes: d = key size, m = hidden size, n = edits.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from editing.config import SpreadingConfig
from editing.edit import Edit
from editing.methods.exact import locate_alone, solve_in_any_order
from editing.methods.locate import Solve, compute_each, compute_together
from editing.methods.restrain import spared_directions
from editing.methods.shared.growing import GrowingFactor, few
from editing.methods.shared.interface import BatchUpdate, Method, MethodInput
from editing.methods.shared.solve import independent_gains, memit_gain, spared_gain
from editing.progress import part_of
from editing.weights import WeightUpdate


class MemitConfig(SpreadingConfig):
    makes_up: ClassVar[bool] = True

    method: Literal["memit"] = "memit"
    statistics_weight: float = Field(2600.0, gt=0, description="λ: weight of general text against the facts.")
    bare_apart: bool = Field(
        True,
        description="Solve for the bare prompt's key and the mean of the other contexts' as two; false: for one mean.",
    )
    history: bool = Field(True, description="Keep the keys of earlier facts in the solve; false: as published.")
    ridge: float = Field(0.0, ge=0, description="Weight of |Δ|² in the objective, in units of C's mean eigenvalue.")
    neurons: float | None = Field(
        None, gt=0, le=1, description="Share of the batch's summed |k| whose coordinates alone are changed; none: all."
    )
    exact_order: bool = Field(
        False,
        description="Solve for each fact's keys and residuals as it would be written alone: any order, same weights.",
    )

    @field_validator("exact_order")
    @classmethod
    def _of_columns_alone(cls, value: bool, info: ValidationInfo) -> bool:
        """What depends on a batch or on what stands in the weights would bring the order back."""
        given = info.data
        others = [name for name in ("neurons", "protect", "norm_clamp") if given.get(name) is not None]
        others += [] if given.get("history", True) else ["history=false"]
        if value and others:
            raise ValueError(f"it cannot be with {', '.join(others)}; leave that out")
        return value

    @property
    def spares(self) -> bool:
        """As of every method, but chosen neurons are filtered: of few coordinates protection may leave nothing."""
        return super().spares and self.neurons is None


def compute_update(given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: MemitConfig) -> BatchUpdate:
    """The update that writes `edits` together."""

    def solve(layer: int, K_dn: Tensor) -> Tensor:
        if config.history and config.neurons is None and few(K_dn) and not config.spares:
            return _factor(given, layer, config).gain(K_dn)
        return _gain(given, layer, config, K_dn)

    if config.exact_order:
        first, then = (replace(given, on_progress=part_of(given.on_progress, *part, 4)) for part in ((0, 3), (3, 1)))
        alone = locate_alone(first, edits, z_star_nm, _alone(given, len(edits), config), bare_apart=config.bare_apart)
        return solve_in_any_order(then, edits, alone, solve, bare_apart=config.bare_apart)
    return compute_together(given, edits, z_star_nm, solve, bare_apart=config.bare_apart)


def _alone(given: MethodInput, count: int, config: MemitConfig) -> Solve:
    """The gains that write each of `count` edits on the base, where there is no other."""

    def solve(layer: int, K_dn: Tensor) -> Tensor:
        C_dd = _second_moment(given, layer, config)
        K_dcn = K_dn.reshape(len(K_dn), -1, count)
        return independent_gains(C_dd, torch.zeros_like(C_dd), K_dcn, config.statistics_weight)

    return solve


def compute_independent_updates(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: MemitConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone."""

    def solve(layer: int, K_dn: Tensor) -> Tensor:
        C_dd, H_dd = _moments(given, layer, config)
        K_dcn = K_dn.reshape(len(K_dn), -1, len(edits))
        if config.neurons is None and not config.spares:
            return independent_gains(C_dd, H_dd, K_dcn, config.statistics_weight)
        # Each edit has coordinates or a constraint of its own, so there is no matrix in common.
        return torch.stack([_gain(given, layer, config, K_dc) for K_dc in K_dcn.unbind(2)], dim=1)

    return compute_each(given, edits, z_star_nm, solve, bare_apart=config.bare_apart)


def _gain(given: MethodInput, layer: int, config: MemitConfig, K_dn: Tensor) -> Tensor:
    """The gain (n, d) of these columns, whatever the options."""
    C_dd, H_dd = _moments(given, layer, config)
    V_dk = spared_directions(given.weights, given.layout.weight_name(layer), config)
    if V_dk is None:
        return _on_neurons(C_dd, H_dd, K_dn, config)
    K = K_dn.double()
    M_dd = (config.statistics_weight * C_dd.double()).add_(H_dd).addmm_(K, K.T)
    return spared_gain(M_dd, K, V_dk, config.protect_strength)


def _moments(given: MethodInput, layer: int, config: MemitConfig) -> tuple[Tensor, Tensor]:
    """C, the ridge included, and H of a layer."""
    C_dd = _second_moment(given, layer, config)
    return C_dd, given.earlier_keys(layer) if config.history else torch.zeros_like(C_dd)


def _second_moment(given: MethodInput, layer: int, config: MemitConfig) -> Tensor:
    """C + ρ/λ tr(C)/d · I, so that λ times this is λC and the ridge."""
    C_dd = given.second_moment(layer)
    if not config.ridge:
        return C_dd
    shift = config.ridge / config.statistics_weight * C_dd.diagonal().mean()
    return C_dd + shift * torch.eye(len(C_dd), dtype=C_dd.dtype, device=C_dd.device)


def _on_neurons(C_dd: Tensor, H_dd: Tensor, K_dn: Tensor, config: MemitConfig) -> Tensor:
    """The gain (n, d) of MEMIT, zero outside the coordinates that `neurons` selects."""
    if config.neurons is None:
        return memit_gain(C_dd, H_dd, K_dn, config.statistics_weight)
    active = most_active(K_dn, config.neurons)
    block = (active[:, None], active)
    gain_nd = torch.zeros(K_dn.shape[1], len(C_dd), dtype=torch.float64, device=K_dn.device)
    gain_nd[:, active] = memit_gain(C_dd[block], H_dd[block], K_dn[active], config.statistics_weight)
    return gain_nd


def most_active(K_dn: Tensor, share: float) -> Tensor:
    """The fewest coordinates that hold `share` of Σ |k| over all keys, rising."""
    activity_d, order_d = K_dn.abs().double().sum(1).sort(descending=True)
    held = activity_d.cumsum(0) / activity_d.sum()
    return order_d[: int((held < share).sum()) + 1].sort().values


def _factor(given: MethodInput, layer: int, config: MemitConfig) -> GrowingFactor:
    """λC + H, and the ridge, factored."""

    def matrix(H_dd: Tensor | None) -> Tensor:
        M_dd = config.statistics_weight * _second_moment(given, layer, config)
        return M_dd if H_dd is None else M_dd.add_(H_dd.to(M_dd.device))

    about = ("memit", config.statistics_weight, config.ridge)
    return given.history.factored(layer, given.statistics, about, matrix)


MEMIT = Method("memit", MemitConfig, compute_update, compute_independent_updates, rebases=True)
