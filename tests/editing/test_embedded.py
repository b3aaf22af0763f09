"""The embedded model: one real correction through search and solve, and back. Skipped where it is not installed."""

from pathlib import Path

import pytest
import torch

from editing.collection import collect_statistics
from editing.config import ValueSearchConfig
from editing.edit import Edit, Probe
from editing.layout import layout_of
from editing.measure.fluency import generate
from editing.measure.metrics import evaluate
from editing.methods.memit import MemitConfig, MethodInput, compute_update
from editing.methods.shared.history import KeyHistory
from editing.models import base_digest
from editing.search.values import search_values
from editing.weights import EditedWeights

EDIT = Edit(
    subject="France",
    prompt="The capital of {} is",
    target_new="Rome",
    target_true="Paris",
    paraphrases=("The capital city of France is",),
    neighborhood=(Probe(prompt="The capital of Japan is", answer="Tokyo"),),
)
TEXT = (Path(__file__).resolve().parents[2] / "LICENSE").read_text().split("\n\n")
LAYERS = (4, 5)


@torch.no_grad()
def logits(embedded) -> torch.Tensor:
    ids = embedded.tokenizer(EDIT.text, return_tensors="pt")["input_ids"]
    return embedded.model(input_ids=ids).logits


def test_it_knows_the_capital_of_france(embedded):
    [answer] = generate(embedded.model, embedded.tokenizer, [EDIT.text], 4)
    assert answer.startswith(" Paris")


@pytest.mark.slow
def test_a_real_correction_takes_and_goes_back_bit_for_bit(embedded):
    model, tokenizer, layout = embedded.model, embedded.tokenizer, layout_of(embedded.model)
    before = logits(embedded)
    config = MemitConfig(layers=LAYERS, statistics_weight=100.0, search=ValueSearchConfig(steps=12))
    statistics = collect_statistics(
        model, tokenizer, layout, LAYERS, TEXT, base_digest=embedded.digest, source="the license", max_tokens=1024
    )
    [found] = search_values(model, tokenizer, layout, [EDIT], LAYERS[-1], config.search, [""])
    assert found.loss < found.loss_before
    given = MethodInput(model, tokenizer, layout, LAYERS, statistics, KeyHistory(), ("",))
    update = compute_update(given, [EDIT], found.z_star[None], config).update
    weights = EditedWeights(model, layout)
    undo = weights.apply(update)
    try:
        [scores] = evaluate(model, tokenizer, [EDIT])
        [answer] = generate(model, tokenizer, [EDIT.text], 4)
    finally:
        weights.revert(undo)
    assert scores.efficacy_argmax == 1.0 and scores.locality_prob == 1.0 and answer.startswith(" Rome")
    assert base_digest(model) == embedded.digest and torch.equal(logits(embedded), before)
    assert type(model).__name__ == "LlamaForCausalLM"


def test_the_edited_weight_is_where_the_layout_says(embedded):
    name = layout_of(embedded.model).weight_name(5)
    assert name == "model.layers.5.mlp.down_proj.weight" and embedded.model.get_parameter(name).shape == (576, 1536)
