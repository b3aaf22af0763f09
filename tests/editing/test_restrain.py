"""Restraints on updates: laws of the algebra against dense decompositions, then on every method."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter

from editing.config import MethodConfig
from editing.errors import SolveError, UsageError
from editing.layout import layout_of
from editing.methods import METHODS, AnyConfig, compute_independent_updates, compute_update, method_config
from editing.methods.memit import compute_update as memit_as_it_is
from editing.methods.restrain import Restraint, base_spectrum, clamp, leading_directions, protect, unclamped
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.methods.shared.solve import (
    alphaedit_gain,
    emmet_gain,
    memit_gain,
    rank_one_gains,
    spared_alphaedit_gain,
    spared_emmet_gain,
    spared_gain,
    spared_rank_one_gains,
)
from editing.methods.standing import missing_shares
from editing.methods.ultraedit import closed_form
from editing.weights import EditedWeights, Factors
from tests.conftest import tiny_model
from tests.editing.test_methods import EDITS, quick, states, tiny_input, wanted

M, D, ALPHA = 7, 12, 1.5
SHAPES = pytest.mark.parametrize("shape", [(M, D), (D, M)], ids=["wide", "tall"])


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(m: int, d: int, rank: int, seed: int) -> Factors:
    return Factors(random(m, rank, seed=seed).float(), random(rank, d, seed=seed + 1).float())


def product(factors: Factors) -> torch.Tensor:
    return factors.B.double() @ factors.A.double()


def lowered(sigma: torch.Tensor, limit: float, alpha: float) -> torch.Tensor:
    """PRUNE's F for singular values above the limit, where it lowers; the others as they are."""
    F = torch.log(sigma) / math.log(alpha) - math.log(limit) / math.log(alpha) + limit
    return torch.where(sigma > limit, torch.minimum(F, sigma), sigma)


# The norm clamp.


@SHAPES
@pytest.mark.parametrize("earlier", [False, True])
def test_the_totals_singular_values_become_those_of_the_paper(shape, earlier):
    before = random(*shape, seed=3) if earlier else None
    delta = pair(*shape, rank=4, seed=1)
    total = product(delta) + (0 if before is None else before)
    U, sigma, Vh = torch.linalg.svd(total, full_matrices=False)
    limit = 0.5 * float(sigma[0] + sigma[1])
    limit = max(limit, 3.0)  # beyond 1 / ln α, where F lowers everywhere
    after = product(clamp(delta, before, limit, ALPHA)) + (0 if before is None else before)
    expected = lowered(sigma, limit, ALPHA)
    assert (expected < sigma).any() and (expected[1:] == sigma[1:]).any()
    torch.testing.assert_close(after, U @ torch.diag(expected) @ Vh, atol=1e-4, rtol=1e-5)


@SHAPES
def test_a_clamp_adds_a_rank_for_each_clamped_direction_and_nothing_below_the_limit(shape):
    delta, before = pair(*shape, rank=2, seed=1), random(*shape, seed=3)
    sigma = torch.linalg.svdvals(product(delta) + before)
    for limit, more in ((float(sigma[0]) * 1.01, 0), (float(sigma[1]) * 1.01, 1), (float(sigma[2]) * 1.01, 2)):
        clamped = clamp(delta, before, limit, math.e)
        assert clamped.A.shape[0] == 2 + more
        assert clamped is delta or more


def test_where_the_papers_function_would_enlarge_it_leaves_alone():
    """F has slope 1 / (σ ln α): below σ = 1 / ln α it rises faster than σ."""
    direction = Factors(torch.eye(M, 1), torch.eye(1, D))
    small = Factors(direction.B * 1.2, direction.A)
    assert lowered(torch.tensor([1.2]), 1.0, 1.2) == 1.2 and math.log(1.2, 1.2) + 1 > 1.2
    assert clamp(small, None, 1.0, 1.2) is small
    large = product(clamp(Factors(direction.B * 100, direction.A), None, 1.0, 1.2))
    assert float(large[0, 0]) == pytest.approx(1 + math.log(100, 1.2), rel=1e-5)


