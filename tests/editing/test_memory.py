"""Memory is foretold from a configuration alone, and where it does not suffice the setting to lower is named."""

import pytest
import torch

from editing.config import ValueSearchConfig
from editing.devices import checked_device, within_memory
from editing.errors import ModelError, OutOfMemory
from editing.layout import layout_of
from editing.memory import bytes_a_fact, peak, shape_of, stages
from editing.methods.memit import MemitConfig
from editing.search.tail import TailGroup
from editing.search.values import search_values
from tests.editing.test_families import EDITS
from tests.families import tiny_family

MORE_THAN_ANY = 2**50


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "gemma3", "falcon-groups", "opt"])
def test_the_shape_of_a_configuration_is_that_of_the_loaded_model(name):
    model = tiny_family(name).model
    layout = layout_of(model)
    shape = shape_of(model.config, (1, 2))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.keys, shape.hidden) == (layout.key_size(model), 32)
    assert (shape.layers, shape.edited, shape.above) == (4, 2, 1)
    assert bytes_a_fact(shape) == 2 * (shape.keys + 32) * 4


def test_what_a_stage_is_told_to_be_less_by_makes_it_less():
    shape = shape_of(tiny_family("llama").model.config, (1, 2))
    method, fewer = MemitConfig(), MemitConfig(search=ValueSearchConfig(edits_at_once=1))
    whole, half = ({one.name: one.bytes for one in stages(shape, width, method)} for width in (4, 2))
    assert half["weights"] * 2 == whole["weights"]
    assert {one.name: one.bytes for one in stages(shape, 4, fewer)}["search of values"] < whole["search of values"]
    assert peak(stages(shape, 4, method)) >= sum(one.stands for one in stages(shape, 4, method))


def test_a_search_without_memory_says_what_to_lower_and_leaves_the_model(monkeypatch):
    tiny = tiny_family("llama")
    monkeypatch.setattr(TailGroup, "logprobs", lambda group, delta: torch.empty(MORE_THAN_ANY))
    with pytest.raises(
        OutOfMemory, match=r"^out of memory .* search fewer edits at once \(option search.edits_at_once\)"
    ):
        search_values(tiny.model, tiny.tokenizer, layout_of(tiny.model), EDITS, 2, ValueSearchConfig(), ("",))
    assert all("forward" not in vars(module) for module in tiny.model.modules())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_every_device_says_it_in_the_same_words(error):
    with pytest.raises(OutOfMemory, match="lower this; errata doctor --model"), within_memory("lower this"):
        raise error
    with pytest.raises(RuntimeError, match=r"^shapes$"), within_memory("lower this"):
        raise RuntimeError("shapes")


def test_a_device_without_float64_is_refused_by_name():
    with pytest.raises(ModelError, match="device 'mps' has no float64"):
        checked_device("mps")
