"""Laws that every method keeps as a whole, from what it computes to what is stored of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from editing.collection import collect_statistics
from editing.config import ValueSearchConfig, layers_for
from editing.digests import tensor_digest
from editing.edit import Edit
from editing.errors import ModelError, UsageError
from editing.layout import layout_of
from editing.measure.scoring import score
from editing.methods import METHODS, AnyConfig, compute_independent_updates, compute_update, method_config
from editing.methods.located import locate
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import Method, MethodInput
from editing.models import load_model
from editing.search.values import search_values
from editing.weights import EditedWeights, overlay
from tasks.lines.specs import LineSpec
from tests.conftest import SENTENCES
from tests.fact_model import FACT_TEXT, fact_edits
from tests.hypernetworks import options

EDITS = (
    Edit(subject="Ada Lovelace", prompt="{} was born in the city of", target_new="Paris"),
    Edit(subject="Nile", prompt="The river {} flows through", target_new="Rome"),
    Edit(subject="the moon", prompt="Beyond {} lies", target_new="nothing"),
)
QUICK = {"finetune": {"steps": 5}, "lora": {"steps": 5}}
"""Where it does not matter how far the training gets."""


def quick(given: MethodInput, method: str, fields: Mapping[str, object] | None = None) -> AnyConfig:
    """A config that computes something in little time, whatever the method wants."""
    wanted = options(given) if method == "mend" else QUICK.get(method, {})
    return method_config(method, {**wanted, **(fields or {})})


EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
SEARCHING = [method.name for method in METHODS.values() if method.searches]
EVERY_SEARCH = pytest.mark.parametrize("method", SEARCHING)
EVERY_OTHER = pytest.mark.parametrize("method", [method.name for method in METHODS.values() if not method.searches])


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=["tiny_llama_f64", "tiny_gpt2_f64"])
def tiny(request):
    return request.getfixturevalue(request.param)


def make_input(loaded, layers, texts=SENTENCES, prefixes=("", "The old man said so. ")) -> MethodInput:
    layout = layout_of(loaded.model)
    statistics = collect_statistics(
        loaded.model, loaded.tokenizer, layout, layers, texts, base_digest=loaded.digest, source="t", max_tokens=4000
    )
    return MethodInput(loaded.model, loaded.tokenizer, layout, layers, statistics, KeyHistory(), tuple(prefixes))


def tiny_input(loaded, method: str) -> MethodInput:
    texts = [*SENTENCES, *(f"{word} {other} lives there." for word in "abcdef" for other in SENTENCES)]
    return make_input(loaded, (2,) if METHODS[method].config.one_layer else (1, 2), texts)


def wanted(given: MethodInput) -> torch.Tensor:
    """z* somewhat off the present states."""
    present = states(given)
    return present + 0.3 * random(*present.shape, seed=3).float()


def states(given: MethodInput) -> torch.Tensor:
    """Output of the last edited layer at each subject's last token, (n, m)."""
    zeros = torch.zeros(len(EDITS), given.model.config.hidden_size)
    return -locate(given, EDITS, zeros, given.layers[-1], [{}] * len(EDITS)).R_mn.T


@EVERY_METHOD
def test_computing_leaves_the_model_as_it_was(tiny, method):
    given = tiny_input(tiny, method)
    config = quick(given, method)
    z_star, before = wanted(given), {name: tensor_digest(t) for name, t in tiny.model.state_dict().items()}
    compute_update(given, EDITS, z_star, config)
    compute_independent_updates(given, EDITS, z_star, config)
    assert {name: tensor_digest(t) for name, t in tiny.model.state_dict().items()} == before
    assert not any(module._forward_hooks for module in tiny.model.modules())


