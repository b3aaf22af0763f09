"""Twenty MEND edits one after the other on a real GPT-2: they hold together, and each can be gone back to."""

from dataclasses import dataclass

import pytest
import torch
from transformers import GPT2LMHeadModel

from editing.covariance import KeyStatistics
from editing.layout import layout_of
from editing.measure.metrics import evaluate, summarise
from editing.methods import compute_update, method_config
from editing.methods.mend.files import save_network
from editing.methods.mend.options import MendTraining
from editing.methods.mend.training import MendTrainer
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.models import LoadedModel, base_digest, load_model, quiet_transformers
from editing.weights import EditedWeights, Undo, WeightUpdate, concatenate
from tests.costs import further
from tests.fact_model import fact_edits

pytestmark = [pytest.mark.slow, further]  # they share what takes seconds to prepare

EDITS = fact_edits(20, seed=5)
LAYERS = (1, 2, 3)
TOGETHER = MendTraining(
    rank=64, edit_weight=1.0, step_size=0.03, learning_rate=1e-2, edits_together=20, batch=1, ridge=None
)
"""A hypernetwork learns to make as many edits as are then in force together, here each written by itself."""


@dataclass
class Sequence:
    loaded: LoadedModel
    weights: EditedWeights
    updates: list[WeightUpdate]
    undos: list[Undo]
    digests: list[str]
    """Of the whole model: the base's, then after each edit."""
    each: dict[str, float]
    """Metrics of each edit right after it was written."""


@pytest.fixture(scope="module")
def sequence(fact_model_path, tmp_path_factory) -> Sequence:
    folder = tmp_path_factory.mktemp("sequence")
    facts = load_model(str(fact_model_path), cache=folder)
    trainer = MendTrainer.start(facts, EDITS, LAYERS, config=TOGETHER)
    for _ in range(60):
        trainer.train_step()
    assert base_digest(facts.model) == facts.digest
    save_network(trainer.network, folder / "h")
    config, layout = method_config("mend", {"hypernetwork": str(folder / "h")}), layout_of(facts.model)
    weights, statistics = EditedWeights(facts.model, layout), KeyStatistics({}, 0, facts.digest, "none")
    given = MethodInput(facts.model, facts.tokenizer, layout, LAYERS, statistics, KeyHistory(), ("",), weights)
    made, each = Sequence(facts, weights, [], [], [facts.digest], {}), []
    for edit in EDITS:
        made.updates.append(compute_update(given, [edit], torch.zeros(1, 0), config).update)
        made.undos.append(weights.apply(made.updates[-1]))
        made.digests.append(base_digest(facts.model))
        each += evaluate(facts.model, facts.tokenizer, [edit])
    made.each = summarise(each)
    return made


def test_twenty_edits_in_sequence_hold_together(sequence):
    facts = sequence.loaded
    with sequence.weights.at_base():
        before = {one.edit_id: one for one in evaluate(facts.model, facts.tokenizer, EDITS)}
    after = evaluate(facts.model, facts.tokenizer, EDITS, before=before)
    found = summarise(after)
    print(f"each when written {sequence.each['efficacy_argmax']:.2f}, the last {after[-1].efficacy_argmax:.0f}, "
          f"all at the end {found['efficacy_argmax']:.2f}, neighbors kept {found['locality_kept']:.2f}")  # fmt: skip
    assert not any(one.efficacy_argmax for one in before.values())
    assert after[-1].efficacy_prob == 1.0 and found["efficacy_argmax"] >= 0.7 and found["locality_kept"] >= 0.6
    assert len(set(sequence.digests)) == 21


def test_the_model_of_twenty_edits_is_a_plain_one(sequence, tmp_path):
    model = sequence.loaded.model
    assert type(model) is GPT2LMHeadModel
    with quiet_transformers():
        model.save_pretrained(tmp_path)
        again = GPT2LMHeadModel.from_pretrained(tmp_path)
    ids = sequence.loaded.tokenizer(EDITS[0].text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, model(ids).logits)


def test_every_state_of_the_sequence_comes_back_to_the_bit(sequence, fact_model_path, tmp_path):
    model, weights = sequence.loaded.model, sequence.weights
    fresh = load_model(str(fact_model_path), cache=tmp_path)
    for number in (1, 7, 19, 20):
        rebuilt = EditedWeights(fresh.model, layout_of(fresh.model))
        undo = rebuilt.apply(concatenate(sequence.updates[:number]))
        assert base_digest(fresh.model) == sequence.digests[number], number
        rebuilt.revert(undo)
    for number in reversed(range(20)):
        weights.revert(sequence.undos[number])
        assert base_digest(model) == sequence.digests[number], number
    for update in sequence.updates:
        weights.apply(update)
    assert base_digest(model) == sequence.digests[20]
