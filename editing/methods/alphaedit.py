"""AlphaEdit: MEMIT confined to the null space of preserved keys.

Fang et al., "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models", ICLR 2025,
https://arxiv.org/abs/2410.02355.

    P = U Uᵀ, the columns of U being eigenvectors of C with small eigenvalues        (eq. 6, 7)
    Δ = R Kᵀ P (K Kᵀ P + H P + ridge · I)⁻¹                                          (eq. 14)

The paper calls eigenvalues below 2e-2 zero and gives |Δ|² the weight 10, on models of several billion parameters.
Keys of other models differ in scale by orders of magnitude, so that 2e-2 can be all of the spectrum or none of it:
here both numbers are in units of C's mean eigenvalue, tr C / d. On SmolLM2-135M, layers 3 to 5, the paper's 2e-2 is
1.1 to 1.7 of these units and leaves 74 to 84 % of the directions; hence the default. The loop over layers is MEMIT's,
in `locate`. Shapes: d = key size, m = hidden size, n = edits, r = rank of the null space.
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
from editing.methods.shared.growing import GrowingFactor, few
from editing.methods.shared.interface import BatchUpdate, Method, MethodInput
from editing.methods.shared.solve import (
    alphaedit_gain,
    independent_alphaedit_gains,
    null_space,
    projected,
    spared_alphaedit_gain,
)
from editing.weights import WeightUpdate


class AlphaEditConfig(SpreadingConfig):
    makes_up: ClassVar[bool] = True

    method: Literal["alphaedit"] = "alphaedit"
    nullspace_threshold: float = Field(
        1.0, gt=0, description="Eigenvalues of C below this count as zero; in units of the mean eigenvalue."
    )
    ridge: float = Field(10.0, gt=0, description="Weight of |Δ|² in the objective, in units of C's mean eigenvalue.")


def compute_update(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: AlphaEditConfig
) -> BatchUpdate:
    """The update that writes `edits` together.

    Raises:
        EditingError: C has no null space at this threshold, or protected directions leave nothing of it.
    """

    def solve(layer: int, K_dn: Tensor) -> Tensor:
        if config.spares:
            return _spared(given, layer, config, K_dn)
        U_dr, ridge = _allowed(given, layer, config)
        if few(K_dn):
            return _factor(given, layer, U_dr, ridge).gain(U_dr.T @ K_dn.double()) @ U_dr.T
        return alphaedit_gain(U_dr, given.earlier_keys(layer), K_dn, ridge)

    return compute_together(given, edits, z_star_nm, solve)


def compute_independent_updates(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: AlphaEditConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone; raises as `compute_update` does."""

    def solve(layer: int, K_dn: Tensor) -> Tensor:
        if config.spares:
            return torch.cat([_spared(given, layer, config, k_d[:, None]) for k_d in K_dn.unbind(1)])
        U_dr, ridge = _allowed(given, layer, config)
        return independent_alphaedit_gains(U_dr, given.earlier_keys(layer), K_dn, ridge)

    return compute_each(given, edits, z_star_nm, solve)


def _spared(given: MethodInput, layer: int, config: AlphaEditConfig, K_dn: Tensor) -> Tensor:
    """The gain (n, d) that keeps out of the protected directions."""
    U_dr, ridge = _allowed(given, layer, config)
    V_dk = spared_directions(given.weights, given.layout.weight_name(layer), config)
    assert V_dk is not None
    return spared_alphaedit_gain(U_dr, given.earlier_keys(layer), K_dn, ridge, V_dk, config.protect_strength)


def _allowed(given: MethodInput, layer: int, config: AlphaEditConfig) -> tuple[Tensor, float]:
    """U (d, r), the directions that may change, and the ridge in the units of C."""
    eigenvalues_d, U_dd = given.spectrum(layer)
    U_dr = null_space(eigenvalues_d, U_dd, config.nullspace_threshold, layer)
    return U_dr, config.ridge * float(eigenvalues_d.mean())


def _factor(given: MethodInput, layer: int, U_dr: Tensor, ridge: float) -> GrowingFactor:
    """Uᵀ H U + ridge · I, factored."""
    return given.history.factored(
        layer,
        given.statistics,
        ("alphaedit", U_dr.shape[1], ridge),
        lambda H_dd: projected(U_dr, None if H_dd is None else H_dd.to(U_dr.device), ridge),
        lambda K_dn: U_dr.T @ K_dn.to(U_dr),
    )


ALPHAEDIT = Method("alphaedit", AlphaEditConfig, compute_update, compute_independent_updates, rebases=True)
