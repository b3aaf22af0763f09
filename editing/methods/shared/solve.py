"""The linear algebra of locate-then-edit methods.

A gain (n, d) is what a method makes of its keys: Δ = R · gain.

Shapes: d = key size, m = value size, n = edits of the batch, r = rank of a null space.
"""

import logging

import torch
from torch import Tensor

from editing.errors import EditingError, SolveError
from editing.weights import Factors

logger = logging.getLogger(__name__)

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
    M = (weight * C_dd.double()).add_(H_dd).addmm_(K, K.T)
    return _solve_symmetric(M, K, "raise statistics_weight").T


def spared_gain(C_dd: Tensor, H_dd: Tensor, K_dn: Tensor, weight: float, V_dk: Tensor, strength: float) -> Tensor:
    """Of all gains that have in the directions V only what a filter I − s V Vᵀ leaves there, the best one by far.

    G = Kᵀ M⁻¹ − s (Kᵀ M⁻¹ V) (Vᵀ M⁻¹ V)⁻¹ Vᵀ M⁻¹ with M = λC + H + K Kᵀ, (n, d) float64: the least squares of
    `memit_gain` under the constraint G V = (1 − s) Kᵀ M⁻¹ V. What the filter takes away from a fact, and what it breaks
    of those in H, is made up for in all other directions.

    Raises:
        SolveError: M is singular or not finite.
    """
    K, V = K_dn.double(), V_dk.to(K_dn.device, torch.float64)
    L = cholesky((weight * C_dd.double()).add_(H_dd).addmm_(K, K.T), "raise statistics_weight")
    gain_nd, S_kd = torch.cholesky_solve(K, L).T, torch.cholesky_solve(V, L).T
    return gain_nd - strength * (gain_nd @ V) @ _solve_symmetric(S_kd @ V, S_kd, "lower protect")


def independent_gains(C_dd: Tensor, H_dd: Tensor, K_dcn: Tensor, weight: float) -> Tensor:
    """K_iᵀ (λC + H + K_i K_iᵀ)⁻¹ of the c columns of each edit i alone, by one factorisation. (c, n, d) float64.

    By Woodbury's identity it is (I + K_iᵀ S_i)⁻¹ S_iᵀ with S = (λC + H)⁻¹ K.
    """
    K = K_dcn.double()
    S_dcn = _solve_symmetric((weight * C_dd.double()).add_(H_dd), K.flatten(1), "raise statistics_weight").view_as(K)
    G_ncc = torch.einsum("dcn,den->nce", K, S_dcn)
    G_ncc.diagonal(dim1=1, dim2=2).add_(1)
    gain_ncd: Tensor = torch.linalg.solve(G_ncc, S_dcn.permute(2, 1, 0))
    return gain_ncd.transpose(0, 1)


def rank_one_gains(C_dd: Tensor, K_dn: Tensor, at_dn: Tensor) -> Tensor:
    """Row i is (C⁻¹ k_i)ᵀ / ((C⁻¹ k_i)ᵀ a_i): the smallest change, by tr(Δ C Δᵀ), with Δ a_i = r_i. (n, d) float64.

    ROME's eq. 2, where a_i = k_i. Published ROME takes another key a_i, which can make the divisor vanish.

    Raises:
        SolveError: C is singular, or a divisor is zero.
    """
    K, at = K_dn.double(), at_dn.double()
    solved = _solve_symmetric(C_dd.double(), K, "choose another layer")
    divisor_n = (solved * at).sum(0)
    if not divisor_n.all():
        raise SolveError("a key is zero or meets its constraint nowhere; leave the edit out or use the mean key")
    return (solved / divisor_n).T


def emmet_gain(C_dd: Tensor, K_dn: Tensor, ridge: float) -> Tensor:
    """(Kᵀ C⁻¹ K + ε I)⁻¹ Kᵀ C⁻¹, (n, d) float64: EMMET's eq. 9, with ε = ridge · mean diagonal of Kᵀ C⁻¹ K.

    Raises:
        SolveError: C is singular.
    """
    K = K_dn.double()
    solved = _solve_symmetric(C_dd.double(), K, "choose another layer")
    G_nn = K.T @ solved
    G_nn.diagonal().add_(ridge * G_nn.diagonal().mean())
    return _solve_symmetric(G_nn, solved.T, "raise ridge")