def clamped_steps(compensate: bool, alpha: float, seeds: Sequence[int]) -> Iterator[tuple[torch.Tensor, ...]]:
    """After each of several updates that add up to too much: the total before it, the update, the total, and c."""
    tiny, name = tiny_model("llama"), "model.layers.1.mlp.down_proj.weight"
    weights = EditedWeights(tiny.model, layout_of(tiny.model))
    tiny.model.get_parameter(name).data *= 10
    original = tiny.model.get_parameter(name).data.double()
    limit, total = torch.linalg.svdvals(original)[0], torch.zeros_like(original)
    for seed in seeds:
        step = pair(*original.shape, rank=2, seed=seed)
        step = Factors(step.B * 0.7 * limit.float() / torch.linalg.svdvals(product(step))[0].float(), step.A)
        config = MethodConfig(method="memit", norm_clamp=alpha, compensate=compensate)
        before = total.clone()
        weights.apply({name: Restraint(weights, config)(name, step)})
        total = weights.sums[name]
        yield before, product(step), total, limit


def test_a_filter_clamps_every_batch_as_the_total_stands():
    """Batches that add up to too much: after each the total obeys F of what it would have been."""
    clamped = 0
    for before, step, total, limit in clamped_steps(compensate=False, alpha=3.0, seeds=[5] * 4):
        unclamped = torch.linalg.svdvals(before + step)
        expected = lowered(unclamped, float(limit), 3.0)
        torch.testing.assert_close(torch.linalg.svdvals(total), expected, atol=1e-4, rtol=0)
        clamped += int((expected < unclamped).sum())
    assert clamped >= 3


@pytest.mark.parametrize("alpha", [1.2, 3.0, 50.0])
@pytest.mark.parametrize("seeds", [[5] * 6, [5, 6, 5, 7, 5, 6, 8]], ids=["one direction", "several"])
def test_clamped_batches_come_to_what_one_clamp_of_their_sum_does(alpha, seeds):
    """As the published code clamps, which does it once, after the last edit."""
    wanted, clamped = 0, 0
    for _, step, total, limit in clamped_steps(compensate=True, alpha=alpha, seeds=seeds):
        wanted = wanted + step
        U, sigma, Vh = torch.linalg.svd(wanted, full_matrices=False)
        expected = lowered(sigma, float(limit), alpha)
        torch.testing.assert_close(total, U @ torch.diag(expected) @ Vh, atol=2e-5 * float(sigma[0]), rtol=0)
        clamped += int((expected < sigma).sum())
    assert clamped >= 3 or alpha < 1.3


def test_what_clamps_took_from_weights_that_no_clamp_made_is_not_without_end():
    delta, before = pair(M, D, rank=1, seed=1), 1e5 * random(M, D, seed=3)
    given = unclamped(delta, before, 1.0, 3.0)
    assert given is delta  # each is more than a clamp can have left
    assert product(unclamped(delta, before / 1e4, 1.0, 3.0)).isfinite().all()


# Protected directions.


