"""Sums over the keys of very many facts, block by block: what stands in memory does not grow with them.

    Δ = (Σ R Kᵀ) (M + Σ K Kᵀ)⁻¹

is MEMIT's eq. 14 with M = λC + H. It needs each key once, beside its residual, and no gain of any fact: two matrices
are summed, one is factored, and m right-hand sides are solved for, where a gain a fact takes n.

Shapes: d = key size, m = value size, n = facts of a block.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from editing.errors import SolveError
from editing.methods.shared.solve import cholesky

AT_ONCE = 1024
"""Keys that are widened to float64 at once."""
WIDTH = 1024
"""Columns of the blocks in which the lower triangle is summed."""


def add_gram(M_dd: Tensor, K_nd: Tensor, sign: int = 1) -> Tensor:
    """M + Σ k kᵀ, or M − Σ k kᵀ, in the memory of M, float64: products and sums in float64."""
    for start in range(0, len(K_nd), AT_ONCE):
        wide = K_nd[start : start + AT_ONCE].to(M_dd)
        M_dd.addmm_(wide.T, wide, alpha=sign)
    return M_dd


def delta_in_blocks(M_dd: Tensor, blocks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Δ (m, d) float64 of blocks (K (n, d), R (n, m)) that come one after another.

    Products are in the precision of what comes, sums in float64. M is written to: it holds the sum in its lower half.

    Raises:
        SolveError: there is no block, or the matrix is singular or not finite.
    """
    written_md: Tensor | None = None
    for K_nd, R_nm in blocks:
        written_md = K_nd.new_zeros(R_nm.shape[1], len(M_dd), dtype=M_dd.dtype) if written_md is None else written_md
        for start in range(0, len(M_dd), WIDTH):
            columns = slice(start, start + WIDTH)
            M_dd[start:, columns] += K_nd[:, start:].T @ K_nd[:, columns]
            written_md[:, columns] += R_nm.T @ K_nd[:, columns]
    if written_md is None:
        raise SolveError("there are no keys to solve for; give at least one block of them")
    delta_dm = torch.cholesky_solve(written_md.T, cholesky(M_dd, "raise statistics_weight"))
    if not delta_dm.isfinite().all():
        raise SolveError("the solve of all facts is not finite; raise statistics_weight, or leave facts out")
    return delta_dm.T
