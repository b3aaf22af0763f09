"""MEMIT's ridge and neurons, and the spread of residuals, against the formulas written densely."""

from dataclasses import replace

import pytest
import torch

from editing.edit import Edit
from editing.methods import compute_independent_updates, compute_update, method_config
from editing.methods.located import locate
from editing.methods.memit import most_active
from editing.methods.shared.interface import MethodInput
from editing.weights import EditedWeights, overlay
from tests.editing.test_memit import EDITS, given, states, wanted

LAYER = 2


@pytest.fixture(params=["tiny_llama_f64", "tiny_gpt2_f64"])
def made(request) -> MethodInput:
    return given(request.getfixturevalue(request.param), (LAYER,))


def config(**fields: object):
    return method_config("memit", {"statistics_weight": 0.5, **fields})


def delta(update) -> torch.Tensor:
    [factors] = update.values()
    return factors.B.double() @ factors.A.double()


def dense(
    made: MethodInput, edits: tuple[Edit, ...], z_star: torch.Tensor, ridge: float, share: float = 1
) -> torch.Tensor:
    """R K_Iᵀ (λC + H + K Kᵀ + ρ tr(C)/d I)⁻¹ on the coordinates I, with a plain inverse."""
    found = locate(made, edits, z_star, LAYER, [{}] * len(edits))
    K, C, H = found.K_nd.T.double(), made.second_moment(LAYER), made.earlier_keys(LAYER)
    d = len(C)
    M = 0.5 * C + H + K @ K.T + ridge * C.trace() / d * torch.eye(d, dtype=C.dtype)
    activity, total = K.abs().sum(1), K.abs().sum()
    order = sorted(range(d), key=lambda j: -float(activity[j]))
    kept = next(order[:size] for size in range(1, d + 1) if activity[order[:size]].sum() >= share * total - 1e-9)
    kept = torch.tensor(kept)
    result = torch.zeros(len(found.R_mn), d, dtype=C.dtype)
    result[:, kept] = found.R_mn.double() @ K[kept].T @ torch.linalg.inv(M[kept][:, kept])
    return result


def dense_of_two(made: MethodInput, edits: tuple[Edit, ...], z_star: torch.Tensor, share: float) -> torch.Tensor:
    """The same for two columns an edit, of three contexts read one by one."""
    bare, *others = (
        locate(
            replace(made, prefixes=(made.prefixes[0],) if i == 0 else ("", made.prefixes[i])),
            edits,
            z_star,
            LAYER,
            [{}] * len(edits),
        )
        for i in range(3)
    )
    means = [2 * found.K_nd - found.bare_nd for found in others]
    K = torch.cat([bare.K_nd, sum(means) / 2]).T.double()
    M = 0.5 * made.second_moment(LAYER) + K @ K.T
    activity = K.abs().sum(1)
    order = activity.argsort(descending=True)
    kept = next(order[:n] for n in range(1, len(M) + 1) if activity[order[:n]].sum() >= share * activity.sum() - 1e-9)
    result = torch.zeros(len(bare.R_mn), len(M), dtype=M.dtype)
    R = torch.cat([bare.R_mn, bare.R_mn], dim=1).double()
    result[:, kept] = R @ K[kept].T @ torch.linalg.inv(M[kept][:, kept])
    return result


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("ridge", [0.0, 0.3, 20.0])
@pytest.mark.parametrize("share", [None, 0.6])
def test_ridge_and_neurons_are_the_dense_formula(made, ridge, share):
    z_star = wanted(made, EDITS)
    made.history.add({LAYER: torch.randn(3, made.layout.key_size(made.model))})
    asked = config(ridge=ridge, neurons=share)
    close(delta(compute_update(made, EDITS, z_star, asked).update), dense(made, EDITS, z_star, ridge, share or 1))
    for i, update in enumerate(compute_independent_updates(made, EDITS, z_star, asked)):
        close(delta(update), dense(made, EDITS[i : i + 1], z_star[i : i + 1], ridge, share or 1))


