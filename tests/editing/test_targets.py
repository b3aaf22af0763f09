"""Laws of what gradient methods learn from: the loss is the one that the model itself gives its targets."""

import pytest
import torch

from editing.targets import encode_pairs, encode_targets, target_loss
from tests.editing.test_methods import EDITS
from tests.families import tiny_family
from tests.reference import plain_logprob


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "llama"])
@torch.no_grad()
def test_the_loss_is_the_sum_of_each_targets_mean_as_the_model_itself_scores_it(family):
    tiny = tiny_family(family)
    tiny.model.get_output_embeddings().weight.mul_(20)  # so large that it shows where Gemma 2 caps logits
    pairs = [(edit.text, edit.target_new) for edit in EDITS]
    expected = -sum(plain_logprob(tiny.model, tiny.tokenizer, *pair) for pair in pairs)
    for targets in (
        encode_targets(tiny.model, tiny.tokenizer, EDITS),
        encode_pairs(tiny.model, tiny.tokenizer, pairs),
    ):
        assert float(target_loss(tiny.model, targets)) == pytest.approx(expected, rel=1e-4)