@EVERY_METHOD
def test_independent_updates_are_those_of_each_edit_alone(tiny, method):
    given = tiny_input(tiny, method)
    config = quick(given, method)
    z_star = wanted(given)
    given.history.add({layer: random(5, 64 if "llama" in tiny.reference else 128, seed=9) for layer in (1, 2)})
    for i, together in enumerate(compute_independent_updates(given, EDITS, z_star, config)):
        alone = compute_update(given, EDITS[i : i + 1], z_star[i : i + 1], config).update
        assert together.keys() == alone.keys()
        for name, pair in together.items():
            delta = pair.B.double() @ pair.A.double()
            scale = float(delta.abs().max())
            torch.testing.assert_close(
                delta, alone[name].B.double() @ alone[name].A.double(), atol=1e-4 * scale, rtol=0
            )


@EVERY_OTHER
def test_a_method_that_searches_no_value_edits_the_very_last_layer(tiny, method):
    given = replace(tiny_input(tiny, method), layers=(3,))
    config = quick(given, method)
    if method == "mend":  # any other hypernetwork that nobody trained may do harm
        config = config.model_copy(update=options(given, plain=True))
    update = compute_update(given, EDITS, torch.zeros(len(EDITS), 0), config).update
    assert update.keys() == {given.layout.weight_name(3)}
    asked = [(edit.text, edit.target_new) for edit in EDITS]
    before = sum(one.mean_logprob for one in score(tiny.model, tiny.tokenizer, asked))
    with overlay(tiny.model, given.layout, update):
        assert sum(one.mean_logprob for one in score(tiny.model, tiny.tokenizer, asked)) > before
    with pytest.raises(ModelError, match=r"layer 4 is above the model's last one; choose layers of 0 to 3"):
        compute_update(replace(given, layers=(4,)), EDITS, torch.zeros(len(EDITS), 0), quick(given, method))


@EVERY_SEARCH
def test_a_method_that_searches_a_value_refuses_the_very_last_layer(tiny, method):
    given = replace(tiny_input(tiny, method), layers=(3,))
    with pytest.raises(ModelError, match="layer 3 leaves nothing above it to search through"):
        compute_update(given, EDITS, torch.zeros(len(EDITS), 32), quick(given, method))


@EVERY_SEARCH
def test_an_update_brings_the_states_nearer_to_the_wanted_ones(tiny, method):
    given = tiny_input(tiny, method)
    z_star, before = wanted(given), states(given)
    with overlay(tiny.model, given.layout, compute_update(given, EDITS, z_star, strong(method)).update):
        after = states(given)
    assert (after - z_star).norm() < 0.9 * (before - z_star).norm()


def strong(method: str):
    """A config that hardly weighs general text: these tiny models have too little of it."""
    return method_config(method, {"memit": {"statistics_weight": 1e-3}, "alphaedit": {"ridge": 1e-3}}.get(method, {}))


