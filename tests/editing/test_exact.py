"""Exact in the order of facts: any order, any batches and any removal come to the same weights."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from editing.chat import ChatTemplate
from editing.errors import UsageError
from editing.keys import Begun
from editing.methods import compute_rebase, compute_update, method_config
from editing.methods.exact import solve_in_any_order
from editing.methods.located import Located, weighed
from editing.methods.memit import _second_moment
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.solve import memit_gain
from editing.weights import EditedWeights
from tests.editing.test_chat import TEMPLATE
from tests.editing.test_methods import EDITS, make_input, tiny_input, wanted
from tests.editing.test_rebase import ADA
from tests.families import tiny_family

WEIGHT = 0.5
PLAIN = method_config("memit", {"statistics_weight": WEIGHT, "ridge": 0.1})
EXACT = PLAIN.model_copy(update={"exact_order": True})


KINDS = pytest.mark.parametrize("given", ["llama", "gpt2", "gemma2", "in a chat"], indirect=True)
"""A model with a norm behind the projection among them, and a line of the chat."""


@pytest.fixture
def given(request):
    kind = getattr(request, "param", "llama")
    tiny = tiny_family({"in a chat": "llama"}.get(kind, kind))
    made = make_input(tiny, (1, 2) if kind != "gemma2" else (0, 1))
    if kind == "in a chat":
        tiny.tokenizer.chat_template = TEMPLATE
        made = replace(made, chat=ChatTemplate(tiny.tokenizer))
    return replace(made, weights=EditedWeights(tiny.model, made.layout))


def come_to(given, parts, values, config=EXACT) -> dict[str, torch.Tensor]:
    """The change of each weight once these parts were written, one on the other; the model is the base again."""
    given = replace(given, history=KeyHistory())
    for part in parts:
        z_star = torch.stack([values[edit.id] for edit in part])
        made = compute_update(given, part, z_star, config)
        given.weights.apply(made.update)
        given.history.add(made.keys)
    found = {name: given.weights.change(name) for name in given.weights.base}
    given.weights.to_base()
    return found


def apart(one, other) -> float:
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in other)


def values_of(given) -> dict[str, torch.Tensor]:
    return dict(zip([edit.id for edit in EDITS], wanted(given), strict=True))


@KINDS
def test_in_any_order_and_in_any_batches_the_same_weights(given):
    a, b, c = EDITS
    values = values_of(given)
    whole = come_to(given, [[a, b, c]], values)
    for parts in ([[a], [b], [c]], [[c, b], [a]]):
        assert apart(come_to(given, parts, values), whole) < 1e-5
    assert apart(come_to(given, [[a], [b], [c]], values, PLAIN), come_to(given, [[a, b, c]], values, PLAIN)) > 1e-3


def test_a_subset_is_what_is_left_when_the_others_are_taken_out(given):
    a, b, c = EDITS
    values = values_of(given)
    together = compute_rebase(given, [c, a], torch.stack([values[c.id], values[a.id]]), EXACT)
    left = {name: pair.B.double() @ pair.A.double() for name, pair in together.update.items()}
    assert apart(come_to(given, [[a], [c]], values), left) < 1e-5
    assert apart(come_to(given, [[a], [b], [c]], values), left) > 1e-2


@KINDS
def test_a_fact_alone_is_written_as_ever(given):
    values = values_of(given)
    assert apart(come_to(given, [EDITS[:1]], values), come_to(given, [EDITS[:1]], values, PLAIN)) < 1e-5


def test_columns_that_are_there_make_all_facts_anew_without_the_model(given, monkeypatch):
    values, kept = values_of(given), []
    real = solve_in_any_order
    monkeypatch.setattr(
        "editing.methods.memit.solve_in_any_order",
        lambda given, edits, found, solve, **more: kept.append(found) or real(given, edits, found, solve, **more),
    )
    expected = come_to(given, [EDITS], values)
    monkeypatch.setattr(given.model, "forward", None)
    [found] = kept

    def solve(layer, K_dn):
        C_dd = _second_moment(given, layer, EXACT)
        return memit_gain(C_dd, torch.zeros_like(C_dd), K_dn, WEIGHT)

    made = solve_in_any_order(given, EDITS, found, solve, bare_apart=True)
    assert apart({name: pair.B.double() @ pair.A.double() for name, pair in made.update.items()}, expected) < 1e-5


def test_a_root_has_one_rank_a_fact_and_a_batch_on_others_one_a_column(tiny_llama):
    given = tiny_input(tiny_llama, "memit")
    given = replace(given, weights=EditedWeights(given.model, given.layout))
    z_star = wanted(given)
    first = compute_update(given, EDITS[:1], z_star[:1], EXACT)
    given.weights.apply(first.update)
    given.history.add(first.keys)
    second = compute_update(given, EDITS[1:], z_star[1:], EXACT)
    assert {pair.A.shape[0] for pair in first.update.values()} == {1}
    assert {pair.A.shape[0] for pair in second.update.values()} == {4}
    assert {len(keys) for keys in second.keys.values()} == {4}
    given.weights.to_base()


def test_facts_of_one_key_count_as_they_are_many(tiny_llama_f64):
    given = tiny_input(tiny_llama_f64, "memit")
    given = replace(given, weights=EditedWeights(given.model, given.layout))
    values = values_of(given) | dict.fromkeys((one.id for one in ADA), wanted(given)[0])
    parts = [[EDITS[0], *ADA], [EDITS[1]], [EDITS[2]]]
    orders = [come_to(given, order, values) for order in (parts, parts[::-1], [[*EDITS, *ADA]])]
    assert all(apart(one, other) < 1e-5 for one, other in pairwise(orders))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"neurons": 0.5}, "neurons"),
        ({"protect": 0.5, "norm_clamp": 2.0}, "protect, norm_clamp"),
        ({"history": False}, "history=false"),
    ],
)
def test_what_would_bring_the_order_back_is_refused(fields, says):
    with pytest.raises(UsageError, match=f"exact_order = .*cannot be with {says}; leave that out"):
        method_config("memit", {"exact_order": True, **fields})


def test_without_the_original_weights_it_is_refused(tiny_llama):
    given = tiny_input(tiny_llama, "memit")
    with pytest.raises(UsageError, match="exact_order needs the original weights"):
        compute_update(given, EDITS, wanted(given), EXACT)


@KINDS
@pytest.mark.parametrize("config", [PLAIN, EXACT], ids=["plain", "exact order"])
def test_layers_that_are_not_passed_through_again_leave_every_bit(given, config, monkeypatch):
    values, parts = values_of(given), [EDITS[:2], EDITS[2:]]
    kept = come_to(given, parts, values, config)
    monkeypatch.setattr(Begun, "going_on", lambda self, *_: nullcontext())
    again = come_to(given, parts, values, config)
    assert kept and all(torch.equal(kept[name], again[name]) for name in again)


@pytest.mark.parametrize("prefixes", [("",), ("", "The old man said so. ", "I. ")])
def test_at_one_layer_batches_in_exact_order_are_the_plain_root_and_plain_ones_with_one_context_alone(
    given, prefixes, monkeypatch
):
    """A context's column asks for what is missing there, a plain batch for what the bare prompt misses."""
    given = replace(given, layers=(2,), prefixes=prefixes)
    values = values_of(given)
    made = compute_rebase(given, EDITS, torch.stack([values[edit.id] for edit in EDITS]), PLAIN)
    root = {name: pair.B.double() @ pair.A.double() for name, pair in made.update.items()}
    parts = [[edit] for edit in EDITS]
    assert apart(come_to(given, parts, values), root) < 1e-5
    plain = apart(come_to(given, parts, values, PLAIN), root)
    monkeypatch.setattr(
        Located, "remembered", lambda self, groups, bare_apart: weighed(groups, self.columns(bare_apart))
    )
    every_column = apart(come_to(given, parts, values, PLAIN), root)
    if len(prefixes) == 1:
        assert max(plain, every_column) < 1e-5
    else:
        assert (plain, every_column) == pytest.approx((0.445, 0.383), abs=0.02)
