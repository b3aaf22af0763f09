"""The linear algebra of locate-then-edit methods.

Shapes: d = key size, m = value size, n = edits of the batch.
"""

import torch
from torch import Tensor

from editing.errors import SolveError
from editing.weights import Factors

JITTERS = (1e-12, 1e-10, 1e-8, 1e-7)
"""What is added to the diagonal of a matrix that is not definite, as a share of its norm. The keys behind C are
summed by float32 products, so the directions that it leaves open are undecided to about the last."""


def memit_gain(C_dd: Tensor, H_dd: Tensor, K_dn: Tensor, weight: float) -> Tensor:
    """Kᵀ (λC + H + K Kᵀ)⁻¹, (n, d) float64: MEMIT's eq. 14 with the keys of earlier facts, Δ = R · gain.

    H = Σ Kₚ Kₚᵀ over the live facts keeps what they wrote; λ weighs the keys of general text. With the residual
    taken at the current weights, batches in sequence give what one solve over all facts gives.

    Raises:
        SolveError: the matrix is singular or not finite.
    """
    K = K_dn.double()
    M = weight * C_dd.double() + H_dd + K @ K.T
    return _solve_symmetric(M, K).T


def independent_gains(C_dd: Tensor, H_dd: Tensor, K_dn: Tensor, weight: float) -> Tensor:
    """Row i is k_iᵀ (λC + H + k_i k_iᵀ)⁻¹: each edit alone, by one factorisation (Sherman-Morrison). (n, d)."""
    K = K_dn.double()
    solved = _solve_symmetric(weight * C_dd.double() + H_dd, K)
    return (solved / (1 + (K * solved).sum(0))).T


def _solve_symmetric(M: Tensor, K: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(M)
    for jitter in JITTERS if int(info) else ():
        # Statistics of less text than the key size have zero eigenvalues, which rounding made slightly negative.
        shift = jitter * M.norm() * torch.eye(M.shape[0], dtype=M.dtype, device=M.device)
        factor, info = torch.linalg.cholesky_ex(M + shift)
        if not int(info):
            break
    solution = torch.cholesky_solve(K, factor)
    if int(info) or not solution.isfinite().all():
        raise SolveError(
            f"the keys' matrix ({M.shape[0]} x {M.shape[0]}) is singular: raise statistics_weight or collect key "
            "statistics from more text"
        )
    return solution


def factors(R_mn: Tensor, gain_nd: Tensor) -> Factors:
    """Δ = R · gain as float32 factors on the CPU."""
    return Factors(R_mn.float().cpu().contiguous(), gain_nd.float().cpu().contiguous())
