"""Layouts and configurations: where the edited weights are, and one line for whatever cannot work."""

import json

import pytest
import torch

from editing.config import LocatingConfig, layers_for
from editing.errors import ErrataError, ModelError, UsageError
from editing.layout import LAYOUTS, check_layers, layout_of
from editing.methods import METHODS, method_config
from editing.methods.memit import MemitConfig
from tests.families import tiny_family


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def tiny(request):
    return request.getfixturevalue(request.param)


def test_the_edited_weight_maps_keys_to_the_hidden_state(tiny):
    layout, hidden = layout_of(tiny.model), tiny.model.config.hidden_size
    for layer in range(4):
        weight_md = layout.oriented(tiny.model.get_parameter(layout.weight_name(layer)))
        assert weight_md.shape == (hidden, layout.key_size(tiny.model, layer))
        key = torch.randn(layout.key_size(tiny.model, layer))
        module = layout.projection(tiny.model, layer)
        bias = module.bias if module.bias is not None else 0
        torch.testing.assert_close(module(key[None, None])[0, 0], weight_md @ key + bias, atol=1e-5, rtol=1e-4)
        assert layout.weight_layer(layout.weight_name(layer)) == layer


def test_an_unknown_architecture_says_how_to_add_it(tiny_llama):
    tiny_llama.model.config.model_type = "mamba9"
    with pytest.raises(
        ModelError, match=r"no layout for architecture 'mamba9' .*known are .*gpt2, .*LAYOUTS in editing"
    ) as e:
        layout_of(tiny_llama.model)
    assert all(name in str(e.value) for name in LAYOUTS)


def test_a_norm_over_the_sum_of_mlp_and_input_is_refused_by_name():
    model = tiny_family("opt").model
    model.config.do_layer_norm_before = False
    with pytest.raises(ModelError, match=r"'opt' .*a norm follows the sum .*as in OPT-350M.*choose another size"):
        layout_of(model)


@pytest.mark.parametrize("layers", [(), (2, 1), (1, 1), (-1, 1)])
def test_layers_must_rise_and_be_distinct(tiny_llama, layers):
    with pytest.raises(ModelError, match=r"must be distinct, rising and not negative, e\.g\. \[2, 3, 4\]"):
        check_layers(tiny_llama.model, layout_of(tiny_llama.model), layers)


@pytest.mark.parametrize("layers", [(3,), (1, 4), (40,)])
def test_layers_outside_the_model_are_refused_with_its_size(tiny, layers):
    with pytest.raises(
        ModelError, match=f"layer {layers[-1]} leaves nothing above it .*has 4 layers; choose .*below 3"
    ):
        check_layers(tiny.model, layout_of(tiny.model), layers)


def test_the_layers_of_every_depth_lie_inside_the_model():
    for count in range(3, 130):
        layers = layers_for(MemitConfig(), "llama", count, 64)
        assert list(layers) == sorted(set(layers)) and layers[0] >= 1 and layers[-1] < count - 1
    with pytest.raises(ModelError, match="2 layers is too shallow"):
        layers_for(MemitConfig(), "llama", 2, 64)


def test_configured_layers_win_over_the_preset():
    assert layers_for(MemitConfig(layers=(7,)), "llama", 30, 576) == (7,)
    assert layers_for(MemitConfig(), "llama", 30, 576) == (2, 3, 4, 5)


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"^unknown method 'rune'; known are memit"):
        method_config("rune")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"depth": 3}, "method memit: depth = 3: .*; fields are layers, seed"),
        ({"search": {"speed": 1}}, r"method memit: search\.speed = 1: .*; fields are steps, optimiser"),
        ({"statistics_weight": float("nan")}, "method memit: statistics_weight = nan: .*finite"),
        ({"search": {"clamp": float("inf")}}, r"method memit: search\.clamp = inf: .*finite"),
        ({"statistics_weight": 0}, "method memit: statistics_weight = 0: .*greater than 0"),
        ({"contexts": 0}, "method memit: contexts = 0: .*greater than or equal to 1"),
        ({"layers": []}, r"method memit: layers = \[\]: .*at least 1"),
        ({"layers": ["a"]}, r"method memit: layers\.0 = 'a': .*integer"),
        ({"method": "rome"}, "method memit: method = 'rome': .*'memit'"),
        ({"contexts": "9" * 1_000_000}, "method memit: contexts = '999"),
        ({"search": None}, "method memit: search = None: "),
    ],
)
def test_a_bad_option_names_method_field_and_value(fields, says):
    with pytest.raises(ErrataError, match=f"^{says}") as error:
        method_config("memit", fields)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("method", METHODS)
def test_a_configuration_survives_json_and_has_a_description_for_every_field(method):
    config = method_config(method, {"layers": [2]})
    assert method_config(method, json.loads(config.model_dump_json())) == config
    search = type(config.search).model_fields if isinstance(config, LocatingConfig) else {}
    fields = {**type(config).model_fields, **search}
    assert [name for name, field in fields.items() if not field.description and name not in ("method", "search")] == []
