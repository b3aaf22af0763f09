"""Independent edits scored or continued together give what each gives alone, overlaid or written."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing import linear, weights
from editing.edit import Edit, Probe
from editing.errors import EditingError
from editing.layout import layout_of
from editing.linear import onednn_linear
from editing.measure import fluency, scoring
from editing.measure.fluency import generate
from editing.measure.metrics import evaluate
from editing.measure.scoring import score
from editing.models import base_digest
from editing.weights import EditedWeights, Factors, overlay, parts_in_memory
from tests.conftest import tiny_model

PAIRS = [
    ("Ada was born in", "London"),
    ("Ada was born in", "a very small town"),
    ("The moon", "is"),
    ("x", "ÿ語"),
    ("Ada was born in", "London"),
]
NEIGHBORS = (Probe(prompt="Bob lives in"), Probe(prompt="Eve lives in a", answer="Paris"))
EDITS = [
    Edit(id=name, subject=name, prompt="{} lives in", target_new="Rome", target_true="London", neighborhood=NEIGHBORS)
    for name in ("Ada", "Bob", "Nile", "Eve", "Tom")
]


def update(model, seed, rank, layers):
    """A random update large enough to be seen."""
    layout, generator = layout_of(model), torch.Generator().manual_seed(seed)
    made = {}
    for layer in layers:
        m, d = layout.oriented(model.get_parameter(layout.weight_name(layer))).shape
        B, A = torch.randn(m, rank, generator=generator), torch.randn(rank, d, generator=generator)
        made[layout.weight_name(layer)] = Factors(B, A)
    return made


@pytest.fixture(params=["llama", "gpt2"])
def architecture(request):
    return request.param


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def tiny(request, architecture):
    return sure(tiny_model(architecture, request.param))


@pytest.fixture
def tiny_f32(architecture):
    return sure(tiny_model(architecture))


def sure(loaded):
    """Its matrices enlarged, so that tokens differ in probability."""
    for parameter in loaded.model.parameters():
        if parameter.dim() == 2:
            parameter.mul_(6)
    return loaded


def updates_for(model):
    """Of different weights and ranks, one missing, one empty."""
    return [update(model, 1, 1, (1,)), update(model, 2, 5, (0, 2)), None, update(model, 3, 2, (1, 2)), {}]


@contextmanager
def written(model, one):
    edited = EditedWeights(model, layout_of(model))
    undo = edited.apply(one)
    yield
    edited.revert(undo)


def test_scores_with_an_update_each_equal_overlaid_and_written_ones(tiny):
    model, digest, made = tiny.model, base_digest(tiny.model), updates_for(tiny.model)
    together = score(model, tiny.tokenizer, PAIRS, updates=made)
    close = 1e-4 if model.dtype == torch.float32 else 0.01
    for pair, one, found, base in zip(PAIRS, made, together, score(model, tiny.tokenizer, PAIRS), strict=True):
        with overlay(model, layout_of(model), one or {}):
            [alone] = score(model, tiny.tokenizer, [pair])
        with written(model, one or {}):
            [after] = score(model, tiny.tokenizer, [pair])
        assert found.mean_logprob == pytest.approx(alone.mean_logprob, abs=close)
        assert found.mean_logprob == pytest.approx(after.mean_logprob, abs=close)
        assert (abs(found.mean_logprob - base.mean_logprob) > 5 * close) == bool(one)
    assert base_digest(model) == digest


def test_edits_evaluated_together_measure_what_each_measures_written_alone(tiny_f32):
    model, tokenizer, made = tiny_f32.model, tiny_f32.tokenizer, updates_for(tiny_f32.model)
    before = {one.edit_id: one for one in evaluate(model, tokenizer, EDITS)}
    together = evaluate(model, tokenizer, EDITS, before=before, updates=made)
    assert together != list(before.values())
    for edit, one, found in zip(EDITS, made, together, strict=True):
        with written(model, one or {}):
            assert evaluate(model, tokenizer, [edit], before=before) == [found]


@pytest.mark.parametrize("seed", [None, 3])
def test_prompts_continued_together_say_what_each_says_alone(tiny_f32, monkeypatch, seed):
    model, tokenizer, made = tiny_f32.model, tiny_f32.tokenizer, updates_for(tiny_f32.model)
    monkeypatch.setattr(fluency, "ROWS_AT_ONCE", 3)
    prompts = ["Ada lives in", "The", "The river Nile", "x", "Bob is"]
    together = generate(model, tokenizer, prompts, 12, seed=seed, updates=made)
    assert together != generate(model, tokenizer, prompts, 12, seed=seed)
    for prompt, one, found in zip(prompts, made, together, strict=True):
        with written(model, one or {}):
            assert generate(model, tokenizer, [prompt], 12, seed=seed) == [found]


def test_few_factors_at_a_time_change_nothing(tiny_f32, monkeypatch):
    made = updates_for(tiny_f32.model)
    whole = score(tiny_f32.model, tiny_f32.tokenizer, PAIRS, updates=made)
    monkeypatch.setattr(weights, "FACTORS_AT_ONCE", 1)
    sizes: list[int] = []
    monkeypatch.setattr(
        scoring, "overlay", lambda model, layout, some: sizes.append(len(some)) or overlay(model, layout, some)
    )
    pieces = score(tiny_f32.model, tiny_f32.tokenizer, PAIRS, updates=made)
    assert [one.mean_logprob for one in pieces] == pytest.approx([one.mean_logprob for one in whole], abs=1e-3)
    assert sum(sizes) == len(PAIRS) and max(sizes) <= 3  # an update each, or one and those without factors


@given(st.lists(st.integers(0, 6), max_size=12))
def test_parts_hold_every_row_in_order_and_no_more_factors_than_allowed(ranks):
    made = [{"w": Factors(torch.zeros(1, rank), torch.zeros(rank, 1))} for rank in ranks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "FACTORS_AT_ONCE", 10)
        parts = [list(range(len(ranks)))[part] for part in parts_in_memory(made)]
    assert [row for part in parts for row in part] == list(range(len(ranks)))
    assert all(len(part) == 1 or 2 * sum(ranks[row] for row in part) <= 10 for part in parts)


def test_another_number_of_updates_is_refused(tiny_llama):
    model, tokenizer = tiny_llama.model, tiny_llama.tokenizer
    with pytest.raises(EditingError, match="5 edits have 1 updates; give one for each edit"):
        evaluate(model, tokenizer, EDITS, updates=[None])
    with pytest.raises(EditingError, match="1 prompts have 2 updates"):
        generate(model, tokenizer, ["x"], 3, updates=[None, None])
    some = update(model, 0, 1, (1,))
    with (
        pytest.raises(EditingError, match="a batch of 3 rows has 2 updates"),
        overlay(model, layout_of(model), [some, {}]),
    ):
        model(input_ids=torch.tensor([[1], [2], [3]]))
    model(input_ids=torch.tensor([[1], [2], [3]]))  # nothing is left of it


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_by_onednn_gives_the_same(bias):
    generator = torch.Generator().manual_seed(0)
    x, W = torch.randn(2, 40, 24, generator=generator), torch.randn(48, 24, generator=generator)
    b = torch.randn(48, generator=generator) if bias else None
    expected = torch.nn.functional.linear(x, W, b)
    torch.testing.assert_close(onednn_linear(x, W, b), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(onednn_linear(x.mT.contiguous().mT, W, b), expected, atol=1e-5, rtol=1e-5)


def test_fast_products_leave_gradients_of_weights_few_tokens_and_other_dtypes_to_torch(tiny_llama, monkeypatch):
    calls: list[torch.dtype] = []
    monkeypatch.setattr(linear, "onednn_linear", lambda x, W, b: calls.append(x.dtype) or x @ W.T)
    monkeypatch.setattr(linear, "fastest_product", lambda: linear.by_onednn)
    layer = tiny_llama.model.model.layers[1].mlp.down_proj
    x = torch.randn(3, 30, 64)
    with linear.fast_linear(tiny_llama.model):
        layer.requires_grad_(True)
        layer(x)
        layer.requires_grad_(False)
        with torch.no_grad():
            layer(x[:1, :3])
            layer.double()(x.double())
        assert calls == []
