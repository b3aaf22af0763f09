"""Keys and states are each prompt's own, whatever stands beside it in the batch and whatever they begin with."""

import pytest
import torch

from editing.keys import Begun, SubjectReader
from editing.layout import layout_of
from editing.tokens import encode_prompt
from tests.families import of_each_kind, tiny_family

PREFIX = "The old man said that the sea is near. "
PROMPTS = [("{} lives in", "Ada Lovelace"), ("The river {} flows", "Nile"), ("{}", "x"), ("I saw {} there", "the moon")]
KEY_LAYER, LAST = 1, 2


@of_each_kind()
def test_a_common_beginning_that_runs_once_changes_nothing(name):
    tiny = tiny_family(name)
    reader, passes = SubjectReader(tiny.model, layout_of(tiny.model), 0), []
    prompts = [encode_prompt(tiny.tokenizer, PREFIX, prompt, subject) for prompt, subject in PROMPTS]
    handle = tiny.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    together = reader.states(prompts, KEY_LAYER, LAST, uniform=True)
    keys = reader.keys(prompts, KEY_LAYER, uniform=True)
    handle.remove()
    beginning = passes[0][1]
    assert passes[0][0] == 1 and beginning >= 8 and passes[2:] == passes[:2]
    assert passes[1] == (4, max(p.subject_index + 1 for p in prompts) - beginning)
    for i, prompt in enumerate(prompts):
        alone = reader.states([prompt], KEY_LAYER, LAST)
        for found, expected in zip(vars(together).values(), vars(alone).values(), strict=True):
            torch.testing.assert_close(found[i : i + 1], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(keys[i : i + 1], alone.keys, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_prompts_that_are_the_same_text_are_no_special_case(tiny_llama, count):
    prompts = [encode_prompt(tiny_llama.tokenizer, PREFIX, "{} lives in", "Ada")] * count
    reader = SubjectReader(tiny_llama.model, layout_of(tiny_llama.model), 0)
    states = reader.states(prompts, KEY_LAYER, LAST, uniform=True)
    plain = reader.states(prompts[:1], KEY_LAYER, LAST)
    torch.testing.assert_close(states.hidden, plain.hidden.repeat(count, 1), atol=1e-5, rtol=1e-4)


@of_each_kind()
def test_passes_that_go_on_from_those_before_find_the_same_bits(name):
    tiny = tiny_family(name)
    layout, ran = layout_of(tiny.model), []
    prompts = [encode_prompt(tiny.tokenizer, PREFIX, prompt, subject) for prompt, subject in PROMPTS]

    def read(begun, layer):
        """Shared beginnings and none, in the same order each time."""
        reader = SubjectReader(tiny.model, layout, 0, begun)
        states = reader.states(prompts, layer, LAST, uniform=True)
        return [*vars(states).values(), reader.keys(prompts[:2], layer), reader.keys(prompts[::-1], layer)]

    rising = [0, 1, 1, LAST]
    plain = [read(None, layer) for layer in rising]
    handle = layout.projection(tiny.model, 0).register_forward_pre_hook(lambda module, args: ran.append(module))
    begun = Begun()
    found = [read(begun, layer) for layer in rising]
    handle.remove()
    assert [[torch.equal(a, b) for a, b in zip(*two, strict=True)] for two in zip(plain, found, strict=True)] == [
        [True] * 5
    ] * len(rising)
    assert len(ran) == 4 + 4 + 2 * 1  # of the third and fourth reading only what rows begin with


def test_where_there_is_no_room_or_a_lower_layer_is_asked_for_passes_begin_anew(tiny_llama):
    prompts = [encode_prompt(tiny_llama.tokenizer, PREFIX, prompt, subject) for prompt, subject in PROMPTS]

    def keys(layer, begun=None):
        return SubjectReader(tiny_llama.model, layout_of(tiny_llama.model), 0, begun).keys(prompts, layer)

    begun, small = Begun(), Begun(1)
    for layer in (1, 2, 1, 2, 0):
        assert torch.equal(keys(layer, begun), keys(layer)) and torch.equal(keys(layer, small), keys(layer))
    assert small.room == 1 and begun.room < Begun().room
