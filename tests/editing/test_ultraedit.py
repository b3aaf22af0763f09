"""Laws of UltraEdit: features are what autograd's gradient is made of, statistics add up, the step is the formula."""

import pytest
import torch

from editing.edit import Edit
from editing.errors import ModelError, SearchError
from editing.layout import layout_of
from editing.measure.scoring import score
from editing.methods import compute_independent_updates, compute_update, method_config
from editing.methods.gradients.features import feature_moments, gradient_parts
from editing.methods.gradients.targets import encode_targets, target_loss
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.methods.ultraedit import mean_and_deviation
from editing.weights import EditedWeights, overlay
from tests.conftest import tiny_model
from tests.editing.test_methods import EDITS

LAYERS = (1, 2)
INSIDE = {"llama": "mlp.up_proj", "gpt2": "mlp.c_fc"}
ONE_TOKEN = Edit(subject="Nile", prompt="The river {} flows to", target_new="the")


def a_input(kind: str, dtype: torch.dtype = torch.float64) -> MethodInput:
    tiny = tiny_model(kind, dtype)
    return MethodInput(tiny.model, tiny.tokenizer, layout_of(tiny.model), LAYERS, None, KeyHistory(), ("",))


@pytest.fixture(params=["llama", "gpt2"])
def kind(request) -> str:
    return request.param


def updated(given: MethodInput, edits=EDITS, **fields: object):
    return compute_update(given, edits, torch.zeros(len(edits), 0), method_config("ultraedit", fields))


def delta(factors) -> torch.Tensor:
    return factors.B.double() @ factors.A.double()


@pytest.mark.parametrize("inside", [False, True])
def test_inputs_and_output_gradients_make_up_the_weights_gradient(kind, inside):
    given = a_input(kind)
    targets = encode_targets(given.model, given.tokenizer, EDITS)
    modules = given.layout.projections(given.model, LAYERS, [INSIDE[kind]] if inside else [])
    parts = gradient_parts(given.model, modules, targets)
    weights = [given.model.get_parameter(name).requires_grad_(True) for name in modules]
    for name, gradient in zip(modules, torch.autograd.grad(target_loss(given.model, targets), weights), strict=True):
        u, g = (part.flatten(0, 1) for part in parts[name])
        assert float(gradient.norm()) > 0
        torch.testing.assert_close(g.T @ u, given.layout.oriented(gradient), atol=1e-12, rtol=1e-9)


def plain_ultraedit(given: MethodInput, edits, scale: float, ridge: float) -> dict[str, torch.Tensor]:
    """The paper's steps for one batch, edit by edit, with torch's own mean and deviation and the d x d inverse."""
    model, deltas = given.model, {}
    for layer in LAYERS:
        module, H, G = given.layout.projection(model, layer), [], []
        for edit in edits:
            targets = encode_targets(model, given.tokenizer, [edit])
            kept = {}
            hook = module.register_forward_hook(
                lambda m, x, y, kept=kept: kept.update(h=x[0], y=y.requires_grad_(True))
            )
            loss = target_loss(model, targets)
            hook.remove()
            (g,) = torch.autograd.grad(loss, kept["y"])
            count = len(targets.tokens)
            H.append(kept["h"][0, -count:].detach())
            G.append(g[0, -count:])
        H, G = torch.cat(H).double(), torch.cat(G).double()
        H_hat, G_hat = ((X - X.mean(0)) / X.std(0) for X in (H, G))
        V = -scale * H_hat.square().sum(1, keepdim=True) * G_hat
        inverse = torch.linalg.inv(H.T @ H + ridge * torch.eye(H.shape[1], dtype=H.dtype))
        deltas[given.layout.weight_name(layer)] = (inverse @ H.T @ V).T
    return deltas


def test_the_update_is_the_papers_formula(kind):
    given = a_input(kind)
    expected = plain_ultraedit(given, EDITS, scale=0.3, ridge=0.7)
    found = updated(given, scale=0.3, ridge=0.7).update
    assert found.keys() == expected.keys()
    for name, factors in found.items():
        torch.testing.assert_close(
            delta(factors), expected[name], atol=1e-5 * float(expected[name].abs().max()), rtol=0
        )


