"""The fast value search against the published loop, written plainly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from editing.config import ValueSearchConfig
from editing.edit import Edit
from editing.errors import SearchError
from editing.layout import layout_of
from editing.models import load_model
from editing.search.descent import Normalised
from editing.search.rows import SearchRow, grouped
from editing.search.values import search_values
from editing.tokens import encode_in_context
from tests.fact_model import fact_edits
from tests.families import tiny_family
from tests.reference import plain_search

LAYER = 1
CONFIG = ValueSearchConfig(
    steps=6, stop_loss=0.0, learning_rate=0.1, optimiser="adam", edits_at_once=10, products="weights"
)
PREFIXES = ("", "The old man said so. ", "I. ")
EDITS = (
    Edit(subject="Ada Lovelace", prompt="{} was born in the city of", target_new="Rome"),
    Edit(subject="Nile", prompt="The river {} flows through", target_new="a very long canyon"),
    Edit(subject="x", prompt="{}", target_new="y"),
    Edit(subject="the moon", prompt="Beyond the moon and {} lies, they say,", target_new="nothing"),
)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("stop_loss", [0.0, 5.75])
def test_batched_search_equals_the_plain_loop(architecture, stop_loss, request):
    tiny = request.getfixturevalue(architecture)
    config = CONFIG.model_copy(update={"stop_loss": stop_loss})
    found = search_values(tiny.model, tiny.tokenizer, layout_of(tiny.model), EDITS, LAYER, config, PREFIXES)
    for edit, value in zip(EDITS, found, strict=True):
        expected = plain_search(tiny.model, tiny.tokenizer, edit, LAYER, config, PREFIXES)
        torch.testing.assert_close(value.z_star, expected, atol=1e-4, rtol=1e-4)


def test_an_edit_alone_and_in_a_batch_finds_the_same_value(tiny_llama):
    layout = layout_of(tiny_llama.model)
    together = search_values(tiny_llama.model, tiny_llama.tokenizer, layout, EDITS, LAYER, CONFIG, PREFIXES)
    for edit, value in zip(EDITS, together, strict=True):
        [alone] = search_values(tiny_llama.model, tiny_llama.tokenizer, layout, [edit], LAYER, CONFIG, PREFIXES)
        torch.testing.assert_close(alone.z_star, value.z_star, atol=1e-5, rtol=1e-5)


def test_the_search_lowers_the_loss_and_leaves_the_model_alone(tiny_gpt2):
    before = {name: tensor.clone() for name, tensor in tiny_gpt2.model.state_dict().items()}
    layout, gentle = layout_of(tiny_gpt2.model), CONFIG.model_copy(update={"learning_rate": 0.01, "weight_decay": 0.0})
    found = search_values(tiny_gpt2.model, tiny_gpt2.tokenizer, layout, EDITS, LAYER, gentle, PREFIXES)
    assert all(value.loss < value.loss_before for value in found)
    after = tiny_gpt2.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_delta_never_leaves_the_clamp(tiny_llama):
    config = CONFIG.model_copy(update={"clamp": 0.05, "learning_rate": 1.0})
    layout = layout_of(tiny_llama.model)
    free = CONFIG.model_copy(update={"steps": 1})
    start = search_values(tiny_llama.model, tiny_llama.tokenizer, layout, EDITS, LAYER, free, PREFIXES)
    found = search_values(tiny_llama.model, tiny_llama.tokenizer, layout, EDITS, LAYER, config, PREFIXES)
    for origin, value in zip(start, found, strict=True):
        assert (value.z_star - origin.z_star).norm() <= 0.05 * origin.z_star.norm() * (1 + 1e-5)


def test_where_a_norm_follows_delta_is_what_the_layer_can_write_through_it():
    tiny, clamp = tiny_family("gemma3"), 0.05
    layout, free = layout_of(tiny.model), CONFIG.model_copy(update={"steps": 1})
    gain = layout.gain_after(tiny.model, LAYER)
    config = CONFIG.model_copy(update={"clamp": clamp, "learning_rate": 1.0})
    start = search_values(tiny.model, tiny.tokenizer, layout, EDITS[:2], LAYER, free, PREFIXES)
    found = search_values(tiny.model, tiny.tokenizer, layout, EDITS[:2], LAYER, config, PREFIXES)
    for origin, value in zip(start, found, strict=True):
        written = (value.z_star - origin.z_star) / gain
        torch.testing.assert_close(written.norm(), clamp * torch.tensor(float(len(gain))).sqrt(), rtol=1e-4, atol=1e-4)


def test_nothing_is_written_there_at_coordinates_that_are_massive_whatever_the_text():
    tiny = tiny_family("gemma3")
    layout, free = layout_of(tiny.model), CONFIG.model_copy(update={"steps": 1})
    tiny.model.get_input_embeddings().weight[:, 3] = 500.0
    start = search_values(tiny.model, tiny.tokenizer, layout, EDITS[:2], LAYER, free, PREFIXES)
    found = search_values(tiny.model, tiny.tokenizer, layout, EDITS[:2], LAYER, CONFIG, PREFIXES)
    for origin, value in zip(start, found, strict=True):
        moved = (value.z_star - origin.z_star).abs()
        assert moved[3] == 0 and (moved[[*range(3), *range(4, len(moved))]] > 0).all()


@pytest.mark.parametrize("prefixes", [PREFIXES, ("",)])
def test_a_subject_that_stands_where_texts_begin_has_no_longer_value_than_elsewhere(tiny_gpt2, prefixes):
    """Later tokens attend to what is massive there; a share of its length would be many times what others have."""
    layout, edit, clamp = layout_of(tiny_gpt2.model), EDITS[0], 0.1
    free, config = (CONFIG.model_copy(update=with_) for with_ in ({"steps": 1}, {"clamp": clamp, "learning_rate": 9.0}))

    def z_star(config: ValueSearchConfig, prefix: str = "") -> Tensor:
        """The value; after one step, which is δ = 0, where the subject stands behind this text."""
        asked = edit.model_copy(update={"prompt": prefix + edit.prompt})
        [found] = search_values(tiny_gpt2.model, tiny_gpt2.tokenizer, layout, [asked], LAYER, config, prefixes)
        return found.z_star

    usual = (z_star(config) - z_star(free)).norm()
    index = encode_in_context(tiny_gpt2.tokenizer, ("",), 0, edit.prompt, edit.subject).subject_index
    tiny_gpt2.model.transformer.wpe.weight.data[index, 3] += 5000.0
    moved = z_star(config) - (start := z_star(free))
    others = torch.cat([start[:3], start[4:]]).norm()
    elsewhere = [z_star(free, prefix).norm() for prefix in prefixes[1:]]
    assert start[3] > 4000 and moved[3] == 0
    torch.testing.assert_close(moved.norm(), clamp * min([others, *elsewhere]), rtol=1e-3, atol=0)
    assert moved.norm() < 3 * usual


def test_a_search_that_becomes_non_finite_names_the_edit(tiny_llama):
    layout = layout_of(tiny_llama.model)
    tiny_llama.model.get_parameter(layout.weight_name(3))[0, 0] = float("nan")
    with pytest.raises(SearchError, match=f"{EDITS[0].id}.*became nan at step 1; lower search.learning_rate"):
        search_values(tiny_llama.model, tiny_llama.tokenizer, layout, EDITS[:1], LAYER, CONFIG, PREFIXES)


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_gpt2"])
def test_normalised_steps_end_lower_than_adams(architecture, request):
    tiny = request.getfixturevalue(architecture)
    losses = {}
    for optimiser in ("normalised", "adam"):
        config = ValueSearchConfig(steps=8, stop_loss=0.0, products="weights", optimiser=optimiser)
        found = search_values(tiny.model, tiny.tokenizer, layout_of(tiny.model), EDITS, LAYER, config, PREFIXES)
        losses[optimiser] = [value.loss for value in found]
    assert all(ours <= value.loss_before for ours, value in zip(losses["normalised"], found, strict=True))
    assert sum(losses["normalised"]) < sum(losses["adam"])


def test_normalised_steps_do_not_depend_on_the_scale_of_the_loss():
    gradient = torch.randn(2, 8)
    once, scaled = torch.zeros(2, 8), torch.zeros(2, 8)
    for factor, delta in ((1.0, once), (1000.0, scaled)):
        descent = Normalised(delta, torch.tensor([0.5, 2.0]), torch.ones(2))
        descent.step(1, torch.arange(2), factor * gradient)
        torch.testing.assert_close(delta.norm(dim=1), torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(once, scaled)


def test_steps_of_a_value_that_more_facts_share_shorten_more_slowly():
    delta = torch.zeros(2, 8)
    descent = Normalised(delta, torch.ones(2), torch.tensor([1.0, 2.0]))
    for number in (1, 2, 3):
        descent.step(number, torch.arange(2), torch.ones(2, 8))
    torch.testing.assert_close(delta.norm(dim=1), torch.tensor([1 + 0.9 + 0.81, 1 + 0.9**0.5 + 0.9]))


def test_bfloat16_products_find_a_value_near_the_exact_one_and_leave_every_bit_of_the_model(tiny_gpt2):
    before = {name: tensor.clone() for name, tensor in tiny_gpt2.model.state_dict().items()}
    layout = layout_of(tiny_gpt2.model)
    exact, rounded = (
        search_values(
            tiny_gpt2.model, tiny_gpt2.tokenizer, layout, EDITS, LAYER, CONFIG.model_copy(update=changed), PREFIXES
        )
        for changed in ({"learning_rate": 0.02}, {"learning_rate": 0.02, "products": "bfloat16"})
    )
    for wide, narrow in zip(exact, rounded, strict=True):
        assert not torch.equal(wide.z_star, narrow.z_star)
        assert abs(wide.loss - narrow.loss) < 0.05 * wide.loss_before
    after = tiny_gpt2.model.state_dict()
    assert all(
        tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]) for name, tensor in before.items()
    )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_gpt2.model.modules())


@pytest.mark.slow
def test_an_edit_leaves_as_soon_as_its_target_is_the_most_probable_when_that_is_asked(fact_model_path, tmp_path):
    facts = load_model(str(fact_model_path), cache=tmp_path)
    config = ValueSearchConfig(steps=30, stop_loss=0.0, clamp=4.0, products="weights")
    early, late = (
        search_values(
            facts.model, facts.tokenizer, layout_of(facts.model), fact_edits(6), LAYER,
            config.model_copy(update={"stop_at_argmax": asked}), [""],
        )
        for asked in (True, False)
    )  # fmt: skip
    assert any(value.steps < 30 for value in early) and all(value.steps >= 30 for value in late)
    assert all(hurried.loss >= patient.loss for hurried, patient in zip(early, late, strict=True))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(0, 60))
def test_groups_hold_every_row_once_and_cost_no_more_than_one_group_or_one_a_length(tails, group_cost):
    rows = [SearchRow(i, 0, tuple(range(tail + 2)), 2, (), (), 1.0) for i, tail in enumerate(tails)]
    groups = grouped(rows, group_cost)
    assert sorted(row.delta for group in groups for row in group) == list(range(len(tails)))

    def cost(divided):
        return sum(len(group) * max(row.tail for row in group) + group_cost for group in divided)

    by_length = [[row for row in rows if row.tail == tail] for tail in set(tails)]
    assert cost(groups) <= min(cost([rows]), cost(by_length))
