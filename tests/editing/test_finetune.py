"""Laws of fine-tuning one weight: nothing is lost by its factors, the change is bounded, the loss falls."""

import pytest
import torch

from editing.edit import Edit
from editing.errors import SearchError
from editing.history import KeyHistory
from editing.layout import layout_of
from editing.methods import compute_update, method_config
from editing.methods.base import Setting
from editing.methods.finetune import _basis, _wanted
from editing.scoring import score
from editing.weights import overlay
from tests.editing.test_methods import EDITS

LAYER = 1


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def setting(request) -> Setting:
    tiny = request.getfixturevalue(request.param)
    return Setting(tiny.model, tiny.tokenizer, layout_of(tiny.model), (LAYER,), None, KeyHistory(), ("",))


def tuned(setting: Setting, edits=EDITS, **fields: object):
    update = compute_update(setting, edits, torch.zeros(len(edits), 0), method_config("finetune", fields)).update
    [pair] = update.values()
    return update, pair


@pytest.mark.parametrize("objective", ["target", "last"])
def test_the_gradient_of_the_whole_weight_lies_in_the_span_that_is_tuned(setting, objective):
    rows, places, targets, weights = _wanted(setting, EDITS, objective)
    Q = _basis(setting, LAYER, rows)
    W = setting.model.get_parameter(setting.layout.weight_name(LAYER)).requires_grad_(True)
    logits = setting.model(rows.input_ids, attention_mask=rows.attention_mask, position_ids=rows.position_ids).logits
    wanted = -logits.log_softmax(-1)[places[:, 0], places[:, 1], targets]
    (gradient,) = torch.autograd.grad((wanted * weights).sum(), W)
    W.requires_grad_(False)
    G = setting.layout.oriented(gradient)
    torch.testing.assert_close(G @ Q @ Q.T, G, atol=1e-5 * float(G.abs().max()), rtol=0)
    assert float(G.norm()) > 0 and Q.shape[1] < Q.shape[0]


@pytest.mark.parametrize("norm_limit", [1e-3, 0.1])
def test_the_change_stays_within_its_bound(setting, norm_limit):
    _, pair = tuned(setting, norm_limit=norm_limit, learning_rate=0.1, stop_loss=0.0)
    limit = norm_limit * float(setting.model.get_parameter(setting.layout.weight_name(LAYER)).norm())
    assert 0.5 * limit < float((pair.B @ pair.A).norm()) <= limit * (1 + 1e-5)


@pytest.mark.parametrize("objective", ["target", "last"])
def test_the_targets_become_more_probable(setting, objective):
    asked = [(edit.text, edit.target_new) for edit in EDITS]
    before = [one.mean_logprob for one in score(setting.model, setting.tokenizer, asked)]
    update, _ = tuned(setting, objective=objective, norm_limit=1.0, learning_rate=0.01)
    with overlay(setting.model, setting.layout, update):
        after = [one.mean_logprob for one in score(setting.model, setting.tokenizer, asked)]
    assert sum(after) > sum(before)


def test_a_loss_that_becomes_non_finite_names_the_edit(setting):
    edit = Edit(id="bad", subject="x", prompt="{}", target_new="y")
    setting.model.get_parameter(setting.layout.weight_name(2))[0, 0] = float("nan")
    with pytest.raises(SearchError, match=r"fine-tuning on bad: the loss became nan at step 1; lower learning_rate"):
        tuned(setting, [edit])
