"""Several edits' updates as one: what each changes where another acts is taken away again.

Added up, as MEND does (section 3.1), updates disturb each other: inputs u of different edits have much in common, so an
edit's tokens see what the others' updates do, too. As in MALMEN (Tan et al., "Massive Editing for Large Language Models
via Meta Learning", ICLR 2024, https://arxiv.org/abs/2311.04661), the one update S is the solution of a least squares
problem, in which every token u_k is to see what its own edit's update S_i does alone:

    S = Σ_i S_i + R Ã
    R = argmin Σ_k ‖(R Ã + Σ_{j ≠ i(k)} S_j) u_k‖² / ‖u_k‖² + ρ ‖R‖² = −E Mᵀ (M Mᵀ + ρ I)⁻¹
    M = Ã Ûᵀ,   E = B̃ (M ∘ [rank and token of different edits]),   ρ = ridge · mean of diag(M Mᵀ)

Published: S = argmin Σ_k ‖(S − S_i) u_k‖² + λ ‖S‖². Here R keeps to the rows ũ of Ã, which the hypernetwork has learnt
to make so that other texts hardly meet them; a token counts the same however large it is; and an edit by itself is left
as it is.

Shapes: d = key size, m = value size, t = tokens of all edits, which is the rank too. Ã (t, d), B̃ (m, t), and Û (t, d),
the tokens' u of length one.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from editing.features import TokenGradients
from editing.weights import Factors, WeightUpdate, concatenate

TOKENS_TOGETHER = 4096
"""Tokens of one problem, whose cost is cubic in them: of more, the first so many are solved for, then the next."""


def combine(
    updates: Sequence[WeightUpdate], gradients: Mapping[str, TokenGradients], ridge: float | None
) -> dict[str, Factors]:
    """One update for all edits, differentiable.

    Args:
        updates: what each edit is written with alone, one rank for each of its tokens.
        gradients: the tokens that these were made of, those of each edit in a row, in the same order.
        ridge: how little the correction R may weigh; None: the plain sum, as published for MEND.
    """
    summed = concatenate(updates)
    if ridge is None or len(updates) == 1:
        return summed
    return {name: _solved(factors, gradients[name], ridge) for name, factors in summed.items()}


def _solved(factors: Factors, tokens: TokenGradients, ridge: float) -> Factors:
    corrections = []
    for some in _problems(tokens.lengths):
        edit_t = torch.repeat_interleave(torch.arange(len(some)), torch.tensor([stop - start for start, stop in some]))
        at = slice(some[0][0], some[-1][1])
        M_tt = factors.A[at].double() @ nn.functional.normalize(tokens.u_td[at].double()).T
        others_tt = (edit_t[:, None] != edit_t[None]).to(M_tt.device)
        corrections.append(_correction(factors.B[:, at].double(), M_tt, others_tt, ridge))
    return Factors(factors.B + torch.cat(corrections, dim=1).to(factors.B.dtype), factors.A)


def _correction(B_mt: Tensor, M_tt: Tensor, others_tt: Tensor, ridge: float) -> Tensor:
    """R (m, t) float64."""
    E_mt = B_mt @ (M_tt * others_tt)
    gram_tt = M_tt @ M_tt.T
    rho = ridge * gram_tt.diagonal().mean().detach().clamp(min=torch.finfo(torch.float64).tiny)
    ridged_tt = gram_tt + rho * torch.eye(len(gram_tt), dtype=gram_tt.dtype, device=gram_tt.device)
    R_tm: Tensor = -torch.linalg.solve(ridged_tt, M_tt @ E_mt.T)
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