@pytest.mark.parametrize("sizes", [(4, 4, 2), (1, 9), (1,) * 10])
def test_statistics_of_batches_are_those_of_all_at_once(sizes):
    Z = torch.randn(10, 6, dtype=torch.float64) * torch.logspace(-6, 3, 6) + torch.arange(6) * 10
    history = KeyHistory()
    for batch in Z.split(list(sizes)):
        history.add({}, {"w": feature_moments(batch)})
    mean, deviation = mean_and_deviation(history.moments["w"])
    torch.testing.assert_close(mean, Z.mean(0))
    torch.testing.assert_close(deviation, Z.std(0), rtol=1e-4, atol=1e-12)


def test_a_constant_coordinate_and_a_single_feature_stay_finite():
    one = torch.tensor([[2.0, -3.0, 0.0]], dtype=torch.float64)
    mean, deviation = mean_and_deviation(feature_moments(one))
    assert ((one - mean) / deviation).tolist() == [[1.0, -1.0, 0.0]]
    same = torch.tensor([[0.1, 0.0]] * 3, dtype=torch.float64)
    mean, deviation = mean_and_deviation(feature_moments(same))
    assert ((same - mean) / deviation).abs().max() < 1e-6


def test_an_edit_of_one_token_alone_is_a_finite_step_downhill(kind):
    given = a_input(kind)
    targets = encode_targets(given.model, given.tokenizer, [ONE_TOKEN])
    assert len(targets.tokens) == 1
    update = updated(given, [ONE_TOKEN], scale=1e-3).update
    with overlay(given.model, given.layout, update):
        after = target_loss(given.model, targets)
    assert after < target_loss(given.model, targets)


def test_a_feature_does_not_depend_on_the_size_of_its_batch(kind):
    given = a_input(kind)
    parts = [updated(given, [edit]).moments for edit in EDITS]
    for name, sums in updated(given).moments.items():
        torch.testing.assert_close(sum(part[name] for part in parts), sums, rtol=1e-9, atol=1e-15)


def test_earlier_batches_take_part_in_the_normalisation_until_they_are_undone(kind):
    given = a_input(kind)
    alone, first = updated(given, EDITS[2:]), updated(given, EDITS[:2])
    given.history.add(first.keys, first.moments)
    after = updated(given, EDITS[2:])
    for name, factors in alone.update.items():
        assert torch.equal(after.moments[name], alone.moments[name])
        assert not torch.allclose(delta(after.update[name]), delta(factors))
    [independent] = compute_independent_updates(given, EDITS[2:], torch.zeros(1, 0), method_config("ultraedit"))
    assert all(torch.equal(factors.B, after.update[name].B) for name, factors in independent.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_targets_become_more_probable(kind, dtype):
    given = a_input(kind, dtype)
    asked = [(edit.text, edit.target_new) for edit in EDITS]
    before = [one.mean_logprob for one in score(given.model, given.tokenizer, asked)]
    EditedWeights(given.model, given.layout).apply(updated(given, scale=0.02).update)
    after = [one.mean_logprob for one in score(given.model, given.tokenizer, asked)]
    assert sum(after) > sum(before)
    assert {parameter.dtype for parameter in given.model.parameters()} == {dtype}


def test_other_projections_can_be_edited_by_name(kind):
    given = a_input(kind)
    update = updated(given, projections=[INSIDE[kind]]).update
    assert all(INSIDE[kind] in name for name in update) and len(update) == len(LAYERS)
    EditedWeights(given.model, given.layout).apply(update)
    with pytest.raises(ModelError, match=r"layer 1 has no projection 'mlp\.act'; it has .*mlp\."):
        updated(given, projections=["mlp.act"])


def test_a_loss_that_is_not_finite_is_refused_and_leaves_no_hook(kind):
    given = a_input(kind)
    given.model.get_parameter(given.layout.weight_name(3))[0, 0] = float("nan")
    with pytest.raises(SearchError, match="the loss of the targets is nan"):
        updated(given)
    assert not any(module._forward_hooks for module in given.model.modules())
