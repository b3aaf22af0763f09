"""Laws of one update out of several edits': each edit's tokens see what its own does, as far as the ridge lets them."""

from unittest import mock

import pytest
import torch

from editing.methods.gradients.features import TokenGradients
from editing.methods.mend import combine as mend_combine
from editing.methods.mend.combine import combine
from editing.weights import Factors, concatenate

LENGTHS = (3, 1, 4)
D, M = 12, 5
NAMES = ("up", "down")


def some(lengths=LENGTHS, dtype=torch.float64):
    """Updates of some edits and the tokens that they are of, whose inputs have something in common."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    updates = [{name: Factors(draw(M, length), draw(length, D)) for name in NAMES} for length in lengths]
    count = sum(lengths)
    inputs = {name: 5 * (draw(count, D) + draw(1, D)) for name in NAMES}
    return updates, {name: TokenGradients(inputs[name], draw(count, M), tuple(lengths)) for name in NAMES}


def dense(factors: Factors) -> torch.Tensor:
    return factors.B.double() @ factors.A.double()


def some_earlier(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.nn.functional.normalize(torch.randn(count, D, generator=generator, dtype=torch.float64) + 1)


def plain(updates, tokens, name: str, ridge: float, earlier: torch.Tensor) -> torch.Tensor:
    """S by the equations of the module, token by token, as one stacked least squares problem for R."""
    S = [dense(update[name]) for update in updates]
    A = torch.cat([update[name].A for update in updates]).double()
    edit = [i for i, length in enumerate(tokens[name].lengths) for _ in range(length)]
    rows, wanted = [], []
    for u, i in zip(tokens[name].u_td.double(), edit, strict=True):
        u = u / u.norm()
        rows.append(A @ u)
        wanted.append(-sum((S[j] @ u for j in range(len(S)) if j != i), torch.zeros(M).double()))
    gram = sum(torch.outer(row, row) for row in rows)
    rho = ridge * gram.diagonal().mean()
    for u in earlier:
        rows.append(A @ u)
        wanted.append(-sum(one @ u for one in S))
    stacked = torch.cat([torch.stack(rows), rho.sqrt() * torch.eye(len(A)).double()])
    goal = torch.cat([torch.stack(wanted), torch.zeros(len(A), M).double()])
    return sum(S) + torch.linalg.lstsq(stacked, goal).solution.T @ A


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("lengths", [LENGTHS, (3,)])
@pytest.mark.parametrize("earlier", [0, 6])
def test_it_is_the_solution_of_the_plain_problem(ridge, dtype, lengths, earlier):
    (updates, tokens), before = some(lengths, dtype), some_earlier(earlier)
    found = combine(updates, tokens, ridge, dict.fromkeys(NAMES, before.T @ before) if earlier else None)
    tolerance = 1e-8 if dtype is torch.float64 else 1e-5
    for name in NAMES:
        assert found[name].B.dtype is dtype and found[name].A.dtype is dtype
        wanted = plain(updates, tokens, name, ridge, before)
        torch.testing.assert_close(dense(found[name]), wanted, atol=tolerance * float(wanted.abs().max()), rtol=0)


def test_a_small_ridge_lets_every_token_see_its_own_edit_alone():
    updates, tokens = some()
    found, summed = combine(updates, tokens, 1e-9), concatenate(updates)
    for name in NAMES:
        start = 0
        for update, length in zip(updates, LENGTHS, strict=True):
            u = tokens[name].u_td[start : start + length].T
            alone = dense(update[name]) @ u
            torch.testing.assert_close(dense(found[name]) @ u, alone, atol=1e-4 * float(alone.abs().max()), rtol=0)
            assert not torch.allclose(dense(summed[name]) @ u, alone, atol=0.1 * float(alone.abs().max()), rtol=0)
            start += length


def test_what_many_earlier_edits_met_is_left_alone_but_only_in_weights_that_they_changed():
    updates, tokens = some()
    before = some_earlier(2)
    found, summed = combine(updates, tokens, 1e-3, {"up": 1e9 * before.T @ before}), concatenate(updates)
    scale = float((dense(summed["up"]) @ before.T).abs().max())
    torch.testing.assert_close(dense(found["up"]) @ before.T, torch.zeros(M, 2).double(), atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(dense(found["down"]), dense(combine(updates, tokens, 1e-3)["down"]))


def test_an_edit_alone_and_edits_without_a_ridge_are_the_plain_sum():
    updates, tokens = some()
    for found, wanted in (
        (combine(updates[:1], {name: one.rows(0, 1) for name, one in tokens.items()}, 1e-3), updates[0]),
        (combine(updates, tokens, None), concatenate(updates)),
    ):
        for name in NAMES:
            assert torch.equal(found[name].B, wanted[name].B) and torch.equal(found[name].A, wanted[name].A)


def test_edits_that_do_not_meet_are_left_as_they_are():
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    updates = [{"w": Factors(torch.ones(M, 1).double(), basis[i : i + 1])} for i in range(3)]
    tokens = {"w": TokenGradients(2 * basis[:3], torch.ones(3, M), (1, 1, 1))}
    found = combine(updates, tokens, 1e-3)
    torch.testing.assert_close(dense(found["w"]), dense(concatenate(updates)["w"]))


def test_more_tokens_than_one_problem_takes_are_solved_for_in_turn():
    updates, tokens = some((3, 1, 4, 2, 2))
    with mock.patch.object(mend_combine, "TOKENS_TOGETHER", 5):
        found = combine(updates, tokens, 0.1)
    parts = [
        combine(updates[first:last], {name: one.rows(first, last) for name, one in tokens.items()}, 0.1)
        for first, last in ((0, 2), (2, 3), (3, 5))
    ]
    for name in NAMES:
        torch.testing.assert_close(dense(found[name]), sum(dense(part[name]) for part in parts))


def test_what_is_not_finite_stays_so_and_is_no_error():
    updates, tokens = some()
    updates[1]["up"] = Factors(updates[1]["up"].B * float("inf"), updates[1]["up"].A)
    found = combine(updates, tokens, 1e-3)
    assert not found["up"].B.isfinite().all() and found["down"].B.isfinite().all()


def test_gradients_pass_through_it():
    updates, tokens = some()
    leaves = [part.requires_grad_(True) for update in updates for one in update.values() for part in (one.B, one.A)]
    loss = sum(dense(factors).square().sum() for factors in combine(updates, tokens, 1e-2).values())
    for gradient in torch.autograd.grad(loss, leaves):
        assert gradient.isfinite().all() and gradient.abs().max() > 0
