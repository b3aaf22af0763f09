"""Laws of what gradient methods learn from: the loss is the one that the model itself gives its targets."""

from dataclasses import replace

import pytest
import torch

from editing.layout import layout_of
from editing.methods.gradients.lower_states import lower_states
from editing.methods.gradients.targets import encode_pairs, encode_targets, target_logits, target_loss
from tests.editing.test_methods import EDITS
from tests.families import FAMILIES, tiny_family
from tests.reference import plain_logprob


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "llama"])
@torch.no_grad()
def test_the_loss_is_the_sum_of_each_targets_mean_or_all_their_tokens_as_the_model_itself_scores_them(family):
    tiny = tiny_family(family)
    tiny.model.get_output_embeddings().weight.mul_(20)  # so large that it shows where Gemma 2 caps logits
    pairs = [(edit.text, edit.target_new) for edit in EDITS]
    expected = -sum(plain_logprob(tiny.model, tiny.tokenizer, *pair) for pair in pairs)
    for targets in (
        encode_targets(tiny.model, tiny.tokenizer, EDITS),
        encode_pairs(tiny.model, tiny.tokenizer, pairs),
    ):
        assert float(target_loss(tiny.model, targets)) == pytest.approx(expected, rel=1e-4)
    lengths = [len(tiny.tokenizer(" " + target)["input_ids"]) for _, target in pairs]
    whole = -sum(
        length * plain_logprob(tiny.model, tiny.tokenizer, *pair) for length, pair in zip(lengths, pairs, strict=True)
    )
    assert len(set(lengths)) > 1
    assert float(target_loss(tiny.model, targets.summed())) == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_kept_states_give_what_a_whole_pass_gives(name):
    tiny = tiny_family(name)
    layers = len(layout_of(tiny.model).layer_list(tiny.model))
    targets = encode_targets(tiny.model, tiny.tokenizer, EDITS)
    whole = target_logits(tiny.model, targets)
    below = lower_states(tiny.model, layers - 1)
    for _ in range(2):  # run, then remembered
        torch.testing.assert_close(
            target_logits(tiny.model, replace(targets, below=below)), whole, atol=1e-4, rtol=1e-4
        )
    assert below is not None and len(below.memo.found) == len(EDITS) and lower_states(tiny.model, 0) is None


def test_what_finds_no_room_is_run_anew(tiny_llama, monkeypatch):
    monkeypatch.setattr("editing.methods.gradients.memo.MEMO_BYTES", 1)
    targets, below = encode_targets(tiny_llama.model, tiny_llama.tokenizer, EDITS), lower_states(tiny_llama.model, 2)
    first, second = (target_logits(tiny_llama.model, replace(targets, below=below)) for _ in range(2))
    assert below is not None and not below.memo.found and torch.equal(first, second)