@pytest.mark.parametrize("method", ["memit", "alphaedit"])
def test_with_history_two_batches_of_one_layer_are_the_one_big_batch(tiny, method):
    given, config = replace(tiny_input(tiny, method), layers=(2,), prefixes=("",)), strong(method)
    z_star = wanted(given)
    whole = compute_update(given, EDITS, z_star, config).update
    weights = EditedWeights(tiny.model, given.layout)
    first = compute_update(given, EDITS[:2], z_star[:2], config)
    weights.apply(first.update)
    given.history.add(first.keys)
    weights.apply(compute_update(given, EDITS[2:], z_star[2:], config).update)
    for name, pair in whole.items():
        expected = pair.B.double() @ pair.A.double()
        scale = float(expected.abs().max())
        torch.testing.assert_close(weights.sums[name], expected, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("method", ["memit", "emmet", "rome", "finetune", "lora", "mend"])
def test_without_history_earlier_keys_do_not_matter(tiny, method):
    given = tiny_input(tiny, method)
    config = quick(given, method, {"history": False} if method == "memit" else None)
    z_star = wanted(given)
    before = compute_update(given, EDITS, z_star, config).update
    given.history.add({layer: random(5, 64 if "llama" in tiny.reference else 128, seed=9) for layer in (1, 2)})
    after = compute_update(given, EDITS, z_star, config).update
    assert all(
        torch.equal(pair.A, after[name].A) and torch.equal(pair.B, after[name].B) for name, pair in before.items()
    )


def test_romes_constraint_is_met(tiny):
    """W' k* = v*, with v* = W k + δ at the bare prompt's key k, and k* the mean key."""
    given, config = tiny_input(tiny, "rome"), method_config("rome")
    z_star = wanted(given)
    W = given.layout.oriented(tiny.model.get_parameter(given.layout.weight_name(2)))
    found = locate(given, EDITS, z_star, 2, [{}] * len(EDITS))
    v_star = W @ found.bare_nd.double().T + found.R_mn
    for i, update in enumerate(compute_independent_updates(given, EDITS, z_star, config)):
        [pair] = update.values()
        k_star = found.K_nd[i].double()
        reached = W @ k_star + pair.B.double() @ (pair.A.double() @ k_star)
        torch.testing.assert_close(reached, v_star[:, i], atol=2e-6, rtol=1e-5)


def test_a_batch_of_rome_is_its_edits_one_after_the_other(tiny):
    given, config = tiny_input(tiny, "rome"), method_config("rome")
    z_star = wanted(given)
    batch = compute_update(given, EDITS, z_star, config)
    weights = EditedWeights(tiny.model, given.layout)
    for i, edit in enumerate(EDITS):
        weights.apply(compute_update(given, [edit], z_star[i : i + 1], config).update)
    for name, pair in batch.update.items():
        assert pair.A.shape[0] == len(EDITS)
        torch.testing.assert_close(pair.B.double() @ pair.A.double(), weights.sums[name], atol=1e-5, rtol=1e-4)


def test_rome_and_r_rome_agree_when_the_bare_prompt_is_the_only_context(tiny):
    given = replace(tiny_input(tiny, "rome"), prefixes=("",))
    z_star = wanted(given)
    mean, published = (
        compute_update(given, EDITS, z_star, method_config("rome", {"mean_key": choice})).update
        for choice in (True, False)
    )
    for name, pair in mean.items():
        torch.testing.assert_close(pair.B @ pair.A, published[name].B @ published[name].A, atol=1e-5, rtol=1e-4)


def test_rome_refuses_several_layers(tiny):
    given = replace(tiny_input(tiny, "memit"), layers=(1, 2))
    with pytest.raises(ModelError, match=r"method 'rome' edits one layer, layers are \[1, 2\]; give one, e\.g\. \[2\]"):
        compute_update(given, EDITS, wanted(given), method_config("rome"))
    with pytest.raises(UsageError, match=r"method rome: layers = .*at most 1"):
        method_config("rome", {"layers": [1, 2]})


def test_a_method_of_one_layer_edits_where_the_others_search():
    assert layers_for(method_config("rome"), "llama", 30, 576) == (5,)
    assert layers_for(method_config("alphaedit"), "llama", 30, 576) == (2, 3, 4, 5)


def test_a_method_of_late_layers_gets_some_that_can_be_edited_in_any_model():
    assert layers_for(method_config("ultraedit"), "llama", 30, 576) == (24, 25, 26, 27)
    assert [layers_for(method_config("ultraedit"), "gpt2", count, 8) for count in (3, 4, 6)] == [(1,), (2,), (4,)]


# What is stored.


@EVERY_METHOD
def test_a_stored_line_reads_back_as_the_class_of_its_method(method):
    spec = LineSpec(line="x", model="m", config=method_config(method, {"seed": 2}))
    read = LineSpec.model_validate_json(spec.model_dump_json())
    assert read == spec and type(read.config) is METHODS[method].config
    stored = json.loads(spec.model_dump_json())["config"]
    assert method_config(stored["method"], stored) == TypeAdapter(AnyConfig).validate_python(stored) == spec.config


def test_every_method_has_its_class_in_the_stored_type_and_its_own_name():
    union = get_args(get_args(AnyConfig)[0])
    assert set(union) == {method.config for method in METHODS.values()} and len(union) == len(METHODS)
    assert all(method.config().method == method.name == name for name, method in METHODS.items())


def test_a_stored_line_of_an_unknown_method_is_refused():
    with pytest.raises(ValidationError, match=r"rune.*does not match any of the expected tags"):
        LineSpec.model_validate({"line": "x", "model": "m", "config": {"method": "rune"}})


def test_a_method_that_cannot_write_edits_alone_says_so(tiny_llama_f64, monkeypatch):
    whole = METHODS["memit"]
    monkeypatch.setitem(METHODS, "memit", Method(whole.name, whole.config, whole.compute_update, None))
    given = tiny_input(tiny_llama_f64, "memit")
    with pytest.raises(
        UsageError, match=r"'memit' cannot write edits independently .* or one of alphaedit, emmet, rome, "
    ):
        compute_independent_updates(given, EDITS, wanted(given), method_config("memit"))


# The fact model: edits take.

SEARCH = {"clamp": 4.0, "steps": 40, "weight_decay": 0.0, "kl_weight": 0.0}
FITTING = {
    "memit": {"statistics_weight": 100.0},
    "alphaedit": {"nullspace_threshold": 0.1, "ridge": 1.0},
    "finetune": {"steps": 50, "learning_rate": 0.02, "norm_limit": 1.0},
    "ultraedit": {"scale": 2e-3},
    "lora": {"learning_rate": 0.02},
}
UNSPARING = ("ultraedit", "lora")
"""They know the targets alone, and change more than one weight by them: neighbors with the same relation go along."""


@pytest.fixture(scope="module")
def knowing(fact_model_path, tmp_path_factory) -> tuple[MethodInput, list[Edit], torch.Tensor]:
    """The fact model, five edits of it, and values at layer 1 that say them: no method moves a bit of it."""
    facts = load_model(str(fact_model_path), cache=tmp_path_factory.mktemp("facts"))
    given = make_input(facts, (0, 1), FACT_TEXT, ("",))
    candidates = list({edit.subject: edit for edit in fact_edits(24)}.values())
    found = search_values(facts.model, facts.tokenizer, given.layout, candidates, 1, ValueSearchConfig(**SEARCH), ("",))
    # Where the search finds no value there is nothing to write.
    taken = [(edit, value.z_star) for edit, value in zip(candidates, found, strict=True) if value.loss < 0.06][:5]
    return given, [edit for edit, _ in taken], torch.stack([value for _, value in taken])


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name != "mend"])  # which is to be trained first
def test_edits_of_known_facts_take_and_spare_their_neighbors(knowing, method):
    given, edits, z_star = knowing
    search = {"search": SEARCH} if METHODS[method].searches else {}
    config = method_config(method, {**search, **FITTING.get(method, {})})
    given = replace(given, layers=(1,) if config.one_layer else (0, 1), history=KeyHistory())
    asked = [(edit.text, edit.target_new) for edit in edits]
    spared = [(probe.prompt, str(probe.answer)) for edit in edits for probe in edit.neighborhood[:2]]

    def share(pairs: list[tuple[str, str]]) -> float:
        return sum(one.argmax for one in score(given.model, given.tokenizer, pairs)) / len(pairs)

    alone = []
    for edit, update in zip(edits, compute_independent_updates(given, edits, z_star, config), strict=True):
        with overlay(given.model, given.layout, update):
            alone.append(share([(edit.text, edit.target_new)]))
    assert share(asked) == 0 and sum(alone) >= 4
    with overlay(given.model, given.layout, compute_update(given, edits, z_star, config).update):
        assert share(asked) >= 0.6 and (method in UNSPARING or share(spared) >= 0.6)
