"""Updates are applied exactly, taken back bit for bit, and overlaid without touching a tensor."""

import pytest
import torch

from editing.digests import tensor_digest
from editing.errors import EditingError, SolveError
from editing.layout import layout_of
from editing.weights import EditedWeights, Factors, concatenate, overlay


def update_for(model, seed=0, rank=3, layers=(1, 2)):
    layout, generator = layout_of(model), torch.Generator().manual_seed(seed)
    made = {}
    for layer in layers:
        m, d = layout.oriented(model.get_parameter(layout.weight_name(layer))).shape
        B = torch.randn(m, rank, generator=generator) * 0.1
        made[layout.weight_name(layer)] = Factors(B, torch.randn(rank, d, generator=generator) * 0.1)
    return made


def all_digests(model):
    return {name: tensor_digest(tensor) for name, tensor in model.state_dict().items()}


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def tiny(request):
    return request.getfixturevalue(request.param)


IDS = torch.tensor([[5, 6, 7, 8], [9, 3, 2, 4]])


def test_apply_adds_the_product_in_the_stored_orientation(tiny):
    model, layout = tiny.model, layout_of(tiny.model)
    update = update_for(model)
    before = {name: model.get_parameter(name).clone() for name in update}
    EditedWeights(model, layout).apply(update)
    for name, pair in update.items():
        expected = layout.oriented(before[name]).double() + pair.B.double() @ pair.A.double()
        torch.testing.assert_close(layout.oriented(model.get_parameter(name)).double(), expected, atol=1e-6, rtol=0)


def test_revert_is_bit_exact_after_any_sequence(tiny):
    weights = EditedWeights(tiny.model, layout_of(tiny.model))
    states = [all_digests(tiny.model)]
    undos = []
    for seed in range(4):
        undos.append(weights.apply(update_for(tiny.model, seed, layers=(1,) if seed == 2 else (1, 2))))
        states.append(all_digests(tiny.model))
    assert len({tuple(sorted(state.items())) for state in states}) == 5
    for undo, state in zip(reversed(undos), reversed(states[:-1]), strict=True):
        weights.revert(undo)
        assert all_digests(tiny.model) == state


def test_an_undone_batch_leaves_no_trace_in_what_follows(tiny):
    weights = EditedWeights(tiny.model, layout_of(tiny.model))
    start = weights.apply(update_for(tiny.model, 0))
    weights.apply(update_for(tiny.model, 1))
    expected = all_digests(tiny.model)
    weights.revert(start)
    weights.apply(update_for(tiny.model, 0))
    weights.revert(weights.apply(update_for(tiny.model, 7)))
    weights.apply(update_for(tiny.model, 1))
    assert all_digests(tiny.model) == expected


def test_one_concatenated_update_gives_the_bits_of_its_parts(tiny):
    parts = [update_for(tiny.model, seed) for seed in range(3)]
    weights = EditedWeights(tiny.model, layout_of(tiny.model))
    undo = weights.apply(parts[0])
    for part in parts[1:]:
        weights.apply(part)
    expected = weights.digests()
    weights.revert(undo)
    weights.apply(concatenate(parts))
    assert weights.digests() == expected


def test_many_small_updates_of_bfloat16_weights_are_not_lost(tiny_llama):
    model = tiny_llama.model.to(torch.bfloat16)
    name = "model.layers.1.mlp.down_proj.weight"
    m, d = model.get_parameter(name).shape
    weights, before = EditedWeights(model, layout_of(model)), model.get_parameter(name).double()
    for _ in range(100):
        weights.apply({name: Factors(torch.full((m, 1), 1e-4), torch.ones(1, d))})
    gained = (model.get_parameter(name).double() - before).mean()
    assert abs(gained - 1e-2) < 5e-4


def test_at_base_runs_the_base_and_comes_back(tiny):
    base = tiny.model(input_ids=IDS).logits
    weights = EditedWeights(tiny.model, layout_of(tiny.model))
    weights.apply(update_for(tiny.model))
    edited = tiny.model(input_ids=IDS).logits
    with weights.at_base():
        assert torch.equal(tiny.model(input_ids=IDS).logits, base)
    assert torch.equal(tiny.model(input_ids=IDS).logits, edited) and not torch.equal(edited, base)


