"""Laws of the solve, against independent derivations."""

import logging

import pytest
import torch

from editing.errors import SolveError
from editing.methods.shared.solve import cholesky, factors, independent_gains, memit_gain

D, M, N = 24, 7, 5


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(D, 200, generator=generator, dtype=torch.float64)
    return (
        text @ text.T / 200,
        torch.randn(D, N, generator=generator, dtype=torch.float64),
        torch.randn(M, N, generator=generator, dtype=torch.float64),
    )


def objective(delta, C, K, R, weight, P=None):
    """λ tr(Δ C Δᵀ) + |Δ K − R|² + |Δ P|², which the solve is to minimise."""
    kept = 0 if P is None else (delta @ P).square().sum()
    return weight * torch.trace(delta @ C @ delta.T) + (delta @ K - R).square().sum() + kept


def test_the_residual_at_the_keys_vanishes_as_lambda_goes_to_zero(problem):
    C, K, R = problem
    misses = []
    for weight in (1e-2, 1e-5, 1e-8):
        delta = R @ memit_gain(C, torch.zeros(D, D), K, weight)
        misses.append(float((delta @ K - R).norm() / R.norm()))
    assert misses[0] > 100 * misses[1] > 10_000 * misses[2] and misses[2] < 1e-7


def test_the_solve_minimises_its_objective(problem):
    C, K, R = problem
    P = torch.randn(D, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    delta = (R @ memit_gain(C, P @ P.T, K, 0.7)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(objective(delta, C, K, R, 0.7, P), delta)
    assert gradient.abs().max() < 1e-9


def test_heavily_weighted_directions_stay(problem):
    _, K, R = problem
    preserved = torch.linalg.qr(torch.randn(D, 6, dtype=torch.float64))[0]
    C = preserved @ preserved.T * 1e9 + torch.eye(D, dtype=torch.float64)
    delta = R @ memit_gain(C, torch.zeros(D, D), K, 1.0)
    assert (delta @ preserved).abs().max() < 1e-7 and (delta @ K).norm() > 0.1


def test_batches_in_sequence_with_history_give_the_one_big_solve(problem):
    C, K, R = problem
    whole = R @ memit_gain(C, torch.zeros(D, D), K, 0.3)
    first = R[:, :2] @ memit_gain(C, torch.zeros(D, D), K[:, :2], 0.3)
    rest = R[:, 2:] - first @ K[:, 2:]
    second = rest @ memit_gain(C, K[:, :2] @ K[:, :2].T, K[:, 2:], 0.3)
    torch.testing.assert_close(first + second, whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize("columns", [1, 2])
def test_independent_gains_are_the_solves_of_single_edits(problem, columns):
    C, K, _ = problem
    K_dcn = torch.stack([K, K.roll(1, dims=0)][:columns], dim=1)
    together = independent_gains(C, torch.zeros(D, D), K_dcn, 0.3)
    for i in range(N):
        alone = memit_gain(C, torch.zeros(D, D), K_dcn[:, :, i], 0.3)
        torch.testing.assert_close(together[:, i], alone, atol=1e-12, rtol=1e-10)


def test_statistics_of_too_little_text_still_solve(problem):
    _, K, R = problem
    few = torch.randn(D, 4, dtype=torch.float64)
    delta = R @ memit_gain(few @ few.T, torch.zeros(D, D), K, 1.0)
    assert delta.isfinite().all() and (delta @ K - R).norm() < 0.9 * R.norm()


def test_a_singular_system_is_refused_with_the_remedy(problem):
    _, K, _ = problem
    with pytest.raises(SolveError, match="singular: raise statistics_weight"):
        memit_gain(torch.zeros(D, D), torch.full((D, D), float("nan")), K, 1.0)


def test_factors_multiply_to_the_update(problem):
    C, K, R = problem
    gain = memit_gain(C, torch.zeros(D, D), K, 0.3)
    pair = factors(R, gain)
    torch.testing.assert_close(pair.B.double() @ pair.A.double(), R @ gain, atol=1e-5, rtol=1e-5)


def test_what_is_added_to_a_matrix_that_is_not_definite_is_said(caplog):
    """Statistics of less text than the key size leave directions open, which rounding makes slightly negative."""
    lacking = torch.diag(torch.tensor([1.0, 1.0, -1e-13], dtype=torch.float64))
    with caplog.at_level(logging.WARNING):
        assert cholesky(lacking, "raise ridge").isfinite().all()
    [line] = [record.getMessage() for record in caplog.records]
    assert "(3 x 3) is not definite" in line and "1.41e-12, 1e-12 of its norm" in line and "raise ridge" in line
    caplog.clear()
    cholesky(torch.eye(3, dtype=torch.float64), "raise ridge")
    assert not caplog.records
