"""KL from the base against a plain second derivation: whole distributions of one window at a time."""

import math
from contextlib import nullcontext

import pytest
import torch

from editing.errors import EditingError
from editing.layout import layout_of
from editing.measure import kl
from editing.measure.kl import divergence, read_states
from editing.models import LoadedModel
from editing.weights import EditedWeights, Factors
from tests.families import tiny_family

TEXTS = ["The river Nile flows through a very long canyon near the sea.", "", "x", "Ada lives in Rome. " * 12]


@pytest.fixture(params=["gpt2", "llama-tied", "gemma2"])
def loaded(request) -> LoadedModel:
    """One caps its logits, and puts a token before every text."""
    return tiny_family(request.param, bos=request.param == "gemma2")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Windows and chunks small enough that there are several."""
    monkeypatch.setattr(kl, "WINDOW", 24)
    monkeypatch.setattr(kl, "NUMBERS_AT_ONCE", 7 * 321)


def edited(loaded: LoadedModel, size: float) -> EditedWeights:
    layout = layout_of(loaded.model)
    weights = EditedWeights(loaded.model, layout)
    name = layout.weight_name(1)
    m, d = layout.oriented(loaded.model.get_parameter(name)).shape
    generator = torch.Generator().manual_seed(0)
    factors = Factors(size * torch.randn(m, 2, generator=generator), torch.randn(2, d, generator=generator))
    weights.apply({name: factors})
    return weights


def windows(loaded: LoadedModel) -> list[list[int]]:
    """All texts as one, in pieces of 24 with what the tokenizer begins a text with."""
    tokenizer = loaded.tokenizer
    ids = [token for text in TEXTS if text for token in tokenizer.encode(text + "\n", add_special_tokens=False)]
    start = tokenizer.encode("x")[: -len(tokenizer.encode("x", add_special_tokens=False))]
    size = 24 - len(start)
    return [start + ids[i : i + size] for i in range(0, len(ids), size)]


@torch.inference_mode()
def plain_logprobs(loaded: LoadedModel) -> list[torch.Tensor]:
    return [loaded.model(torch.tensor([row])).logits[0].double().log_softmax(-1) for row in windows(loaded)]


def test_it_is_that_of_the_whole_distributions(loaded):
    before = plain_logprobs(loaded)
    states = read_states(loaded.model, loaded.tokenizer, TEXTS, 10_000)
    weights = edited(loaded, 0.5)
    after = plain_logprobs(loaded)
    found = divergence(loaded.model, loaded.tokenizer, TEXTS, 10_000, states, weights.at_base)
    each = [
        torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(1)
        for p, q in zip(before, after, strict=True)
    ]
    every = torch.cat(each)
    assert len(each) > 3 and every.mean() > 1e-3
    assert found.mean == pytest.approx(float(every.mean()), rel=1e-3)
    assert found.largest == pytest.approx(float(every.max()), rel=1e-3)
    assert found.positions == len(every) == len(states)
    means = torch.stack([one.mean() for one in each])
    assert found.stderr == pytest.approx(float(means.std() / len(means) ** 0.5), rel=1e-3)
    same = [(p.argmax(1) == q.argmax(1)) for p, q in zip(before, after, strict=True)]
    assert found.same_top == pytest.approx(float(torch.cat(same).double().mean()))


def test_an_edited_output_matrix_is_the_bases_for_the_base(tiny_llama):
    """What is kept of the base are its states: they meet the base's own matrix."""
    loaded = tiny_llama
    states = read_states(loaded.model, loaded.tokenizer, TEXTS, 10_000)
    matrix = loaded.model.get_output_embeddings().weight
    weights = EditedWeights(loaded.model, layout_of(loaded.model), base={"lm_head.weight": matrix.data})
    before = plain_logprobs(loaded)
    matrix.data = matrix.data * 1.5
    after = plain_logprobs(loaded)
    found = divergence(loaded.model, loaded.tokenizer, TEXTS, 10_000, states, weights.at_base)
    expected = torch.cat([(p.exp() * (p - q)).sum(1) for p, q in zip(before, after, strict=True)]).mean()
    assert found.mean == pytest.approx(float(expected), rel=1e-3) and found.mean > 1e-4


def test_of_the_base_itself_it_is_nothing_and_grows_with_the_change(loaded):
    states = read_states(loaded.model, loaded.tokenizer, TEXTS, 100)
    asked = (loaded.model, loaded.tokenizer, TEXTS, 100, states)
    nothing = divergence(*asked, nullcontext)
    assert abs(nothing.mean) < 1e-12 and nothing.same_top == 1.0 and nothing.positions == len(states)
    sizes = []
    for size in (1e-3, 1e-2):
        weights = edited(loaded, size)
        sizes.append(divergence(*asked, weights.at_base).mean)
        for name, tensor in weights.base.items():
            loaded.model.get_parameter(name).data = tensor
    assert 0 < sizes[0] < sizes[1]


def test_states_of_other_texts_and_a_broken_model_are_told(tiny_llama):
    loaded = tiny_llama
    states = read_states(loaded.model, loaded.tokenizer, TEXTS, 10_000)
    asked = (loaded.model, loaded.tokenizer)
    for texts in (TEXTS[:1], [*TEXTS, "More of it, and more, and still more than that."]):
        with pytest.raises(EditingError, match=r"the base was read at .* positions"):
            divergence(*asked, texts, 10_000, states, nullcontext)
    loaded.model.get_output_embeddings().weight.data[0, 0] = math.nan
    found = divergence(*asked, TEXTS, 10_000, states, nullcontext)
    assert found.mean == found.largest == math.inf and found.stderr is None
