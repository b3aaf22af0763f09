"""Restraints that any method's update can be put under: what it may not touch, and how large the total may grow.

Protected directions. Let W0 = U Σ Vᵀ be the original weight, U and V cut to the smallest number of leading directions
that hold `protect` of Σ σ². With s = `protect_strength`,

    Δ' = Δ (I − s V Vᵀ)                       side "keys"
    Δ' = (I − s U Uᵀ) Δ (I − s V Vᵀ)          side "both"

"keys" is SPHERE (Liu et al., ICLR 2026, https://arxiv.org/abs/2510.01172), which takes V from the current weight with
its rows scaled to length 1; "both" with s = 1 leaves nothing of Δ in either dominant singular subspace of W0, as REVIVE
(Zhang et al., 2026, https://arxiv.org/abs/2601.11042) filters updates in the singular basis of the original weight.

A filter takes from the facts that are written, and breaks what keeps the earlier ones, for Δ V = 0 was no part of the
solve. What it took away is to be added to the next residual (Wang et al., 2026, https://arxiv.org/abs/2605.26670).
Methods that solve in closed form do so within the solve, to where that ends: with M the matrix of their least squares,
M⁻¹ becomes Q = M⁻¹ − M⁻¹ V (Vᵀ M⁻¹ V)⁻¹ Vᵀ M⁻¹, and the gain (1 − s) of what M⁻¹ gives and s of what Q gives. See
`spared_gain` in editing/methods/shared/solve.py.

Norm clamp: PRUNE (Ma et al., ICLR 2025, https://arxiv.org/abs/2405.16821). With T = U diag(σ) Vᵀ the total change of a
weight from W0 on, this update included, and c the largest singular value of W0, each σ > c becomes

    F(σ) = log_α σ − log_α c + c,             Δ' = Δ + U diag(F(σ) − σ) Vᵀ over these σ

so that Δ' has as many ranks more as directions were clamped. Where c < 1 / ln α, F lies above σ for the σ just above c,
which would enlarge what is to be restrained: those stay as they are. So σ becomes G(σ) = min(σ, F(σ)).

The published code clamps once, after the last edit. Here there is no last edit, and every update is clamped: were it
clamped again as it stands, a direction that stays large would be brought nearer to c each time, whatever is written.
So what clamps took before is first given back. G rises, and the singular vectors stay, so T itself tells it: with
G⁻¹(σ) = max(σ, c α^(σ − c)) for σ > c, and G of a matrix that of its singular values,

    Δ' = G(G⁻¹(T) + Δ) − T,

and after any number of updates T is G of their sum, as if it were clamped once.

Shapes: d = key size, m = value size, r = rank of an update, k = kept directions.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editing.config import MethodConfig
from editing.weights import BaseSpectrum, EditedWeights, Factors, check_finite

MOST_TAKEN = 1e4
"""A direction that clamps left above c was at most so many times as large as c; float32 tells no more beside c."""


@dataclass
class Restraint:
    """The restraints of one configuration on updates of one model; called with a weight's name and its factors.

    A method that edits layer after layer calls it within, so that the layers above make up for what was held back, and
    the caller of any method calls it on what comes out. What it has made itself it returns as it is.
    """

    weights: EditedWeights
    config: MethodConfig
    _made: list[Factors] = field(default_factory=list)

    def __call__(self, name: str, factors: Factors) -> Factors:
        """Raises SolveError when the update is not finite."""
        if any(factors is one for one in self._made):
            return factors
        check_finite({name: factors})
        spectrum = base_spectrum(self.weights, name, self.config.protect or 0.0)
        if self.config.protect is not None:
            U = spectrum.U_mk if self.config.protect_side == "both" else None
            V = None if self.config.spares else spectrum.V_dk
            factors = protect(factors, U, V, self.config.protect_strength)
        if self.config.norm_clamp is not None:
            earlier, limits = self.weights.change(name), (spectrum.largest, self.config.norm_clamp)
            if self.config.compensate and earlier is not None:
                factors = unclamped(factors, earlier, *limits)
            factors = clamp(factors, earlier, *limits)
        check_finite({name: factors})
        self._made.append(factors)
        return factors


def spared_directions(weights: EditedWeights | None, name: str, config: MethodConfig) -> Tensor | None:
    """V (d, k) of a weight where the method's solve is to keep out of it; None where it is not."""
    if not config.spares:
        return None
    assert weights is not None and config.protect is not None  # nothing is restrained without them
    return base_spectrum(weights, name, config.protect).V_dk


def base_spectrum(weights: EditedWeights, name: str, share: float) -> BaseSpectrum:
    """The leading directions of an original weight that hold `share` of its Σ σ²: computed once a weight."""
    if (name, share) not in weights.spectra:
        weights.spectra[name, share] = leading_directions(weights.layout.oriented(weights.original(name)), share)
    return weights.spectra[name, share]


