"""Solves of ROME, EMMET and AlphaEdit against independent derivations; MEMIT's are in test_solve."""

import pytest
import torch

from editing.errors import EditingError, SolveError
from editing.methods.shared.solve import (
    alphaedit_gain,
    emmet_gain,
    independent_alphaedit_gains,
    null_space,
    rank_one_gains,
)

D, M, N, KEPT = 24, 7, 4, 15


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def problem():
    """C of full rank whose spectrum falls over four orders of magnitude, K (d, n) and R (m, n)."""
    Q = torch.linalg.qr(random(D, D, seed=0))[0]
    C = Q @ torch.diag(torch.logspace(-3, 1, D, dtype=torch.float64)) @ Q.T
    return C, random(D, N, seed=1), random(M, N, seed=2)


def smallest_change(C, K, R):
    """min tr(Δ C Δᵀ) so that Δ K = R, from its Lagrange conditions [2C K; Kᵀ 0] [Δᵀ; Λ] = [0; Rᵀ], solved densely."""
    n = K.shape[1]
    system = torch.cat([torch.cat([2 * C, K], 1), torch.cat([K.T, torch.zeros(n, n, dtype=C.dtype)], 1)])
    right = torch.cat([torch.zeros(len(C), len(R), dtype=C.dtype), R.T])
    return torch.linalg.solve(system, right)[: len(C)].T


def test_rank_one_gains_solve_the_lagrange_conditions_of_each_edit(problem):
    C, K, R = problem
    gains = rank_one_gains(C, K, K)
    for i in range(N):
        expected = smallest_change(C, K[:, i : i + 1], R[:, i : i + 1])
        torch.testing.assert_close(R[:, i : i + 1] @ gains[i : i + 1], expected, atol=1e-9, rtol=1e-9)


def test_emmet_solves_the_lagrange_conditions_of_the_batch(problem):
    C, K, R = problem
    delta = R @ emmet_gain(C, K, 1e-13)
    torch.testing.assert_close(delta, smallest_change(C, K, R), atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(delta @ K, R, atol=1e-9, rtol=0)


def test_emmets_ridge_bounds_what_nearly_equal_keys_with_other_values_would_explode(problem):
    C, K, R = problem
    K = torch.cat([K[:, :1], K[:, :1] * (1 + 1e-9)], dim=1)
    delta = R[:, :2] @ emmet_gain(C, K, 1e-4)
    torch.testing.assert_close(delta @ K[:, 0], R[:, :2].mean(1), atol=1e-3, rtol=1e-3)


def test_emmet_of_one_edit_is_rome(problem):
    C, K, _ = problem
    torch.testing.assert_close(emmet_gain(C, K[:, :1], 1e-13), rank_one_gains(C, K[:, :1], K[:, :1]))


def test_a_key_that_misses_its_constraint_is_refused(problem):
    C, K, _ = problem
    with pytest.raises(SolveError, match=r"meets its constraint nowhere; .* use the mean key"):
        rank_one_gains(C, K, torch.zeros_like(K))


@pytest.fixture
def allowed(problem):
    """U (d, r) of the problem's C, and H of other keys."""
    eigenvalues, U = torch.linalg.eigh(problem[0])
    earlier = random(D, 3, seed=5)
    return null_space(eigenvalues, U, 0.1, 0), earlier @ earlier.T


def test_alphaedit_is_the_papers_formula(problem, allowed):
    (_, K, _), (U, H) = problem, allowed
    P = U @ U.T
    paper = torch.linalg.solve((K @ K.T @ P + H @ P + 0.3 * torch.eye(D, dtype=P.dtype)).T, (K.T @ P).T).T
    torch.testing.assert_close(alphaedit_gain(U, H, K, 0.3), paper, atol=1e-10, rtol=1e-10)


def test_alphaedit_minimises_its_objective_among_the_allowed_changes(problem, allowed):
    (_, K, R), (U, H) = problem, allowed
    delta = R @ alphaedit_gain(U, H, K, 0.3)
    free = (delta @ U).requires_grad_(True)  # coordinates of the allowed changes Δ = free Uᵀ
    change = free @ U.T
    objective = (change @ K - R).square().sum() + torch.trace(change @ H @ change.T) + 0.3 * change.square().sum()
    (gradient,) = torch.autograd.grad(objective, free)
    assert gradient.abs().max() < 1e-9
    torch.testing.assert_close(delta @ U @ U.T, delta, atol=1e-12, rtol=0)


def test_alphaedit_leaves_preserved_keys_alone(problem):
    _, K, R = problem
    preserved = random(D, KEPT, seed=6)
    eigenvalues, U = torch.linalg.eigh(preserved @ preserved.T / KEPT)
    delta = R @ alphaedit_gain(null_space(eigenvalues, U, 1e-6, 0), torch.zeros(D, D), K, 1e-3)
    assert (delta @ preserved).abs().max() < 1e-8 and (delta @ K - R).norm() < 0.1 * R.norm()


def test_alphaedit_in_batches_with_history_is_the_one_big_solve(problem, allowed):
    (_, K, R), (U, _) = problem, allowed
    whole = R @ alphaedit_gain(U, torch.zeros(D, D), K, 0.3)
    first = R[:, :2] @ alphaedit_gain(U, torch.zeros(D, D), K[:, :2], 0.3)
    second = (R - first @ K)[:, 2:] @ alphaedit_gain(U, K[:, :2] @ K[:, :2].T, K[:, 2:], 0.3)
    torch.testing.assert_close(first + second, whole, atol=1e-10, rtol=0)


def test_independent_alphaedit_gains_are_the_solves_of_single_edits(problem, allowed):
    (_, K, _), (U, H) = problem, allowed
    together = independent_alphaedit_gains(U, H, K, 0.3)
    for i in range(N):
        torch.testing.assert_close(together[i : i + 1], alphaedit_gain(U, H, K[:, i : i + 1], 0.3))


def test_the_null_space_does_not_depend_on_the_scale_of_the_keys(problem):
    eigenvalues, U = torch.linalg.eigh(problem[0])
    assert torch.equal(null_space(eigenvalues * 1e6, U, 0.1, 0), null_space(eigenvalues, U, 0.1, 0))


def test_no_null_space_is_refused_with_the_numbers(problem):
    eigenvalues, U = torch.linalg.eigh(problem[0])
    with pytest.raises(EditingError, match=r"no null space at layer 3: .* is 0\.\d+ times the mean .* is 1e-09; raise"):
        null_space(eigenvalues, U, 1e-9, 3)
