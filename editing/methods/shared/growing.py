"""A matrix that is factored once and then only grows by keys: what a small batch costs is d², not d³.

Shapes: d = size of the matrix, u = keys that it grew by, n = keys of a batch.
"""

import torch
from torch import Tensor

from editing.errors import SolveError
from editing.methods.shared.solve import cholesky

FEW_SHARE = 4
"""A batch of fewer than d / FEW_SHARE keys is solved from a kept factor: measured, see tests/benchmarks/solve.py."""


def few(K_dn: Tensor) -> bool:
    """Whether a batch has so few keys that solving it from a kept factor is less work than factoring anew."""
    return K_dn.shape[1] * FEW_SHARE < K_dn.shape[0]


class GrowingFactor:
    """M = L Lᵀ + U Uᵀ with the keys U (d, u) that came after the factorisation, held as W = L⁻¹ U.

    Both are kept on the CPU, as C and H are: a GPU's memory belongs to the model.

    With W extended by the batch's keys K, the identity (L Lᵀ + V Vᵀ)⁻¹ V = L⁻ᵀ W (I + Wᵀ W)⁻¹ for V = [U K] gives
    K's columns by two triangular solves and a matrix of size u + n. Nothing is subtracted, so nothing cancels.
    """

    def __init__(self, L_dd: Tensor) -> None:
        self.L_dd = L_dd.cpu()
        self.W_du = self.L_dd.new_zeros(len(L_dd), 0)

    @staticmethod
    def of(M_dd: Tensor) -> "GrowingFactor":
        """Factor M. Raises SolveError when it is singular or not finite."""
        return GrowingFactor(cholesky(M_dd, "raise statistics_weight or ridge"))

    @property
    def count(self) -> int:
        """u."""
        return self.W_du.shape[1]

    def add(self, K_dn: Tensor) -> None:
        """M grows by K Kᵀ."""
        self.W_du = torch.cat([self.W_du, _lower(self.L_dd.to(K_dn.device), K_dn).cpu()], dim=1)

    def gain(self, K_dn: Tensor) -> Tensor:
        """Kᵀ (M + K Kᵀ)⁻¹, (n, d) float64; M does not grow.

        Raises:
            SolveError: the keys are not finite.
        """
        L_dd = self.L_dd.to(K_dn.device)
        W = torch.cat([self.W_du.to(K_dn.device), _lower(L_dd, K_dn)], dim=1)
        G = W.T @ W
        G.diagonal().add_(1)
        batch = torch.eye(len(G), dtype=G.dtype, device=G.device)[:, self.count :]
        chosen = torch.cholesky_solve(batch, torch.linalg.cholesky_ex(G)[0])
        gain_dn: Tensor = torch.linalg.solve_triangular(L_dd.mT, W @ chosen, upper=True)
        if not gain_dn.isfinite().all():
            raise SolveError(
                "the solve of the batch is not finite; raise statistics_weight or ridge, or leave edits out"
            )
        return gain_dn.T


def _lower(L_dd: Tensor, K_dn: Tensor) -> Tensor:
    """L⁻¹ K."""
    W: Tensor = torch.linalg.solve_triangular(L_dd, K_dn.double(), upper=False)
    return W
