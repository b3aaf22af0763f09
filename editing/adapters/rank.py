"""Low-rank factors brought to a common rank: padded with zeros, or cut to the best approximation of a smaller one.

Shapes: d = key size, m = value size, r = rank; Δ = B A with B (m, r) and A (r, d).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from editing.errors import EditingError
from editing.progress import OnProgress, counted, unheard
from editing.weights import Factors, WeightUpdate, check_finite


@dataclass(frozen=True)
class Fitted:
    """An update whose factors all have one rank."""

    update: dict[str, Factors]
    rank: int
    error: float
    """|Δ − Δ'| / |Δ| over all weights together, Frobenius; 0 where nothing was cut."""


def fit_rank(update: WeightUpdate, ranks: tuple[int, ...], on_progress: OnProgress = unheard) -> Fitted:
    """Pad every weight's factors to the smallest of `ranks` that holds them all; cut what exceeds the largest.

    `on_progress` hears how many weights are done.

    Raises:
        EditingError: the update is empty or there is no rank to choose.
        SolveError: the update is not finite.
    """
    if not update:
        raise EditingError("there is nothing to export: the update holds no weights; apply a batch first")
    if not ranks or min(ranks) < 1:
        raise EditingError(f"ranks are {list(ranks)}; give at least one rank of 1 or more that max_rank allows")
    check_finite(update)
    needed = max(factors.A.shape[0] for factors in update.values())
    rank = min((r for r in ranks if r >= needed), default=max(ranks))
    fitted, lost, total = {}, 0.0, 0.0
    done = counted(on_progress, len(update))
    for name, factors in update.items():
        if needed > rank:
            factors, weight_lost, weight_total = truncate(factors, rank)
            lost, total = lost + weight_lost, total + weight_total
        fitted[name] = _padded(factors, rank)
        done(1)
    return Fitted(fitted, rank, (lost / total) ** 0.5 if total else 0.0)


def truncate(factors: Factors, rank: int) -> tuple[Factors, float, float]:
    """The best approximation of B A of at most `rank` (Eckart-Young), with |what is lost|² and |B A|².

    B = Q S and Aᵀ = P T by QR, then the SVD of the small S Tᵀ: the product B A is never formed.
    """
    Q, S = torch.linalg.qr(factors.B.double())
    P, T = torch.linalg.qr(factors.A.double().T)
    U, sigma, Vh = torch.linalg.svd(S @ T.T, full_matrices=False)
    root = sigma[:rank].sqrt()
    B, A = Q @ (U[:, :rank] * root), (root[:, None] * Vh[:rank]) @ P.T
    squares = sigma.square()
    return Factors(B.float(), A.float()), float(squares[rank:].sum()), float(squares.sum())


def factored(delta_md: Tensor) -> Factors:
    """A whole change of a weight as factors of its full rank, by SVD; rounded to float32 once."""
    U, sigma, Vh = torch.linalg.svd(delta_md.double(), full_matrices=False)
    root = sigma.sqrt()
    return Factors((U * root).float().cpu(), (root[:, None] * Vh).float().cpu())


def narrowed(factors: Factors) -> Factors:
    """The same product with a rank of at most m: cheaper where factors of many facts are multiplied with states."""
    m, r = factors.B.shape
    return factors if r <= m else Factors(torch.eye(m), factors.B @ factors.A)


def without_zeros(factors: Factors) -> Factors:
    """The same product without the ranks that contribute nothing."""
    used = factors.B.any(dim=0) & factors.A.any(dim=1)
    return Factors(factors.B[:, used].contiguous(), factors.A[used].contiguous())


def _padded(factors: Factors, rank: int) -> Factors:
    missing = rank - factors.A.shape[0]
    B = torch.nn.functional.pad(factors.B.float(), (0, missing))
    return Factors(B.contiguous(), torch.nn.functional.pad(factors.A.float(), (0, 0, 0, missing)).contiguous())
