"""The fast value search against the published loop, written plainly."""

import pytest
import torch

from editing.config import ValueSearchConfig
from editing.edit import Edit
from editing.errors import SearchError
from editing.layout import layout_of
from editing.values import search_values
from tests.reference import plain_search

LAYER = 1
CONFIG = ValueSearchConfig(steps=6, stop_loss=0.0, learning_rate=0.1, edits_at_once=10)
PREFIXES = ("", "The old man said so. ", "I. ")
EDITS = (
    Edit(subject="Ada Lovelace", prompt="{} was born in the city of", target_new="Rome"),
    Edit(subject="Nile", prompt="The river {} flows through", target_new="a very long canyon"),
    Edit(subject="x", prompt="{}", target_new="y"),
    Edit(subject="the moon", prompt="Beyond the moon and {} lies, they say,", target_new="nothing"),
)


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


def test_a_search_that_becomes_non_finite_names_the_edit(tiny_llama):
    layout = layout_of(tiny_llama.model)
    tiny_llama.model.get_parameter(layout.weight_name(3))[0, 0] = float("nan")
    with pytest.raises(SearchError, match=f"{EDITS[0].id}.*became nan at step 1; lower learning_rate"):
        search_values(tiny_llama.model, tiny_llama.tokenizer, layout, EDITS[:1], LAYER, CONFIG, PREFIXES)
