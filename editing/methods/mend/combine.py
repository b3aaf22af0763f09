"""Several edits' updates as one: what each changes where another acts is taken away again.

Added up, as MEND does (section 3.1), updates disturb each other: inputs u of different edits have much in common, so an
edit's tokens see what the others' updates do, too. As in MALMEN (Tan et al., "Massive Editing for Large Language Models
via Meta Learning", ICLR 2024, https://arxiv.org/abs/2311.04661), the one update S is the solution of a least squares
problem: every token û_k of the batch is to see what its own edit's update S_i does alone, and every token û_h of
earlier batches no change at all:

    S = Σ_i S_i + R Ã,   R = argmin Σ_k ‖(R Ã + Σ_{j ≠ i(k)} S_j) û_k‖² + Σ_h ‖S û_h‖² + ρ ‖R‖²
      R = −(E Mᵀ + B̃ P) (M Mᵀ + P + ρ I)⁻¹
      M = Ã Ûᵀ,   E = B̃ (M ∘ [rank and token of different edits]),   P = Ã H Ãᵀ,   H = Σ_h û_h û_hᵀ
      ρ = ridge · mean of diag(M Mᵀ)

Published: S = argmin Σ_k ‖(S − S_i) u_k‖² + λ ‖S‖². Here R keeps to the rows ũ of Ã, which the hypernetwork has learnt
to make so that other texts hardly meet them; a token counts the same however large it is, û being u of length one; and
the first edit of all, by itself, is left as it is.

Shapes: d = key size, m = value size, t = tokens of all edits, which is the rank too. Ã (t, d), B̃ (m, t), Û (t, d).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from editing.methods.gradients.features import TokenGradients
from editing.weights import Factors, WeightUpdate, concatenate

TOKENS_TOGETHER = 4096
"""Tokens of one problem, whose cost is cubic in them: of more, the first so many are solved for, then the next."""


def combine(
    updates: Sequence[WeightUpdate],
    gradients: Mapping[str, TokenGradients],
    ridge: float | None,
    earlier: Mapping[str, Tensor] | None = None,
) -> dict[str, Factors]:
    """One update for all edits, differentiable.

    Args:
        updates: what each edit is written with alone, one rank for each of its tokens.
        gradients: the tokens that these were made of, those of each edit in a row, in the same order.
        ridge: how little the correction R may weigh; None: the plain sum, as published for MEND.
        earlier: H (d, d) float64 of weights that earlier batches have edited, where the factors are.
    """
    earlier, summed = earlier or {}, concatenate(updates)
    if ridge is None or (len(updates) == 1 and not earlier):
        return summed
    return {name: _solved(factors, gradients[name], ridge, earlier.get(name)) for name, factors in summed.items()}


def unit_inputs(tokens: TokenGradients) -> Tensor:
    """Û (t, d) float64."""
    return nn.functional.normalize(tokens.u_td.double())


def _solved(factors: Factors, tokens: TokenGradients, ridge: float, H_dd: Tensor | None) -> Factors:
    corrections, U_td = [], unit_inputs(tokens)
    for some in _problems(tokens.lengths):
        edit_t = torch.repeat_interleave(torch.arange(len(some)), torch.tensor([stop - start for start, stop in some]))
        at = slice(some[0][0], some[-1][1])
        A_td = factors.A[at].double()
        others_tt = (edit_t[:, None] != edit_t[None]).to(A_td.device)
        P_tt = None if H_dd is None else A_td @ H_dd @ A_td.T
        corrections.append(_correction(factors.B[:, at].double(), A_td @ U_td[at].T, others_tt, P_tt, ridge))
    return Factors(factors.B + torch.cat(corrections, dim=1).to(factors.B.dtype), factors.A)


def _correction(B_mt: Tensor, M_tt: Tensor, others_tt: Tensor, P_tt: Tensor | None, ridge: float) -> Tensor:
    """R (m, t) float64."""
    left_tt, right_mt = M_tt @ M_tt.T, B_mt @ (M_tt * others_tt) @ M_tt.T
    rho = ridge * left_tt.diagonal().mean().detach().clamp(min=torch.finfo(torch.float64).tiny)
    if P_tt is not None:
        left_tt, right_mt = left_tt + P_tt, right_mt + B_mt @ P_tt
    left_tt = left_tt + rho * torch.eye(len(left_tt), dtype=left_tt.dtype, device=left_tt.device)
    R_tm: Tensor = torch.linalg.solve_ex(left_tt, -right_mt.T).result  # not finite rather than an error
    return R_tm.T


def _problems(lengths: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Where the tokens of each edit begin and end, edits in order, by problem."""
    found: list[list[tuple[int, int]]] = []
    stop = 0
    for length in lengths:
        start, stop = stop, stop + length
        if not found or stop - found[-1][0][0] > TOKENS_TOGETHER:
            found.append([])
        found[-1].append((start, stop))
    return found
