"""Laws of MEND's updates: what an untrained hypernetwork does, what a trained one computes, what is refused."""

from unittest import mock

import pytest
import torch

from editing.config import layers_for
from editing.covariance import KeyStatistics
from editing.digests import tensor_digest
from editing.errors import HypernetworkError
from editing.layout import layout_of
from editing.measure.scoring import score
from editing.methods import compute_independent_updates, compute_update, method_config
from editing.methods.gradients.features import feature_moments, gradient_parts, token_gradients
from editing.methods.gradients.targets import encode_targets, target_loss
from editing.methods.mend.combine import combine
from editing.methods.mend.files import load_network, save_network
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.models import base_digest
from editing.weights import EditedWeights
from tests.conftest import tiny_model
from tests.editing.test_methods import EDITS
from tests.hypernetworks import moved, untrained

LAYERS = (1, 2)
BOTH = {"llama": ("mlp.up_proj", "mlp.down_proj"), "gpt2": ("mlp.c_fc", "mlp.c_proj")}


@pytest.fixture(params=["llama", "gpt2"])
def kind(request) -> str:
    return request.param


def a_input(kind: str, dtype: torch.dtype = torch.float64, layers=LAYERS) -> MethodInput:
    tiny = tiny_model(kind, dtype)
    statistics = KeyStatistics({}, 0, tiny.digest, "none")
    return MethodInput(tiny.model, tiny.tokenizer, layout_of(tiny.model), layers, statistics, KeyHistory(), ("",))