@pytest.mark.parametrize("share", [None, 0.6])
def test_the_bare_key_and_the_mean_of_the_others_are_columns_of_one_solve(made, share):
    """K = [bare, mean of the other contexts], R = [R, R]: the dense formula, and one rank an edit."""
    made = replace(made, prefixes=("", "I. ", "You. "))
    z_star = wanted(made, EDITS)
    asked = config(neurons=share, bare_apart=True)
    update = compute_update(made, EDITS, z_star, asked).update
    close(delta(update), dense_of_two(made, EDITS, z_star, share or 1))
    assert all(len(factors.A) == len(EDITS) for factors in update.values())
    for i, alone in enumerate(compute_independent_updates(made, EDITS, z_star, asked)):
        close(delta(alone), dense_of_two(made, EDITS[i : i + 1], z_star[i : i + 1], share or 1))


def test_the_bare_prompt_gets_more_of_what_is_missing_with_a_column_of_its_own(made):
    made = replace(made, prefixes=("", "I. ", "You. "))
    z_star, z = wanted(made, EDITS), states(made, EDITS, LAYER).hidden
    left = []
    for apart in (True, False):
        update = compute_update(
            made, EDITS, z_star, method_config("memit", {"statistics_weight": 1e-3, "bare_apart": apart})
        )
        with overlay(made.model, made.layout, update.update):
            left.append(float((z_star - states(made, EDITS, LAYER).hidden).norm() / (z_star - z).norm()))
    assert left[0] < 0.5 * left[1]


def test_a_ridge_makes_the_change_smaller(made):
    z_star = wanted(made, EDITS)
    sizes = [
        float(delta(compute_update(made, EDITS, z_star, config(ridge=ridge)).update).norm()) for ridge in (0, 1, 9)
    ]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_with_history_and_a_ridge_two_batches_are_the_one_big_solve(made):
    """The ridge is on the sum of all batches, not on each anew."""
    asked, z_star = config(ridge=0.3), wanted(made, EDITS)
    whole = delta(compute_update(made, EDITS, z_star, asked).update)
    weights = EditedWeights(made.model, made.layout)
    for start in (0, 2):
        batch = compute_update(made, EDITS[start : start + 2], z_star[start : start + 2], asked)
        weights.apply(batch.update)
        made.history.add(batch.keys)
    close(weights.sums[made.layout.weight_name(LAYER)], whole)


def test_all_neurons_are_no_restriction(made):
    z_star = wanted(made, EDITS)
    everything = compute_update(made, EDITS, z_star, config(neurons=1.0)).update
    close(delta(everything), delta(compute_update(made, EDITS, z_star, config()).update))


def test_only_the_most_active_neurons_change(made):
    z_star = wanted(made, EDITS)
    changed = delta(compute_update(made, EDITS, z_star, config(neurons=0.5)).update).abs().sum(0) > 0
    activity = locate(made, EDITS, z_star, LAYER, [{}] * len(EDITS)).K_nd.abs().sum(0)
    assert 0 < changed.sum() < 0.5 * len(changed)
    assert activity[changed].min() >= activity[~changed].max()
    assert activity[changed].sum() >= 0.5 * activity.sum()


def test_the_fewest_coordinates_that_hold_a_share():
    K = torch.tensor([[1.0, 0.0], [-3.0, 2.0], [0.0, 1.0], [0.0, -3.0]])  # |k| sums to 1, 5, 1, 3
    assert [most_active(K, share).tolist() for share in (0.4, 0.5, 0.51, 0.8, 0.81)] == [
        [1],
        [1],
        [1, 3],
        [1, 3],
        [0, 1, 3],
    ]


@pytest.mark.parametrize(("spread", "power"), [("linear", 1), ("sqrt", 0.5)])
def test_each_layer_takes_its_share_of_the_residual(tiny_llama_f64, spread, power):
    """After layer l, 1/(L-l+1), or PMET's 1/√(L-l+1), of what was left is done."""
    made = given(tiny_llama_f64, (0, 1, 2))
    z_star = wanted(made, EDITS)
    update = compute_update(made, EDITS, z_star, config(spread=spread, statistics_weight=1e-6)).update
    done: dict[str, object] = {}
    for layer in made.layers:
        with overlay(made.model, made.layout, done):
            before = states(made, EDITS, layer)
        name = made.layout.weight_name(layer)
        change = before.keys @ (update[name].B @ update[name].A).T
        expected = (z_star - before.hidden) / (made.layers[-1] - layer + 1) ** power
        torch.testing.assert_close(change, expected, atol=2e-4, rtol=2e-3)
        done[name] = update[name]