def test_an_overlay_gives_what_applying_gives_and_touches_nothing(tiny):
    layout, update = layout_of(tiny.model), update_for(tiny.model)
    before = all_digests(tiny.model)
    with overlay(tiny.model, layout, update):
        overlaid = tiny.model(input_ids=IDS).logits
        assert all_digests(tiny.model) == before
    EditedWeights(tiny.model, layout).apply(update)
    torch.testing.assert_close(tiny.model(input_ids=IDS).logits, overlaid, atol=1e-5, rtol=1e-4)


def test_each_row_of_an_overlay_sees_its_own_update_only(tiny):
    layout = layout_of(tiny.model)
    updates = [update_for(tiny.model, 1, rank=2), update_for(tiny.model, 2, rank=4, layers=(2,))]
    with overlay(tiny.model, layout, updates):
        together = tiny.model(input_ids=IDS).logits
    for row, update in enumerate(updates):
        with overlay(tiny.model, layout, update):
            alone = tiny.model(input_ids=IDS[row : row + 1]).logits
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_non_finite_update_is_refused_and_nothing_is_written(tiny):
    before, update = all_digests(tiny.model), update_for(tiny.model)
    last = list(update)[-1]
    update[last].A[0, 0] = float("nan")
    with pytest.raises(SolveError, match="is not finite"):
        EditedWeights(tiny.model, layout_of(tiny.model)).apply(update)
    assert all_digests(tiny.model) == before


def test_a_state_of_the_weights_has_one_number_whenever_they_are_in_it(tiny):
    weights = EditedWeights(tiny.model, layout_of(tiny.model))
    first = weights.apply(update_for(tiny.model, 0))
    one = weights.state
    second = weights.apply(update_for(tiny.model, 1))
    two = weights.state
    assert len({0, one, two}) == 3
    with weights.at_base():
        assert weights.state == 0
    assert weights.state == two
    weights.revert(second)
    assert weights.state == one
    weights.apply(update_for(tiny.model, 2))
    assert weights.state not in (0, one, two)
    weights.revert(first)
    assert weights.state == 0


def test_finished_tensors_are_what_later_updates_are_added_to(tiny):
    """Written as tensors or as factors, the same facts are the same weights, and the base comes back bit for bit."""
    model, weights = tiny.model, EditedWeights(tiny.model, layout_of(tiny.model))
    base = all_digests(model)
    weights.apply(update_for(model, 0))
    weights.settle(update_for(model, 0))
    finished, first = {name: model.get_parameter(name).clone() for name in weights.base}, all_digests(model)
    weights.apply(update_for(model, 1))
    both = all_digests(model)
    change = {name: weights.change(name) for name in weights.base}
    undo = weights.to_base()
    assert all_digests(model) == base and not weights.floor and not weights.sums
    assert all(weights.change(name) is None for name in weights.base)
    weights.put(finished)
    assert all_digests(model) == first
    weights.apply(update_for(model, 1))
    assert all_digests(model) == both
    for name, then in change.items():
        oriented = weights.layout.oriented
        apart = oriented(model.get_parameter(name).double()) - oriented(weights.original(name).double())
        assert torch.equal(weights.change(name), then)
        torch.testing.assert_close(then, apart, atol=1e-6, rtol=0)
    with weights.at_base():
        assert all_digests(model) == base
    assert all_digests(model) == both
    weights.to_base()
    weights.revert(undo)
    assert all_digests(model) == both and weights.floor


def test_tensors_that_do_not_fit_are_refused_before_any_is_written(tiny):
    weights, names = EditedWeights(tiny.model, layout_of(tiny.model)), list(update_for(tiny.model))
    before, good = all_digests(tiny.model), tiny.model.get_parameter(names[0]) + 1
    for bad in (good[:1], good.bfloat16(), good * float("nan")):
        with pytest.raises(EditingError, match=rf"the tensor of {names[1]} does not fit the model or is not finite"):
            weights.put({names[0]: good, names[1]: bad})
        assert all_digests(tiny.model) == before