@torch.no_grad()
def leading_directions(W_md: Tensor, share: float) -> BaseSpectrum:
    """The fewest singular directions of W that hold `share` of Σ σ²; none for 0. float32, where W is.

    From the eigenvectors of the smaller of W Wᵀ and Wᵀ W: a full decomposition of W would cost several times more, and
    the leading directions, which alone are kept, come out as exactly.
    """
    if W_md.shape[0] > W_md.shape[1]:
        turned = leading_directions(W_md.T, share)
        return BaseSpectrum(turned.V_dk, turned.U_mk, turned.largest)
    W = W_md.float()
    squares_m, E_mm = torch.linalg.eigh(W @ W.T)
    squares_m, E_mm = squares_m.flip(0).clamp(min=0), E_mm.flip(1)
    held = squares_m.double().cumsum(0) / squares_m.double().sum()
    count = int((held < share).sum()) + 1 if share > 0 else 0
    U_mk = E_mm[:, :count].contiguous()
    V_dk = torch.linalg.qr(W.T @ U_mk)[0]  # orthogonal already, up to the rounding of the eigenvectors
    return BaseSpectrum(U_mk, V_dk, float(squares_m[0].sqrt()))


def protect(factors: Factors, U_mk: Tensor | None, V_dk: Tensor | None, strength: float) -> Factors:
    """(I − s U Uᵀ) B and A (I − s V Vᵀ); without U the left factor stays, without V the right one."""
    A = factors.A if V_dk is None else _weaken(factors.A.T, V_dk, strength).T
    B = factors.B if U_mk is None else _weaken(factors.B, U_mk, strength)
    return Factors(B.contiguous(), A.contiguous())


def _weaken(X: Tensor, Q: Tensor, strength: float) -> Tensor:
    """(I − s Q Qᵀ) X, float32 on the CPU."""
    found = X.to(Q.device)
    return (found - strength * (Q @ (Q.T @ found))).cpu()


def clamp(factors: Factors, earlier_md: Tensor | None, limit: float, alpha: float) -> Factors:
    """Δ', so that the singular values above `limit` of earlier + Δ' are F of what they were in earlier + Δ."""
    sigma_k, U_mk, V_dk = _above(factors, earlier_md, limit)
    change_k = limit + (sigma_k / limit).log() / math.log(alpha) - sigma_k
    return _with(factors, U_mk, change_k.clamp(max=0), V_dk)


def _with(factors: Factors, U_mk: Tensor, change_k: Tensor, V_dk: Tensor) -> Factors:
    """B A + U diag(change) Vᵀ; the factors as they are where nothing changes."""
    some = change_k != 0
    if not some.any():
        return factors
    B, A = (U_mk[:, some] * change_k[some]).float().cpu(), V_dk[:, some].T.float().cpu()
    return Factors(torch.cat([factors.B, B], 1), torch.cat([factors.A, A]))


def unclamped(factors: Factors, earlier_md: Tensor, limit: float, alpha: float) -> Factors:
    """Δ and, with it, G⁻¹(earlier) − earlier: what clamps took from what was written before."""
    sigma_k, U_mk, V_dk = _above_dense(earlier_md, limit)
    # Of weights that no clamp made the power may be any number: none is told from a direction that is gone.
    power_k = ((sigma_k - limit) * math.log(alpha)).clamp(max=math.log(MOST_TAKEN))
    return _with(factors, U_mk, (limit * power_k.exp() - sigma_k).clamp(min=0), V_dk)


def _above(factors: Factors, earlier_md: Tensor | None, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """Singular values above `limit` of earlier + B A, with their left and right vectors, float64."""
    if earlier_md is not None:
        B, A = (factor.to(earlier_md.device, torch.float64) for factor in (factors.B, factors.A))
        return _above_dense(torch.addmm(earlier_md, B, A), limit)
    # Nothing earlier: B = Q S and Aᵀ = P T, and the product is that of the small S Tᵀ.
    Q, S = torch.linalg.qr(factors.B.double())
    P, T = torch.linalg.qr(factors.A.double().T)
    sigma, U, V = _above_dense(S @ T.T, limit)
    return sigma, Q @ U, P @ V


def _above_dense(total: Tensor, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a matrix. Norms that bound the largest singular value decide the usual case that there are none."""
    if total.shape[0] > total.shape[1]:
        sigma, V, U = _above_dense(total.T, limit)
        return sigma, U, V
    none = total.new_empty(0), total.new_empty(total.shape[0], 0), total.new_empty(total.shape[1], 0)
    if total.norm() <= limit:
        return none
    gram = total @ total.T
    if gram.norm().sqrt() <= limit:  # (Σ σ⁴)^¼
        return none
    squares, E = torch.linalg.eigh(gram)
    above = squares > limit**2
    sigma, U = squares[above].sqrt(), E[:, above]
    return sigma, U, total.T @ U / sigma
