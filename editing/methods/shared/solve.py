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

SPANNED = 1e-5
"""Protected directions are float32: what they have of a null space below this is rounding."""


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


def spared_gain(
    M_dd: Tensor, K_dn: Tensor, V_dk: Tensor, strength: float, remedy: str = "raise statistics_weight"
) -> Tensor:
    """Of all gains that have in the directions V only what a filter I − s V Vᵀ leaves there, the best one by far.

    G = Kᵀ M⁻¹ − s (Kᵀ M⁻¹ V) (Vᵀ M⁻¹ V)⁻¹ Vᵀ M⁻¹, (n, d) float64: the least squares that Kᵀ M⁻¹ solves, with K Kᵀ a
    part of M, under the constraint G V = (1 − s) Kᵀ M⁻¹ V. What the filter takes away from a fact, and what it breaks
    of the earlier ones in M, is made up for in all other directions.

    Raises:
        SolveError: M is singular or not finite.
    """
    K, V = K_dn.double(), V_dk.to(K_dn.device, torch.float64)
    L = cholesky(M_dd, remedy)
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
    return _scaled(_solve_symmetric(C_dd.double(), K_dn.double(), "choose another layer"), at_dn)


def spared_rank_one_gains(C_dd: Tensor, K_dn: Tensor, at_dn: Tensor, V_dk: Tensor, strength: float) -> Tensor:
    """The same with (1 − s) of each gain's share in the directions V: as much of it as without, and s as with C⁻¹ − T.

    T = C⁻¹ V (Vᵀ C⁻¹ V)⁻¹ Vᵀ C⁻¹. Where a_i = k_i it is the smallest change with Δ a_i = r_i under that constraint.

    Raises:
        SolveError: C is singular, or a divisor is zero: a key lies in the directions V.
    """
    V, n = V_dk.to(K_dn.device, torch.float64), K_dn.shape[1]
    solved = _solve_symmetric(C_dd.double(), torch.cat([K_dn.double(), V], dim=1), "choose another layer")
    free_dn, S_dk = solved[:, :n], solved[:, n:]
    within_dn = free_dn - S_dk @ _solve_symmetric(V.T @ S_dk, V.T @ free_dn, "lower protect")
    return (1 - strength) * _scaled(free_dn, at_dn) + strength * _scaled(within_dn, at_dn)


def _scaled(solved_dn: Tensor, at_dn: Tensor) -> Tensor:
    divisor_n = (solved_dn * at_dn.double()).sum(0)
    if not divisor_n.all():
        raise SolveError("a key is zero or meets its constraint nowhere; leave the edit out or use the mean key")
    return (solved_dn / divisor_n).T


def emmet_gain(C_dd: Tensor, K_dn: Tensor, ridge: float) -> Tensor:
    """(Kᵀ C⁻¹ K + ε I)⁻¹ Kᵀ C⁻¹, (n, d) float64: EMMET's eq. 9, with ε = ridge · mean diagonal of Kᵀ C⁻¹ K.

    Raises:
        SolveError: C is singular.
    """
    solved_dn, G_nn = _emmet(C_dd, K_dn)
    G_nn.diagonal().add_(ridge * G_nn.diagonal().mean())
    return _solve_symmetric(G_nn, solved_dn.T, "raise ridge")


def spared_emmet_gain(C_dd: Tensor, K_dn: Tensor, ridge: float, V_dk: Tensor, strength: float) -> Tensor:
    """`spared_gain` of the same: (Kᵀ C⁻¹ K + ε I)⁻¹ Kᵀ C⁻¹ = Kᵀ (ε C + K Kᵀ)⁻¹."""
    K, epsilon = K_dn.double(), ridge * float(_emmet(C_dd, K_dn)[1].diagonal().mean())
    return spared_gain((epsilon * C_dd.double()).addmm_(K, K.T), K, V_dk, strength, "raise ridge")


def _emmet(C_dd: Tensor, K_dn: Tensor) -> tuple[Tensor, Tensor]:
    """C⁻¹ K and Kᵀ C⁻¹ K."""
    solved_dn = _solve_symmetric(C_dd.double(), K_dn.double(), "choose another layer")
    return solved_dn, K_dn.double().T @ solved_dn


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


def spared_alphaedit_gain(
    U_dr: Tensor, H_dd: Tensor, K_dn: Tensor, ridge: float, V_dk: Tensor, strength: float
) -> Tensor:
    """`spared_gain` within the null space, where a filter would leave it: of V what Uᵀ V spans takes part.

    Raises:
        SolveError: as `alphaedit_gain`, or Uᵀ V spans all of the null space.
    """
    K_rn, V_rk = U_dr.T @ K_dn.double(), U_dr.T @ V_dk.to(U_dr)
    basis_rk, sigma_k, _ = torch.linalg.svd(V_rk, full_matrices=False)
    basis_rk = basis_rk[:, sigma_k > SPANNED]
    if basis_rk.shape[1] == len(basis_rk):
        raise SolveError(
            f"{V_dk.shape[1]} protected directions leave nothing of a null space of {U_dr.shape[1]}; lower protect, "
            "raise nullspace_threshold or give compensate=false"
        )
    M_rr = projected(U_dr, H_dd, ridge).addmm_(K_rn, K_rn.T)
    return spared_gain(M_rr, K_rn, basis_rk, strength, "raise ridge") @ U_dr.T


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
