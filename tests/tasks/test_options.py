"""An option does something: every field of a method's configuration changes what comes out, and no other is taken."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from editing.config import MethodConfig, SpreadingConfig, ValueSearchConfig
from editing.digests import json_digest, tensor_digest
from editing.edit import Edit
from editing.errors import ErrataError, UsageError
from editing.layout import layout_of
from editing.methods import METHODS, before_shrinkage, compute_independent_updates, compute_update, method_config
from editing.methods.mend.files import save_network
from editing.models import load_model, quiet_transformers
from tasks.lines.specs import LineSpec
from tasks.settings import Settings
from tasks.update.session import open_session
from tests.conftest import tiny_model
from tests.costs import case
from tests.hypernetworks import moved, untrained

EDITS = [
    Edit(subject="Ada Lovelace", prompt="{} was born in", target_new="Rome"),
    Edit(subject="Nile", prompt="The river {} flows through", target_new="sea"),
    Edit(subject="moon", prompt="I see the {}", target_new="the"),
]
LOCATING: dict[str, Any] = {
    "contexts": 2,
    "statistics_tokens": 128,
    "statistics_alternatives": 1,
    "search": {"steps": 3, "weight_decay": 0.0},
}
SMALL: dict[str, dict[str, Any]] = {
    "memit": {"statistics_weight": 1.0},
    "finetune": {"steps": 4, "learning_rate": 0.05, "norm_limit": 2.0},
    "lora": {"steps": 3, "learning_rate": 0.05},
    "ultraedit": {"scale": 0.05},
}
"""What makes a method quick here, and its updates large enough to be restrained."""

Other = tuple[Any, dict[str, Any]]
INSIDE = ("mlp.up_proj",)
ANY_METHOD: dict[str, Other] = {
    "layers": ((0,), {}),
    "seed": (1, {}),
    "norm_clamp": (1e9, {}),
    "compensate": (False, {"norm_clamp": 1e9}),
    "protect": (0.5, {}),
    "protect_strength": (0.5, {"protect": 0.5}),
    "protect_side": ("both", {"protect": 0.5}),
}
OTHERS: dict[str, dict[str, Other]] = {
    "memit": {
        "statistics_weight": (7.0, {}),
        "bare_apart": (False, {}),
        "history": (False, {}),
        "ridge": (5.0, {}),
        "neurons": (0.5, {}),
        "exact_order": (True, {}),
    },
    "alphaedit": {
        "nullspace_threshold": (0.01, {}),
        "ridge": (3.0, {}),
        "shrink": (False, {"nullspace_threshold": 0.5}),  # what lies above the mean eigenvalue stays there
    },
    "emmet": {"ridge": (0.5, {})},
    "rome": {"mean_key": (False, {})},
    "finetune": {
        "compensate": (False, {"norm_clamp": 1e9, "norm_limit": 20.0, "learning_rate": 0.5}),
        "objective": ("last", {}),
        "steps": (2, {}),
        "learning_rate": (0.2, {}),
        "stop_loss": (100.0, {}),
        "norm_limit": (1e-3, {}),
        "minibatch": (1, {}),
        "append_eos": (True, {}),
    },
    "ultraedit": {"projections": (INSIDE, {}), "scale": (0.1, {}), "ridge": (30.0, {})},
    "lora": {
        "projections": (INSIDE, {}),
        "rank": (2, {}),
        "alpha": (1.0, {}),
        "steps": (2, {}),
        "learning_rate": (0.2, {}),
        "stop_loss": (100.0, {}),
    },
    "mend": {
        "hypernetwork": ("other", {}),
        "hypernetwork_digest": ("0" * 64, {}),
        "confidence": (1e-6, {"hypernetwork": "strong"}),
        "projections": (INSIDE, {}),
    },
}
"""For each field another value than the default, and what else must be set for it to matter."""
LOCATE: dict[str, Other] = {
    "contexts": (3, {}),
    "context_tokens": (8, {}),
    "statistics_tokens": (192, {}),
    "statistics_alternatives": (2, {}),
    "shrink": (False, {}),
    "search": ({"steps": 1, "weight_decay": 0.0}, {}),
    "spread": ("sqrt", {}),
}
REACHED = {"steps": 60, "optimiser": "adam", "clamp": 50.0, "weight_decay": 0.0, "stop_loss": 0.0}
SEARCH: dict[str, Other] = {
    "steps": (1, {}),
    "optimiser": ("adam", {}),
    "step_length": (0.1, {}),
    "learning_rate": (0.1, {"optimiser": "adam"}),
    "stop_loss": (100.0, {}),
    "clamp": (1e-3, {}),
    "weight_decay": (50.0, {}),
    "kl_weight": (5.0, {}),
    "stop_at_argmax": (True, REACHED),
    "products": ("bfloat16", {}),
}
"""All but `edits_at_once`, which bounds memory and changes nothing else."""


def others(method: str) -> dict[str, Other]:
    found = ANY_METHOD | OTHERS[method]
    if METHODS[method].searches:
        found = {name: other for name, other in LOCATE.items() if name != "spread" or method != "rome"} | found
    return found


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """A small model whose edited weights are small, so that updates are large beside them, and hypernetworks for it."""
    folder, cache = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("cache")
    made = tiny_model("llama")
    layout = layout_of(made.model)
    for layer in range(4):
        made.model.get_parameter(layout.weight_name(layer)).data *= 0.05
    with quiet_transformers():
        made.model.save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
    digest = load_model(str(folder), cache=cache).digest
    network = untrained(made.model, digest, (0, 1), step_size=0.5)
    save_network(network, cache / "plain")
    save_network(moved(network), cache / "other")
    save_network(untrained(made.model, digest, (0, 1), step_size=30.0), cache / "strong")
    networks = {name: cache / name for name in ("plain", "other", "strong")}
    return {"model": folder, "cache": cache} | networks


@pytest.fixture(scope="module")
def outcome(places) -> Callable[[str, Mapping[str, Any]], str]:
    """A digest of all that a session makes by a method with some options: or the line in which it refuses them."""
    known: dict[str, str] = {}

    def run(method: str, options: Mapping[str, Any]) -> str:
        fields = {"layers": (1,) if METHODS[method].config.one_layer else (0, 1)} | SMALL.get(method, {}) | options
        if METHODS[method].searches:
            fields = LOCATING | fields
        if method == "mend":
            fields["hypernetwork"] = str(places[fields.get("hypernetwork", "plain")])
        key = json_digest([method, {name: repr(value) for name, value in fields.items()}])
        if key not in known:
            known[key] = made(method, fields)
        return known[key]

    def made(method: str, fields: dict[str, Any]) -> str:
        spec = LineSpec(line="x", model=str(places["model"]), config=method_config(method, fields))
        try:
            session = open_session(spec, Settings(cache=places["cache"]))
            given, config, z_star = session.method_input, session.config, session.values(EDITS)
            first = compute_update(given, EDITS[:1], z_star[:1], config)
            session.weights.apply(first.update)
            session.remember(["first"], first)
            updates = [compute_update(given, EDITS[1:], z_star[1:], config).update]
            updates += compute_independent_updates(given, EDITS[1:], z_star[1:], config)
        except ErrataError as error:
            return str(error)
        tensors = [part for update in updates for name in sorted(update) for part in (update[name].B, update[name].A)]
        names = [sorted(update) for update in updates]
        return json_digest([names, session.held_out, *map(tensor_digest, [z_star, *tensors])])

    return run


@pytest.mark.parametrize("method", METHODS)
def test_each_field_of_a_method_is_tried_here(method):
    assert set(others(method)) == set(METHODS[method].config.model_fields) - {"method"}
    assert set(SEARCH) == set(ValueSearchConfig.model_fields) - {"edits_at_once"}


def _case(method: str, field: str) -> Any:
    """What methods have in common is tried on one that searches and one that does not, where it is thorough on all."""
    return case(method, field, kept=field in OTHERS[method] or method in ("memit", "finetune"))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "field"), [_case(method, field) for method in METHODS for field in others(method)])
def test_every_option_changes_what_its_method_does(outcome, method, field):
    value, needed = others(method)[field]
    assert outcome(method, needed | {field: value}) != outcome(method, needed)


@pytest.mark.slow
@pytest.mark.parametrize("field", SEARCH)
def test_every_option_of_the_search_changes_what_is_found(outcome, field):
    value, needed = SEARCH[field]
    base = LOCATING["search"] | {"products": "weights"} | needed
    assert outcome("memit", {"search": base | {field: value}}) != outcome("memit", {"search": base})


@pytest.mark.parametrize("method", METHODS)
def test_an_option_of_another_method_is_refused_with_those_that_there_are(method):
    fields = METHODS[method].config.model_fields
    foreign = {name for other in METHODS.values() for name in other.config.model_fields} - set(fields)
    assert foreign
    for name in foreign:
        with pytest.raises(UsageError, match=rf"^method {method}: {name} = .*; fields are layers, seed, ") as refused:
            method_config(method, {name: 9})
        assert all(field in str(refused.value) for field in fields if field != "method")
        assert "\n" not in str(refused.value)


OLD = {
    "layers": None,
    "contexts": 9,
    "context_tokens": 16,
    "statistics_tokens": 98304,
    "seed": 3,
    "search": {"steps": 15, "optimiser": "normalised", "edits_at_once": 10},
    "spread": "sqrt",
    "norm_clamp": None,
    "protect": 0.5,
    "protect_strength": 1.0,
    "protect_side": "keys",
}
"""What every config had in release 0.1, whatever its method read."""
AS_A_FILTER = {"compensate": False}
"""As `protect` was before it made up elsewhere for what it keeps out, and `norm_clamp` before it gave back."""


@pytest.mark.parametrize("method", METHODS)
def test_a_line_that_release_0_1_defined_is_read_as_what_it_meant(method):
    stored = {"line": "x", "model": "m", "dtype": "float32", "config": OLD | {"method": method}}
    config = LineSpec.model_validate(stored).config
    assert type(config) is METHODS[method].config and config.seed == 3 and config.protect == 0.5
    fields = {name: value for name, value in OLD.items() if name in METHODS[method].config.model_fields}
    assert config == method_config(method, before_shrinkage(method) | AS_A_FILTER | fields)
    assert not getattr(config, "shrink", False) and getattr(config, "statistics_weight", 2000) == 2000


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.searches])
def test_a_line_that_says_nothing_of_shrinking_is_of_before_it_could(method):
    config = LineSpec.model_validate({"line": "x", "model": "m", "config": {"method": method}}).config
    meant = before_shrinkage(method) | AS_A_FILTER
    assert config == method_config(method, meant) and config.statistics_tokens == 98304
    now = LineSpec(line="x", model="m", config=method_config(method))
    assert LineSpec.model_validate_json(now.model_dump_json()) == now and now.config.shrink


@pytest.mark.parametrize("method", METHODS)
def test_a_stored_line_with_a_field_that_nobody_ever_had_is_refused(method):
    with pytest.raises(ValidationError, match="depth"):
        LineSpec.model_validate({"line": "x", "model": "m", "config": {"method": method, "depth": 3}})


@pytest.mark.parametrize("config", [None, [], "memit", {}, {"method": None}, {"method": ["memit"]}, {"method": "rune"}])
def test_a_stored_line_without_a_method_that_there_is_is_refused(config):
    with pytest.raises(ValidationError):
        LineSpec.model_validate({"line": "x", "model": "m", "config": config})


@pytest.fixture(scope="module")
def page() -> str:
    """What docs/methods.md says."""
    return (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text()


def test_the_page_names_the_options_that_methods_share_and_none_that_nobody_has(page):
    named = set(re.findall(r"-o '?(\w+)=|`-o (\w+)`", page))
    found = {name for pair in named for name in pair if name}
    assert found <= {name for method in METHODS.values() for name in method.config.model_fields}
    shared = {name for config in (MethodConfig, SpreadingConfig) for name in config.model_fields}
    assert shared - {"method"} <= found


def test_the_page_promises_for_every_method_what_every_method_has(page):
    every = page.split("Options that go with every method")[1].split("\n\n`memit`")[0]
    for method in METHODS.values():
        assert set(re.findall(r"-o '?(\w+)=", every)) <= method.config.model_fields.keys()


def test_the_page_says_how_much_text_stands_behind_the_key_statistics(page):
    tokens = METHODS["memit"].config().statistics_tokens
    assert f"`-o statistics_tokens={tokens}`" in page