@SHAPES
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_leading_directions_are_the_fewest_that_hold_the_share(shape, share):
    W = random(*shape, seed=7)
    U, sigma, Vh = torch.linalg.svd(W, full_matrices=False)
    energy = sigma.square() / sigma.square().sum()
    count = next(k for k in range(1, len(sigma) + 1) if energy[:k].sum() >= share)
    found = leading_directions(W, share)
    assert found.U_mk.shape[1] == found.V_dk.shape[1] == count
    assert found.largest == pytest.approx(float(sigma[0]), rel=1e-5)
    for mine, theirs in ((found.U_mk, U[:, :count]), (found.V_dk, Vh[:count].T)):
        torch.testing.assert_close(mine.double() @ mine.double().T, theirs @ theirs.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("side", ["keys", "both"])
def test_protection_is_the_dense_projection(side, strength):
    delta, W = pair(M, D, rank=3, seed=1), random(M, D, seed=7)
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    U, V = U[:, :2], Vh[:2].T
    left = torch.eye(M) - strength * U @ U.T if side == "both" else torch.eye(M, dtype=torch.float64)
    right = torch.eye(D) - strength * V @ V.T
    found = protect(delta, U.float() if side == "both" else None, V.float(), strength)
    torch.testing.assert_close(product(found), left @ product(delta) @ right, atol=1e-5, rtol=1e-5)
    assert found.A.shape == delta.A.shape and found.B.shape == delta.B.shape


# With every method.


@pytest.fixture(params=["tiny_llama_f64", "tiny_gpt2_f64"])
def tiny(request):
    return request.getfixturevalue(request.param)


def settled(tiny, method: str) -> MethodInput:
    given = tiny_input(tiny, method)
    return replace(given, weights=EditedWeights(tiny.model, given.layout))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("side", ["keys", "both"])
def test_no_method_writes_into_protected_directions(tiny, method, side):
    given = settled(tiny, method)
    config = quick(given, method, {"protect": 0.3, "protect_side": side})
    z_star = wanted(given)
    updates = [compute_update(given, EDITS, z_star, config).update]
    for update in updates + list(compute_independent_updates(given, EDITS, z_star, config)):
        for name, factors in update.items():
            spectrum, delta = base_spectrum(given.weights, name, 0.3), product(factors)
            assert delta.norm() > 0 and (delta @ spectrum.V_dk.double()).norm() < 1e-5 * delta.norm()
            if side == "both":
                assert (spectrum.U_mk.double().T @ delta).norm() < 1e-5 * delta.norm()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_clamp_lowers_what_any_method_wrote_as_the_paper_says(tiny, method):
    given = settled(tiny, method)
    config = quick(given, method, {"norm_clamp": 50.0})
    z_star = states(given) + 50 * random(*states(given).shape, seed=3).float()
    plain = compute_update(given, EDITS, z_star, quick(given, method)).update
    clamped = compute_update(given, EDITS, z_star, config).update
    name = given.layout.weight_name(given.layers[0])  # above it keys and residuals differ
    limit = float(torch.linalg.svdvals(given.weights.original(name).double())[0])
    before, after = (torch.linalg.svdvals(product(update[name])) for update in (plain, clamped))
    torch.testing.assert_close(after, lowered(before, limit, 50.0), atol=1e-4, rtol=1e-4)
    exceeding = int((lowered(before, limit, 50.0) < before).sum())
    assert clamped[name].A.shape[0] == plain[name].A.shape[0] + exceeding and (
        exceeding or not METHODS[method].searches
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_restrained_independent_updates_are_those_of_each_edit_alone(tiny, method):
    given = settled(tiny, method)
    spread = {"spread": "sqrt"} if "spread" in METHODS[method].config.model_fields else {}
    config = quick(given, method, {"protect": 0.3, "protect_strength": 0.6, "norm_clamp": 50.0, **spread})
    z_star = states(given) + 20 * random(*states(given).shape, seed=3).float()
    for i, together in enumerate(compute_independent_updates(given, EDITS, z_star, config)):
        alone = compute_update(given, EDITS[i : i + 1], z_star[i : i + 1], config).update
        for name, factors in together.items():
            expected = product(alone[name])
            torch.testing.assert_close(product(factors), expected, atol=2e-4 * float(expected.abs().max()), rtol=0)


def test_by_default_not_a_bit_differs(tiny):
    given, config = settled(tiny, "memit"), method_config("memit")
    wrapped = compute_update(given, EDITS, wanted(given), config)
    direct = memit_as_it_is(given, EDITS, wanted(given), config)
    assert wrapped.update.keys() == direct.update.keys() and not given.weights.spectra
    for name, factors in wrapped.update.items():
        assert torch.equal(factors.B, direct.update[name].B) and torch.equal(factors.A, direct.update[name].A)


def test_layers_above_make_up_for_what_was_held_back_below(tiny):
    """The loop sees restrained layers: the last one takes all that is left, as it does without restraints."""
    filtered = {"protect": 0.5, "statistics_weight": 1e-6, "compensate": False}
    given, strict = settled(tiny, "memit"), method_config("memit", filtered)
    z_star = wanted(given)
    update = compute_update(given, EDITS, z_star, strict).update
    first, last = (given.layout.weight_name(layer) for layer in given.layers)
    plain = compute_update(given, EDITS, z_star, method_config("memit", {"statistics_weight": 1e-6})).update
    assert float(update[last].B.norm()) > 1.01 * float(plain[last].B.norm())
    assert torch.equal(update[first].B, plain[first].B)


# What is kept out is made up for elsewhere.


def constrained(M: torch.Tensor, target: torch.Tensor, fixed: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """argmin tr(½ G M Gᵀ − G T) so that G F = A, by its multipliers in one dense system."""
    zeros = torch.zeros(fixed.shape[1], fixed.shape[1], dtype=M.dtype)
    whole = torch.cat([torch.cat([M, fixed], 1), torch.cat([fixed.T, zeros], 1)])
    return torch.linalg.solve(whole, torch.cat([target, values.T]))[: len(M)].T


K, V, STRENGTHS = random(D, 3, seed=1), torch.linalg.qr(random(D, 2, seed=4))[0], [1.0, 0.3]
C, H = (X @ X.T for X in (random(D, 3 * D, seed=2), random(D, 4, seed=3)))


def memit(strength: float) -> tuple[torch.Tensor, ...]:
    """What a method gives within its solve, what it gives without, and the same least squares solved another way."""
    M, plain = 0.5 * C + H + K @ K.T, memit_gain(C, H, K, 0.5)
    return spared_gain(M, K, V, strength), plain, constrained(M, K, V, (1 - strength) * plain @ V)


def alphaedit(strength: float) -> tuple[torch.Tensor, ...]:
    U = torch.linalg.eigh(C)[1]
    inside, outside = U[:, :8], U[:, 8:]
    plain = alphaedit_gain(inside, H, K, 2.0)
    M, fixed = H + K @ K.T + 2.0 * torch.eye(D, dtype=K.dtype), torch.cat([outside, V], 1)
    values = torch.cat([torch.zeros(3, 4, dtype=K.dtype), (1 - strength) * plain @ V], 1)
    return spared_alphaedit_gain(inside, H, K, 2.0, V, strength), plain, constrained(M, K, fixed, values)


def emmet(strength: float) -> tuple[torch.Tensor, ...]:
    plain, epsilon = emmet_gain(C, K, 0.1), 0.1 * (K.T @ torch.linalg.inv(C) @ K).diagonal().mean()
    wanted = constrained(epsilon * C + K @ K.T, K, V, (1 - strength) * plain @ V)
    return spared_emmet_gain(C, K, 0.1, V, strength), plain, wanted


def rome(strength: float) -> tuple[torch.Tensor, ...]:
    plain, one = rank_one_gains(C, K, K), torch.ones(1, 1, dtype=K.dtype)
    wanted = [
        constrained(C, torch.zeros_like(k), torch.cat([k, V], 1), torch.cat([one, (1 - strength) * g[None] @ V], 1))
        for k, g in zip(K.T[:, :, None], plain, strict=True)
    ]
    return spared_rank_one_gains(C, K, K, V, strength), plain, torch.cat(wanted)


def ultraedit(strength: float) -> tuple[torch.Tensor, ...]:
    G, config = random(3, M, seed=5), method_config("ultraedit", {"protect": 0.5, "protect_strength": strength})
    mean, deviation = torch.zeros(D + M, dtype=K.dtype), torch.ones(D + M, dtype=K.dtype)
    plain, found = (closed_form(K.T, G, mean, deviation, config, within).A.double() for within in (None, V))
    least = config.ridge * torch.eye(D, dtype=K.dtype) + K @ K.T
    return found, plain, constrained(least, K, V, (1 - strength) * plain @ V)


SOLVES = {"memit": memit, "alphaedit": alphaedit, "emmet": emmet, "rome": rome, "ultraedit": ultraedit}


def test_each_method_that_makes_up_is_among_those_that_are_solved_another_way():
    assert {name for name, method in METHODS.items() if method.config.makes_up} == SOLVES.keys()


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("method", SOLVES)
def test_of_all_gains_with_that_share_in_the_protected_directions_it_is_the_best(method, strength):
    """Against the same least squares with the constraint as one dense system; a filter is another one."""
    found, plain, wanted = SOLVES[method](strength)
    near = {"atol": 1e-6 * float(plain.abs().max()), "rtol": 0}
    torch.testing.assert_close(found @ V, (1 - strength) * plain @ V, **near)
    torch.testing.assert_close(found, wanted, **near)
    filtered = plain @ (torch.eye(D, dtype=K.dtype) - strength * V @ V.T)
    assert float((filtered - wanted).norm()) > 1e-2 * float(wanted.norm())


@pytest.mark.parametrize("strength", STRENGTHS)
def test_published_rome_still_answers_at_the_key_where_it_is_to(strength):
    at = K + 0.3 * random(D, 3, seed=6)
    found, plain = spared_rank_one_gains(C, K, at, V, strength), rank_one_gains(C, K, at)
    torch.testing.assert_close((found @ at).diagonal(), torch.ones(3, dtype=K.dtype))
    torch.testing.assert_close(found @ V, (1 - strength) * plain @ V)


def test_protection_that_leaves_nothing_of_a_null_space_is_refused():
    U = torch.linalg.eigh(C)[1][:, :2]
    with pytest.raises(SolveError, match="2 protected directions leave nothing of a null space of 2; lower protect"):
        spared_alphaedit_gain(U, H, K, 2.0, V, 1.0)


def test_directions_that_a_null_space_has_nothing_of_cost_it_nothing():
    U = torch.linalg.eigh(C)[1]
    found = spared_alphaedit_gain(U[:, :8], H, K, 2.0, U[:, 8:10].float(), 1.0)
    torch.testing.assert_close(found, alphaedit_gain(U[:, :8], H, K, 2.0))


WEAK = {"memit": {"statistics_weight": 1e-3}, "alphaedit": {"ridge": 1e-3}, "emmet": {}, "rome": {}}


@pytest.mark.parametrize("method", WEAK)
def test_facts_in_sequence_stand_nearer_to_their_values_than_behind_a_filter(tiny, method):
    """What is missing of all facts, the first ones included, once the last one is written."""
    weak = WEAK[method]
    kept_out, clamped, as_filter = weak | {"protect": 0.6}, weak | {"norm_clamp": 3.0}, {"compensate": False}
    given, missing = settled(tiny, method), {}
    base, z_star = states(given), wanted(given)
    for name, fields in {"plain": weak, "spared": kept_out, "filtered": kept_out | as_filter,
                         "clamped": clamped, "clamped each time": clamped | as_filter}.items():  # fmt: skip
        given = replace(given, history=KeyHistory())
        for i, edit in enumerate(EDITS):
            made = compute_update(given, [edit], z_star[i : i + 1], method_config(method, fields))
            given.weights.apply(made.update)
            given.history.add(made.keys)
        missing[name] = float(missing_shares(z_star, base, states(given)).mean())
        given.weights.to_base()
    assert missing["filtered"] > missing["plain"]
    assert missing["spared"] - missing["plain"] < 0.5 * (missing["filtered"] - missing["plain"])
    assert missing["plain"] < missing["clamped"] < missing["clamped each time"] - 0.02


def test_a_stored_line_that_filtered_goes_on_to_filter():
    stored = method_config("memit", {"protect": 0.5}).model_dump(mode="json")
    del stored["compensate"]
    assert not TypeAdapter(AnyConfig).validate_python(stored).compensate
    assert method_config("memit", {"protect": 0.5}).compensate
    clamped = method_config("finetune", {"norm_clamp": 2.0}).model_dump(mode="json")
    del clamped["compensate"]
    assert not TypeAdapter(AnyConfig).validate_python(clamped).compensate


def test_the_original_weight_decides_and_is_decomposed_once(tiny):
    given, config = settled(tiny, "memit"), method_config("memit", {"protect": 0.3})
    first = compute_update(given, EDITS[:2], wanted(given)[:2], config)
    kept = dict(given.weights.spectra)
    given.weights.apply(first.update)
    compute_update(given, EDITS[2:], wanted(given)[2:], config)
    assert given.weights.spectra.keys() == kept.keys()
    assert all(given.weights.spectra[key] is spectrum for key, spectrum in kept.items())


def test_bfloat16_weights_are_restrained_in_float32():
    tiny = tiny_model("llama", torch.bfloat16)
    given, config = settled(tiny, "memit"), method_config("memit", {"protect": 0.3, "norm_clamp": 2.0})
    z_star = wanted(given)
    update = compute_update(given, EDITS, z_star, config).update
    given.weights.apply(update)
    for name, factors in update.items():
        assert factors.B.dtype == factors.A.dtype == torch.float32
        V = torch.linalg.svd(given.weights.original(name).double())[2]
        count = base_spectrum(given.weights, name, 0.3).V_dk.shape[1]
        assert (product(factors) @ V[:count].T).norm() < 1e-4 * product(factors).norm()


def test_an_update_that_is_not_finite_is_refused_and_the_model_stays(tiny):
    given = settled(tiny, "memit")
    restrain = Restraint(given.weights, method_config("memit", {"norm_clamp": 2.0}))
    name = given.layout.weight_name(1)
    bad = pair(*given.layout.oriented(tiny.model.get_parameter(name)).shape, rank=2, seed=1)
    bad.B[0, 0] = math.nan
    with pytest.raises(SolveError, match=f"the update of {name} is not finite"):
        restrain(name, bad)
    assert not given.weights.sums


def test_a_restraint_without_the_original_weights_is_refused(tiny):
    given = tiny_input(tiny, "memit")
    with pytest.raises(
        UsageError,
        match="norm_clamp or protect needs the original weights; make the MethodInput with its EditedWeights",
    ):
        compute_update(given, EDITS, wanted(given), method_config("memit", {"protect": 0.3}))


@pytest.mark.parametrize("fields", [{"norm_clamp": 1.0}, {"protect": 1.0}, {"protect": 0}, {"protect_strength": 0}])
def test_values_that_mean_nothing_are_refused(fields):
    with pytest.raises(UsageError, match=next(iter(fields))):
        method_config("memit", fields)


def test_at_base_there_is_no_earlier_total(tiny):
    given = settled(tiny, "memit")
    given.weights.apply(compute_update(given, EDITS, wanted(given), method_config("memit")).update)
    sums = given.weights.sums
    with given.weights.at_base():
        assert given.weights.sums == {}
    assert given.weights.sums == sums and sums
