"""Laws of how much of its update an edit takes: the smallest share that is enough, for each edit by itself."""

import math
from dataclasses import replace

import pytest
import torch

from editing.measure.scoring import score
from editing.methods.gradients.features import token_gradients
from editing.methods.gradients.lower_states import lower_states
from editing.methods.gradients.targets import encode_targets
from editing.methods.mend.combine import combine
from editing.methods.mend.method import update_together, updates_of
from editing.methods.mend.shares import SHARES, scaled, shares_needed
from tests.conftest import tiny_model
from tests.editing.test_methods import EDITS
from tests.hypernetworks import untrained

LAYERS = (2, 3)
CASES = [("llama", 5.0), ("llama", 20.0), ("llama", 40.0), ("gpt2", 0.1), ("gpt2", 0.2), ("gpt2", 1.0)]
SAID = 1e-3
"""Less than what the target has in these models as soon as it is the most probable."""


def made(tiny, step_size: float):
    """Steps along the plain gradient, large enough that a part of them is enough for some edits."""
    network = untrained(tiny.model, tiny.digest, LAYERS, step_size=step_size, ridge=0.1)
    return network, updates_of(network, tiny.model, tiny.tokenizer, EDITS, None)


def plain_share(tiny, edit, update, confidence: float) -> float:
    """Share by share, each in a pass of its own."""
    found = {}
    for share in SHARES:
        [one] = score(tiny.model, tiny.tokenizer, [(edit.text, edit.target_new)], updates=[scaled(update, share)])
        found[share] = one
    enough = [share for share in SHARES if found[share].argmax and found[share].mean_logprob >= math.log(confidence)]
    return enough[0] if enough else 1.0


@pytest.mark.parametrize(("kind", "step_size"), CASES)
@pytest.mark.parametrize("confidence", [SAID, 0.005, 0.5])
@pytest.mark.parametrize("below", [False, True])
def test_it_is_the_smallest_that_is_enough_or_else_all_of_it(kind, step_size, below, confidence):
    tiny = tiny_model(kind, torch.float64)
    _, updates = made(tiny, step_size)
    states = lower_states(tiny.model, LAYERS[0]) if below else None
    found = shares_needed(tiny.model, tiny.tokenizer, EDITS, updates, confidence, states)
    assert found == [plain_share(tiny, *pair, confidence) for pair in zip(EDITS, updates, strict=True)]


def test_the_cases_have_small_shares_and_large_ones():
    found = set()
    for kind, step_size in CASES:
        tiny = tiny_model(kind, torch.float64)
        found |= set(shares_needed(tiny.model, tiny.tokenizer, EDITS, made(tiny, step_size)[1], SAID))
    assert found == {*SHARES, 1.0}


@pytest.mark.parametrize(("kind", "step_size"), [("llama", 20.0), ("gpt2", 0.1)])
def test_updates_alone_take_their_shares_and_those_of_a_batch_are_whole(kind, step_size):
    tiny = tiny_model(kind, torch.float64)
    network, updates = made(tiny, step_size)
    shares = shares_needed(tiny.model, tiny.tokenizer, EDITS, updates, SAID)
    assert len(set(shares)) > 1
    wanted = [scaled(update, share) for update, share in zip(updates, shares, strict=True)]
    found = updates_of(network, tiny.model, tiny.tokenizer, EDITS, SAID)
    modules = {name: tiny.model.get_submodule(name.removesuffix(".weight")) for name in network.spec.shapes}
    targets = encode_targets(tiny.model, tiny.tokenizer, EDITS).summed()
    gradients = token_gradients(tiny.model, modules, replace(targets, below=lower_states(tiny.model, LAYERS[0])))
    together = update_together(network, tiny.model, tiny.tokenizer, EDITS, SAID)
    of_one = update_together(network, tiny.model, tiny.tokenizer, EDITS[:1], SAID)
    for one, other in [
        *zip(found, wanted, strict=True),
        (together, combine(updates, gradients, 0.1)),
        (of_one, wanted[0]),
    ]:
        for name, factors in one.items():
            delta, expected = factors.B @ factors.A, other[name].B @ other[name].A
            torch.testing.assert_close(delta, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
