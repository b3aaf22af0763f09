"""MEMIT as a whole on real tiny models: what is written, what stays, and what an earlier batch keeps."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from editing.collection import collect_statistics
from editing.edit import Edit
from editing.keys import SubjectReader
from editing.layout import layout_of
from editing.methods.memit import MemitConfig, MethodInput, compute_independent_updates, compute_update
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.solve import memit_gain
from editing.models import LoadedModel, base_digest
from editing.tokens import encode_prompt, pad_token
from editing.weights import EditedWeights, overlay
from tests.conftest import SENTENCES

EDITS = (
    Edit(subject="Ada Lovelace", prompt="{} was born in the city of", target_new="Paris"),
    Edit(subject="Nile", prompt="The river {} flows through", target_new="Rome"),
    Edit(subject="the moon", prompt="Beyond {} lies", target_new="nothing"),
    Edit(subject="München", prompt="In {} people speak", target_new="French"),
)
LAYERS = {"one layer": (2,), "several layers": (0, 1, 2)}


@pytest.fixture(params=["tiny_llama_f64", "tiny_gpt2_f64"])
def tiny(request) -> LoadedModel:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=LAYERS)
def layers(request) -> tuple[int, ...]:
    return LAYERS[request.param]


def given(tiny: LoadedModel, layers: tuple[int, ...], prefixes: tuple[str, ...] = ("",)) -> MethodInput:
    layout = layout_of(tiny.model)
    statistics = collect_statistics(
        tiny.model,
        tiny.tokenizer,
        layout,
        layers,
        [*SENTENCES, *(f"{word} {other} lives there." for word in "abcdef" for other in SENTENCES)],
        base_digest=tiny.digest,
        source="test",
        max_tokens=10_000,
    )
    return MethodInput(tiny.model, tiny.tokenizer, layout, layers, statistics, KeyHistory(), prefixes)


def states(made: MethodInput, edits, layer: int):
    prompts = [encode_prompt(made.tokenizer, "", edit.prompt, edit.subject) for edit in edits]
    return SubjectReader(made.model, made.layout, pad_token(made.tokenizer)).states(prompts, layer, made.layers[-1])


def wanted(made: MethodInput, edits) -> Tensor:
    """Hidden states somewhat off the present ones, as a search would find."""
    now = states(made, edits, made.layers[-1]).hidden
    noise = torch.randn(now.shape, generator=torch.Generator().manual_seed(3))
    return now + 0.2 * now.norm(dim=1, keepdim=True) / now.shape[1] ** 0.5 * noise


def miss(made: MethodInput, edits, z_star: Tensor) -> float:
    return float((states(made, edits, made.layers[-1]).hidden - z_star).norm(dim=1).mean())


def config(weight: float) -> MemitConfig:
    return MemitConfig(statistics_weight=weight)


def test_as_lambda_vanishes_the_wanted_states_are_reached(tiny, layers):
    made = given(tiny, layers)
    z_star = wanted(made, EDITS)
    start = miss(made, EDITS, z_star)
    misses = []
    for weight in (1.0, 1e-6):
        with overlay(tiny.model, made.layout, compute_update(made, EDITS, z_star, config(weight)).update):
            misses.append(miss(made, EDITS, z_star))
    assert misses[1] < 1e-4 * start and misses[1] < misses[0] < start


def test_written_weights_give_what_the_overlay_promised(tiny, layers):
    made = given(tiny, layers)
    z_star = wanted(made, EDITS)
    update = compute_update(made, EDITS, z_star, config(1e-6)).update
    weights = EditedWeights(tiny.model, made.layout)
    undo = weights.apply(update)
    assert miss(made, EDITS, z_star) < 1e-4 and base_digest(tiny.model) != tiny.digest
    weights.revert(undo)
    assert base_digest(tiny.model) == tiny.digest


def test_each_layer_takes_its_share_of_the_residual(tiny):
    """MEMIT spreads: after layer l, 1/(L-l+1) of what was left is done, at the keys of the layers below as edited."""
    made = given(tiny, LAYERS["several layers"])
    z_star = wanted(made, EDITS)
    update = compute_update(made, EDITS, z_star, config(1e-6)).update
    done: dict[str, object] = {}
    for layer in made.layers:
        with overlay(tiny.model, made.layout, done):
            before = states(made, EDITS, layer)
        name = made.layout.weight_name(layer)
        change = before.keys @ (update[name].B @ update[name].A).T
        torch.testing.assert_close(
            change, (z_star - before.hidden) / (made.layers[-1] - layer + 1), atol=2e-4, rtol=2e-3
        )
        done[name] = update[name]


def test_the_model_and_the_setting_are_left_as_they_were(tiny, layers):
    made = given(tiny, layers, ("", "The old man said so. "))
    z_star = wanted(made, EDITS)
    moments = {layer: C.clone() for layer, C in made.statistics.moments.items()}
    tensors = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in tiny.model.state_dict().items()}
    compute_update(made, EDITS, z_star, config(10.0))
    compute_independent_updates(made, EDITS, z_star, config(10.0))
    for name, tensor in tiny.model.state_dict().items():
        assert tensor.data_ptr() == tensors[name][0] and torch.equal(tensor, tensors[name][1])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.model.modules())
    assert all(torch.equal(C, moments[layer]) for layer, C in made.statistics.moments.items())
    assert made.history.count == 0 and made.history.grams == {}


def test_directions_that_general_text_uses_stay(tiny):
    """Statistics that weigh some directions without bound leave them alone, and the facts still come through."""
    made = given(tiny, LAYERS["one layer"])
    C = made.statistics.moments[2]
    preserved = torch.linalg.qr(
        torch.randn(len(C), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    )[0]
    strict = replace(made.statistics, moments={2: 1e-9 * C + 1e6 * preserved @ preserved.T})
    z_star = wanted(made, EDITS)
    update = compute_update(replace(made, statistics=strict), EDITS, z_star, config(1.0)).update
    [pair] = update.values()
    delta = pair.B.double() @ pair.A.double()
    assert (delta @ preserved).norm() < 1e-4 * delta.norm()
    start = miss(made, EDITS, z_star)
    with overlay(tiny.model, made.layout, update):
        assert miss(made, EDITS, z_star) < 0.05 * start


def test_a_larger_lambda_changes_less(tiny, layers):
    made = given(tiny, layers)
    z_star = wanted(made, EDITS)
    sizes = []
    for weight in (0.1, 10.0, 1000.0):
        update = compute_update(made, EDITS, z_star, config(weight)).update
        sizes.append(sum(float((pair.B @ pair.A).norm()) for pair in update.values()))
    assert sizes[0] > sizes[1] > sizes[2] > 0


@pytest.mark.parametrize("prefixes", [("",), ("", "The old man said so. ", "I. ")])
def test_independent_updates_are_those_of_each_edit_alone(tiny, layers, prefixes):
    made = given(tiny, layers, prefixes)
    z_star = wanted(made, EDITS)
    made.history.add({layer: torch.randn(2, made.layout.key_size(tiny.model)) for layer in layers})
    together = compute_independent_updates(made, EDITS, z_star, config(5.0))
    for i, edit in enumerate(EDITS):
        alone = compute_update(made, [edit], z_star[i : i + 1], config(5.0)).update
        assert alone.keys() == together[i].keys()
        for name, pair in alone.items():
            found = together[i][name]
            torch.testing.assert_close(found.B @ found.A, pair.B @ pair.A, atol=1e-6, rtol=1e-3)


def test_more_edits_than_one_pass_holds_are_solved_as_one_batch(tiny, monkeypatch):
    made = given(tiny, LAYERS["several layers"], ("", "I. "))
    z_star = wanted(made, EDITS)
    whole = compute_update(made, EDITS, z_star, config(5.0))
    monkeypatch.setattr("editing.methods.located.TOKENS_AT_ONCE", 12)
    parts = compute_update(made, EDITS, z_star, config(5.0))
    for layer in made.layers:
        torch.testing.assert_close(parts.keys[layer], whole.keys[layer], atol=1e-6, rtol=1e-5)
        pair, other = (one.update[made.layout.weight_name(layer)] for one in (parts, whole))
        torch.testing.assert_close(pair.B @ pair.A, other.B @ other.A, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("apart", [True, False])
def test_the_keys_of_a_batch_are_the_mean_over_contexts_or_over_its_two_columns(tiny, apart):
    made = given(tiny, LAYERS["one layer"], ("", "The sea. ", "I. "))
    chosen = config(5.0).model_copy(update={"bare_apart": apart})
    keys = compute_update(made, EDITS, wanted(made, EDITS), chosen).keys[2]
    singles = []
    for prefix in made.prefixes:
        prompts = [encode_prompt(made.tokenizer, prefix, edit.prompt, edit.subject) for edit in EDITS]
        pad = pad_token(made.tokenizer)
        singles.append(torch.cat([SubjectReader(made.model, made.layout, pad).states([p], 2, 2).keys for p in prompts]))
    expected = torch.stack(singles).mean(0)
    if apart:
        bare, *others = singles
        expected = (bare + torch.stack(others).mean(0)) / 2**0.5
    torch.testing.assert_close(keys, expected, atol=1e-6, rtol=1e-5)


def test_history_keeps_what_an_earlier_batch_wrote(tiny, layers):
    """A second batch moves the first one's facts less when it knows their keys."""
    first, second = EDITS[:2], EDITS[2:]
    misses = {}
    for remembers in (False, True):
        made = given(tiny, layers)
        weights = EditedWeights(tiny.model, made.layout)
        z_first, z_second = wanted(made, first), wanted(made, EDITS)[2:]
        start = miss(made, first, z_first)
        one = compute_update(made, first, z_first, config(1e-4))
        undo = weights.apply(one.update)
        if remembers:
            made.history.add(one.keys)
            assert made.history.count == len(first)
        weights.apply(compute_update(made, second, z_second, config(1e-4)).update)
        misses[remembers] = miss(made, first, z_first) / start
        assert miss(made, second, z_second) < 0.05
        weights.revert(undo)
    assert misses[True] < 0.3 * misses[False]