def network_of(given: MethodInput, projections=(), **options):
    return untrained(given.model, given.statistics.base_digest, given.layers, projections, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hypernetwork.safetensors"


def updated(given: MethodInput, path, edits=EDITS, **fields):
    config = method_config("mend", {"hypernetwork": str(path), "confidence": None, **fields})
    return compute_update(given, edits, torch.zeros(len(edits), 0), config).update


def alone(given: MethodInput, path, edits=EDITS):
    config = method_config("mend", {"hypernetwork": str(path), "confidence": None})
    return compute_independent_updates(given, edits, torch.zeros(len(edits), 0), config)


def delta(factors) -> torch.Tensor:
    return factors.B.double() @ factors.A.double()


def tokens_of(given: MethodInput, names, edits=EDITS):
    modules = {name: given.model.get_submodule(name.removesuffix(".weight")) for name in names}
    return token_gradients(given.model, modules, encode_targets(given.model, given.tokenizer, edits).summed())


def gradient_of(given: MethodInput, names) -> list[torch.Tensor]:
    """Autograd's own gradient of the weights, (m, d)."""
    weights = [given.model.get_parameter(name).requires_grad_(True) for name in names]
    loss = target_loss(given.model, encode_targets(given.model, given.tokenizer, EDITS).summed())
    found = torch.autograd.grad(loss, weights)
    for weight in weights:
        weight.requires_grad_(False)
    return [given.layout.oriented(one) for one in found]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("seen", [False, True])
def test_an_untrained_hypernetwork_steps_along_the_plain_gradient(kind, inside, seen, path):
    given, projections = a_input(kind), BOTH[kind] if inside else ()
    network = network_of(given, projections, step_size=0.5)
    if seen:
        network.observe(tokens_of(given, network.spec.shapes))
    save_network(network, path)
    update = updated(given, path, projections=projections)
    assert len(update) == len(LAYERS) * (2 if inside else 1)
    for name, gradient in zip(update, gradient_of(given, update), strict=True):
        scale = float(gradient.abs().max())
        torch.testing.assert_close(delta(update[name]), -0.5 * gradient, atol=1e-6 * scale, rtol=1e-4)


def plain_transform(network, name: str, u, g, seen):
    """The paper's equations for one token of one weight; parameters by their names in the file."""
    shape = network.spec.shapes[name]
    weight = [one for one in network.spec.shapes if network.spec.shapes[one] == shape].index(name)
    own = {
        key.removeprefix(f"transforms.{shape[0]}x{shape[1]}."): value.double()
        for key, value in network.state_dict().items()
    }
    z = torch.cat([u, g]).double()
    mean, deviation = seen.mean(0), seen.std(0)
    x = h = (z - mean) / deviation
    for block, activation in (("blocks.0.", torch.relu), ("blocks.1.", lambda values: values)):
        low_rank = own[block + "U"] @ (own[block + "V"] @ h) + own[block + "bias"]
        h = h + activation(own[block + "scale"][weight] * low_rank + own[block + "offset"][weight])
    z = z + deviation * (h - x)
    return z[: len(u)], -own["log_step"][weight].exp() * z[len(u) :]


def test_updates_are_the_sum_over_tokens_of_the_papers_equations(kind):
    given = a_input(kind)
    network = moved(network_of(given))
    tokens = tokens_of(given, network.spec.shapes)
    network.observe(tokens)
    for name, one in tokens.items():
        seen = torch.cat([one.u_td, one.delta_tm], dim=1).double()
        expected, start = [], 0
        for length in one.lengths:
            total = 0
            for t in range(start, start + length):
                u, step = plain_transform(network, name, one.u_td[t], one.delta_tm[t], seen)
                total = total + torch.outer(step, u)
            expected.append(total)
            start += length
        for update, wanted in zip(network.updates(tokens), expected, strict=True):
            scale = float(wanted.abs().max())
            torch.testing.assert_close(delta(update[name]).detach(), wanted, atol=1e-4 * scale, rtol=0)


def test_tokens_are_those_whose_output_the_loss_depends_on(kind):
    given = a_input(kind, layers=(2, 3))
    below, last = network_of(given).spec.shapes
    modules = {name: given.model.get_submodule(name.removesuffix(".weight")) for name in (below, last)}
    targets = encode_targets(given.model, given.tokenizer, EDITS).summed()
    tokens, parts = tokens_of(given, modules), gradient_parts(given.model, modules, targets)
    wanted = torch.bincount(targets.places[:, 0]).tolist()
    assert list(tokens[last].lengths) == wanted  # above it nothing mixes tokens
    assert list(tokens[below].lengths) == targets.rows.attention_mask.sum(1).tolist() != wanted
    for name, one in tokens.items():
        u, g = (part.flatten(0, 1) for part in parts[name])
        torch.testing.assert_close(one.delta_tm.double().T @ one.u_td.double(), g.T @ u, atol=1e-7, rtol=1e-4)


def test_moments_give_mean_and_deviation_and_constant_coordinates_are_not_blown_up(kind):
    given = a_input(kind)
    network = network_of(given)
    transform = network.transforms["32x64" if kind == "llama" else "32x128"]
    z = torch.randn(50, transform.d + transform.m, generator=torch.Generator().manual_seed(1)).double() + 3
    z[:, 0] = 7.0
    transform.moments[1] = feature_moments(z[:20]) + feature_moments(z[20:])
    mean, deviation = transform.normal(1)
    torch.testing.assert_close(mean.double(), z.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(deviation[1:].double(), z[:, 1:].std(0), atol=1e-5, rtol=1e-5)
    assert deviation[0] > 1e-4
    assert torch.equal(transform.normal(0)[1], torch.ones(transform.d + transform.m))


def test_a_batch_is_the_sum_of_its_edits_and_each_is_a_batch_of_one(kind, path):
    given = a_input(kind)
    save_network(moved(network_of(given)), path)
    together, each = updated(given, path), alone(given, path)
    for name, factors in together.items():
        scale = float(delta(factors).abs().max())
        summed = sum(delta(one[name]) for one in each)
        torch.testing.assert_close(delta(factors), summed, atol=1e-6 * scale, rtol=0)
        for edit, one in zip(EDITS, each, strict=True):
            batch_of_one = delta(updated(given, path, [edit])[name])
            torch.testing.assert_close(delta(one[name]), batch_of_one, atol=1e-5 * scale, rtol=0)


def test_a_batch_is_what_makes_one_update_of_its_edits(kind, path):
    given = a_input(kind)
    network = moved(network_of(given, ridge=0.1))
    save_network(network, path)
    together, each = updated(given, path), alone(given, path)
    wanted = combine(each, tokens_of(given, network.spec.shapes), 0.1)
    for name, factors in together.items():
        scale = float(delta(factors).abs().max())
        torch.testing.assert_close(delta(factors), delta(wanted[name]), atol=1e-4 * scale, rtol=0)
        assert not torch.allclose(delta(factors), sum(delta(one[name]) for one in each), atol=0.01 * scale)
        batch_of_one = delta(updated(given, path, EDITS[:1])[name])
        torch.testing.assert_close(batch_of_one, delta(each[0][name]), atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("ridge", [1e-6, None])
def test_a_batch_leaves_the_tokens_of_kept_ones_alone_unless_updates_are_added_up(kind, path, ridge):
    given = a_input(kind)
    save_network(network_of(given, step_size=0.5, ridge=ridge), path)
    config = method_config("mend", {"hypernetwork": str(path), "confidence": None})
    nothing, name = torch.zeros(1, 0), given.layout.weight_name(LAYERS[0])
    first = compute_update(given, EDITS[:1], nothing, config)
    before = compute_update(given, EDITS[1:], nothing, config)
    given.history.add(first.keys)
    after, [each, *_] = compute_update(given, EDITS[1:], nothing, config), alone(given, path)
    if ridge is None:
        assert first.keys == {} and torch.equal(delta(after.update[name]), delta(before.update[name]))
        return
    inputs = tokens_of(given, [name], EDITS[:1])[name].u_td
    torch.testing.assert_close(first.keys[LAYERS[0]], torch.nn.functional.normalize(inputs))
    moved_by = [(delta(one.update[name]) @ first.keys[LAYERS[0]].double().T).norm() for one in (before, after)]
    assert moved_by[1] < 0.5 * moved_by[0]
    of_one = delta(compute_update(given, EDITS[:1], nothing, config).update[name])
    torch.testing.assert_close(delta(each[name]), of_one, atol=1e-6 * float(of_one.abs().max()), rtol=0)


def test_a_second_edit_starts_from_the_weights_that_the_first_left(kind, path):
    given = a_input(kind)
    save_network(network_of(given, step_size=0.5), path)
    first, at_base = updated(given, path, EDITS[:2]), updated(given, path)
    EditedWeights(given.model, given.layout).apply(first)
    second = updated(given, path)
    for name, gradient in zip(second, gradient_of(given, second), strict=True):
        scale = float(gradient.abs().max())
        torch.testing.assert_close(delta(second[name]), -0.5 * gradient, atol=1e-6 * scale, rtol=1e-4)
        assert not torch.allclose(delta(second[name]), delta(at_base[name]), atol=1e-3 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_targets_become_more_probable_and_the_model_stays_as_it_is(kind, dtype, path):
    given = a_input(kind, dtype)
    save_network(network_of(given, step_size=1.0), path)
    asked, before, model_type = [(e.text, e.target_new) for e in EDITS], base_digest(given.model), type(given.model)
    plain = [one.mean_logprob for one in score(given.model, given.tokenizer, asked)]
    update = updated(given, path)
    assert base_digest(given.model) == before and type(given.model) is model_type
    assert not any(module._forward_hooks for module in given.model.modules())
    assert all(f.B.dtype == f.A.dtype == torch.float32 and f.B.is_contiguous() for f in update.values())
    EditedWeights(given.model, given.layout).apply(update)
    assert sum(one.mean_logprob for one in score(given.model, given.tokenizer, asked)) > sum(plain)
    assert {parameter.dtype for parameter in given.model.parameters()} == {dtype}


def test_by_default_the_last_three_layers_are_edited():
    assert layers_for(method_config("mend"), "llama", 30, 576) == (27, 28, 29)
    assert layers_for(method_config("mend"), "gpt2", 2, 8) == (0, 1)


# Files.


def test_a_hypernetwork_is_read_back_to_the_bit(kind, path):
    given = a_input(kind)
    network = moved(network_of(given))
    network.observe(tokens_of(given, network.spec.shapes))
    save_network(network, path)
    read, before = load_network(path), network.state_dict()
    assert read.spec == network.spec and list(read.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in read.state_dict().items())
    assert list(read.spec.shapes) == list(network.spec.shapes)  # their order says which scale is whose


def test_a_file_is_read_once_and_anew_when_it_changes(path):
    given = a_input("llama")
    save_network(network_of(given, step_size=0.5), path)
    first = updated(given, path)
    with mock.patch("editing.methods.mend.method.load_network", side_effect=load_network) as read:
        updated(given, path)
        assert not read.called
        save_network(network_of(given, step_size=0.25), path)
        second = updated(given, path)
    assert read.call_count == 1
    for name, factors in second.items():
        torch.testing.assert_close(2 * delta(factors), delta(first[name]))


def refused(path, given: MethodInput, says: str, **fields) -> None:
    digests = {name: tensor_digest(tensor) for name, tensor in given.model.state_dict().items()}
    with pytest.raises(HypernetworkError, match=says):
        updated(given, path, **fields)
    assert {name: tensor_digest(tensor) for name, tensor in given.model.state_dict().items()} == digests


def test_what_does_not_fit_is_refused(path):
    given = a_input("llama")
    save_network(network_of(given), path)
    refused("", given, "needs the file of a trained hypernetwork: train one, then give hypernetwork=PATH")
    refused(path.parent / "none", given, "cannot read hypernetwork '.*none' .No such file.*; give the file that")
    refused(path, given, "has digest .*, abc is wanted; put the file back as it was", hypernetwork_digest="abc")
    refused(path, a_input("gpt2"), "belongs to base .*, the model is .*; train one on this model")
    refused(path, a_input("llama", torch.float32), "belongs to base .*; train one on this model in this dtype")
    refused(path, a_input("llama", layers=(1,)), r"belongs to the weights .*layers\.2.*; asked for are .*: give the")
    refused(path, given, "belongs to the weights .*; asked for are .*up_proj", projections=["mlp.up_proj"])


def test_a_broken_file_is_refused(path):
    given = a_input("llama")
    network = network_of(given)
    save_network(network, path)
    whole = path.read_bytes()
    for broken in (b"", b"no tensors", whole[:-9], whole.replace(b"errata-mend-2", b"errata-mend-9")):
        path.write_bytes(broken)
        refused(path, given, "is no hypernetwork, or a broken one .*; train it again or give another file")
    torch.save(network.state_dict(), path)
    refused(path, given, "is no hypernetwork, or a broken one")
    next(network.parameters()).data.fill_(float("nan"))
    save_network(network, path)
    refused(path, given, "is not finite; go back to an earlier file")
