"""Laws of fine-tuning one weight: nothing is lost by its factors, the change is bounded, the loss falls."""

from dataclasses import replace

import pytest
import torch

from editing.edit import Edit
from editing.errors import ModelError, SearchError, UsageError
from editing.layout import layout_of
from editing.measure.scoring import score
from editing.methods import compute_update, method_config
from editing.methods.finetune import _basis
from editing.methods.gradients.targets import encode_targets, target_loss
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.weights import overlay
from tests.editing.test_methods import EDITS

LAYER = 1


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def given(request) -> MethodInput:
    tiny = request.getfixturevalue(request.param)
    return MethodInput(tiny.model, tiny.tokenizer, layout_of(tiny.model), (LAYER,), None, KeyHistory(), ("",))


def tuned(given: MethodInput, edits=EDITS, **fields: object):
    update = compute_update(given, edits, torch.zeros(len(edits), 0), method_config("finetune", fields)).update
    [pair] = update.values()
    return update, pair


@pytest.mark.parametrize("objective", ["target", "last"])
def test_the_gradient_of_the_whole_weight_lies_in_the_span_that_is_tuned(given, objective):
    targets = encode_targets(given.model, given.tokenizer, EDITS, at_last=objective == "last")
    rows, places = targets.rows, targets.places
    Q = _basis(given, LAYER, rows)
    W = given.model.get_parameter(given.layout.weight_name(LAYER)).requires_grad_(True)
    logits = given.model(rows.input_ids, attention_mask=rows.attention_mask, position_ids=rows.position_ids).logits
    wanted = -logits.log_softmax(-1)[places[:, 0], places[:, 1], targets.tokens]
    (gradient,) = torch.autograd.grad((wanted * targets.weights).sum(), W)
    W.requires_grad_(False)
    G = given.layout.oriented(gradient)
    torch.testing.assert_close(G @ Q @ Q.T, G, atol=1e-5 * float(G.abs().max()), rtol=0)
    assert float(G.norm()) > 0 and Q.shape[1] < Q.shape[0]


@pytest.mark.parametrize("norm_limit", [1e-3, 0.1])
def test_the_change_stays_within_its_bound(given, norm_limit):
    _, pair = tuned(given, norm_limit=norm_limit, learning_rate=0.1, stop_loss=0.0)
    limit = norm_limit * float(given.model.get_parameter(given.layout.weight_name(LAYER)).norm())
    assert 0.5 * limit < float((pair.B @ pair.A).norm()) <= limit * (1 + 1e-5)


@pytest.mark.parametrize("objective", ["target", "last"])
def test_the_targets_become_more_probable(given, objective):
    asked = [(edit.text, edit.target_new) for edit in EDITS]
    before = [one.mean_logprob for one in score(given.model, given.tokenizer, asked)]
    update, _ = tuned(given, objective=objective, norm_limit=1.0, learning_rate=0.01)
    with overlay(given.model, given.layout, update):
        after = [one.mean_logprob for one in score(given.model, given.tokenizer, asked)]
    assert sum(after) > sum(before)


def test_a_loss_that_becomes_non_finite_names_the_edit(given):
    edit = Edit(id="bad", subject="x", prompt="{}", target_new="y")
    given.model.get_parameter(given.layout.weight_name(2))[0, 0] = float("nan")
    with pytest.raises(SearchError, match=r"fine-tuning on bad: the loss became nan at step 1; lower learning_rate"):
        tuned(given, [edit])


def test_a_minibatch_of_all_edits_is_the_whole_batch(given):
    """But for the order in which the edits' losses are added."""
    whole, parts = tuned(given)[1], tuned(given, minibatch=len(EDITS))[1]
    expected = whole.B @ whole.A
    torch.testing.assert_close(parts.B @ parts.A, expected, atol=2e-3 * float(expected.abs().max()), rtol=0)


def test_minibatches_go_over_all_edits_in_every_pass_in_a_seeded_order(given, monkeypatch):
    seen, real = [], encode_targets

    def encode(model, tokenizer, edits, **options):
        seen.append([edit.subject for edit in edits])
        return real(model, tokenizer, edits, **options)

    monkeypatch.setattr("editing.methods.finetune.encode_targets", encode)
    fields = {"minibatch": 2, "steps": 4, "stop_loss": 0.0}
    _, pair = tuned(given, **fields)
    passes = seen[1:]  # the first call is for the basis
    assert [len(part) for part in passes] == [2, 1] * 4
    subjects = sorted(edit.subject for edit in EDITS)
    assert all(sorted(passes[i] + passes[i + 1]) == subjects for i in range(0, 8, 2))
    assert torch.equal(tuned(given, **fields)[1].B, pair.B)
    assert not torch.equal(tuned(given, **fields, seed=7)[1].B, pair.B)


@pytest.mark.slow
def test_the_end_of_text_is_learnt_after_the_target_if_wanted(given):
    fields = {"norm_limit": 1.0, "learning_rate": 0.01, "minibatch": 2}
    ended = []
    for append in (False, True):
        update, _ = tuned(given, append_eos=append, **fields)
        targets = encode_targets(given.model, given.tokenizer, EDITS, append_eos=True)
        last = torch.cat([targets.places[1:, 0] != targets.places[:-1, 0], torch.tensor([True])])
        assert set(targets.tokens[last].tolist()) == {given.tokenizer.eos_token_id}
        with overlay(given.model, given.layout, update):
            ended.append(float(target_loss(given.model, replace(targets, weights=last.float()))))
    assert ended[1] < ended[0]


def test_the_end_of_text_is_refused_where_it_cannot_be_asked_for(given):
    with pytest.raises(UsageError, match=r"append_eos = True: .*the end of text follows the target; take objective"):
        method_config("finetune", {"objective": "last", "append_eos": True})
    given.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="the tokenizer has no end of text to append to targets; leave append_eos out"):
        tuned(given, append_eos=True)
