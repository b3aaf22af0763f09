"""How much of a fact's correction stands, and how full the weights are, against plain formulas."""

from dataclasses import replace

import pytest
import torch

from editing.groups import KeyNames
from editing.methods import compute_update
from editing.methods.standing import directions_used, missing_shares, relative_drift, subject_states
from editing.weights import EditedWeights
from tests.editing.test_methods import EDITS, states, strong, tiny_input, wanted


@pytest.fixture(params=["tiny_llama_f64", "tiny_gpt2_f64"])
def tiny(request):
    return request.getfixturevalue(request.param)


def test_all_is_missing_on_the_base_and_what_was_written_no_more(tiny):
    given, z_star = tiny_input(tiny, "memit"), None
    z_star, keys = wanted(given), KeyNames(tiny.tokenizer, given.prefixes)
    base = subject_states(given, keys, EDITS)
    torch.testing.assert_close(base, states(given), atol=1e-5, rtol=1e-5)
    twice = subject_states(given, keys, [*EDITS, EDITS[0]])
    assert torch.equal(twice[0], twice[3]) and len(twice) == 4
    torch.testing.assert_close(missing_shares(z_star, base, base), torch.ones(len(EDITS)))
    weights = EditedWeights(tiny.model, given.layout)
    weights.apply(compute_update(given, EDITS, z_star, strong("memit")).update)
    missing = missing_shares(z_star, base, subject_states(given, keys, EDITS))
    assert missing.max() < 0.9 and missing.min() >= 0
    assert subject_states(given, keys, []).shape == (0, 32)


def test_drift_and_directions_are_what_the_formulas_say(tiny):
    given = tiny_input(tiny, "memit")
    weights, layer = EditedWeights(tiny.model, given.layout), given.layers[0]
    assert relative_drift(given, weights, layer) == 0
    W = given.layout.oriented(tiny.model.get_parameter(given.layout.weight_name(layer))).double().clone()
    made = compute_update(given, EDITS, wanted(given), strong("memit"))
    weights.apply(made.update)
    given.history.add(made.keys)
    pair, C = made.update[given.layout.weight_name(layer)], given.second_moment(layer)
    delta = pair.B.double() @ pair.A.double()
    expected = (delta @ C @ delta.T).trace() / (W @ C @ W.T).trace()
    assert relative_drift(given, weights, layer) == pytest.approx(float(expected), rel=1e-6)
    weights.settle(made.update)  # finished tensors are as far from the base
    assert relative_drift(given, weights, layer) == pytest.approx(float(expected), rel=1e-6)
    more = {n: C + 0.1 * torch.eye(len(C)) for n, C in given.statistics.moments.items()}
    ample = replace(given.statistics, moments=more)
    given = replace(given, statistics=ample)
    H, M = given.earlier_keys(layer), 5.0 * given.second_moment(layer)
    used = float((H @ torch.linalg.inv(M + H)).trace())
    assert directions_used(given, layer, 5.0) == pytest.approx(used, rel=1e-6) and 0 < used < len(EDITS)