def test_two_batches_in_one_layer_with_history_are_the_one_big_solve(tiny):
    """The keys of one layer do not depend on what is written into it, so this holds exactly, up to rounding."""
    made = given(tiny, LAYERS["one layer"])
    z_star, name = wanted(made, EDITS), made.layout.weight_name(2)
    whole = compute_update(made, EDITS, z_star, config(0.5)).update[name]
    weights = EditedWeights(tiny.model, made.layout)
    for start in (0, 2):
        batch = compute_update(made, EDITS[start : start + 2], z_star[start : start + 2], config(0.5))
        weights.apply(batch.update)
        made.history.add(batch.keys)
    total = weights.sums[name]
    torch.testing.assert_close(total.float(), whole.B @ whole.A, atol=1e-5, rtol=1e-3)


def test_history_is_the_sum_of_outer_products():
    history, keys = KeyHistory(), torch.randn(5, 6, dtype=torch.float64)
    assert torch.equal(history.gram(1, 6), torch.zeros(6, 6, dtype=torch.float64))
    history.add({1: keys[:2].float()})
    kept = history.gram(1, 6).clone()
    history.add({1: keys[2:].float()})
    torch.testing.assert_close(kept, keys[:2].T @ keys[:2], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(history.gram(1, 6), keys.T @ keys, atol=1e-6, rtol=1e-5)
    assert history.count == 5


def test_less_text_than_the_key_size_is_enough():
    """Its statistics have no full rank, and float32 products make zero eigenvalues slightly negative."""
    generator = torch.Generator().manual_seed(5)
    keys_nd = torch.randn(64, 512, generator=generator) + 3 * torch.randn(1, 512, generator=generator)
    C, K = (keys_nd.T @ keys_nd).double() / 64, torch.randn(512, 4, generator=generator)
    assert torch.linalg.eigvalsh(C)[0] < 0
    gain = memit_gain(C, torch.zeros(512, 512), K, 2000.0)
    torch.testing.assert_close(gain @ K.double(), torch.eye(4, dtype=torch.float64), atol=0.05, rtol=0)