def null_space(eigenvalues_d: Tensor, U_dd: Tensor, threshold: float, layer: int) -> Tensor:
    """U (d, r): the eigenvectors of C whose eigenvalues are below `threshold` times the mean one; P = U Uᵀ.

    Raises:
        EditingError: there are none.
    """
    mean = eigenvalues_d.mean()
    U_dr = U_dd[:, : int((eigenvalues_d < threshold * mean).sum())]  # they rise
    if U_dr.shape[1] == 0:
        raise EditingError(
            f"no null space at layer {layer}: the smallest eigenvalue of C is {eigenvalues_d[0] / mean:.3g} times the "
            f"mean one, nullspace_threshold is {threshold:.3g}; raise it or choose another layer"
        )
    return U_dr


def alphaedit_gain(U_dr: Tensor, H_dd: Tensor, K_dn: Tensor, ridge: float) -> Tensor:
    """Kᵀ P (K Kᵀ P + H P + ridge · I)⁻¹ with P = U Uᵀ, (n, d) float64: AlphaEdit's eq. 14.

    Computed as Kᵀ U (Uᵀ (K Kᵀ + H) U + ridge · I)⁻¹ Uᵀ, which is the same, symmetric, and of size r.

    Raises:
        SolveError: the matrix is singular or not finite.
    """
    K_rn = U_dr.T @ K_dn.double()
    return _solve_symmetric(projected(U_dr, H_dd, ridge).addmm_(K_rn, K_rn.T), K_rn, "raise ridge").T @ U_dr.T


def independent_alphaedit_gains(U_dr: Tensor, H_dd: Tensor, K_dn: Tensor, ridge: float) -> Tensor:
    """Row i is `alphaedit_gain` of k_i alone, by one factorisation (Sherman-Morrison). (n, d) float64."""
    K_rn = U_dr.T @ K_dn.double()
    solved = _solve_symmetric(projected(U_dr, H_dd, ridge), K_rn, "raise ridge")
    return (solved / (1 + (K_rn * solved).sum(0))).T @ U_dr.T


def projected(U_dr: Tensor, H_dd: Tensor | None, ridge: float) -> Tensor:
    """Uᵀ H U + ridge · I, (r, r); None is H = 0."""
    M_rr = U_dr.new_zeros((U_dr.shape[1],) * 2) if H_dd is None else U_dr.T @ H_dd.double() @ U_dr
    M_rr.diagonal().add_(ridge)
    return M_rr


def cholesky(M: Tensor, remedy: str) -> Tensor:
    """L of a positive (semi)definite M = L Lᵀ; a warning says what had to be added to the diagonal.

    Raises:
        SolveError: M is singular or not finite; it advises `remedy`.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(M)
    for jitter in JITTERS if int(info) else ():
        # Statistics of less text than the key size have zero eigenvalues, which rounding made slightly negative.
        shift = jitter * M.norm()
        eye = torch.eye(M.shape[0], dtype=M.dtype, device=M.device)
        factor, info = torch.linalg.cholesky_ex(M + shift * eye)
        if not int(info):
            logger.warning(
                "the keys' matrix (%d x %d) is not definite: %.3g, %g of its norm, was added to its diagonal; %s or "
                "collect key statistics from more text",
                *M.shape,
                float(shift),
                jitter,
                remedy,
            )
            break
    if int(info) or not factor.diagonal().isfinite().all():
        raise SolveError(_singular(M, remedy))
    return factor


def _solve_symmetric(M: Tensor, K: Tensor, remedy: str) -> Tensor:
    """M⁻¹ K of a positive (semi)definite M. Raises SolveError, which advises `remedy`."""
    solution = torch.cholesky_solve(K, cholesky(M, remedy))
    if not solution.isfinite().all():
        raise SolveError(_singular(M, remedy))
    return solution


def _singular(M: Tensor, remedy: str) -> str:
    return (
        f"the keys' matrix ({M.shape[0]} x {M.shape[0]}) is singular: {remedy} or collect key statistics from more text"
    )


def factors(R_mn: Tensor, gain_nd: Tensor) -> Factors:
    """Δ = R · gain as float32 factors on the CPU."""
    return Factors(R_mn.float().cpu().contiguous(), gain_nd.float().cpu().contiguous())
