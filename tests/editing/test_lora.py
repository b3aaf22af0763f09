"""Laws of LoRA through PEFT: the adapter comes back as factors, and the model is what it was."""

import sys

import pytest
import torch

from editing.errors import SearchError, UsageError
from editing.layout import layout_of
from editing.methods import compute_independent_updates, compute_update, method_config
from editing.methods.gradients.targets import encode_targets, target_loss
from editing.methods.lora import adapted
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.models import base_digest
from editing.weights import overlay
from tests.conftest import tiny_model
from tests.editing.test_methods import EDITS

LAYERS = (1, 2)
INSIDE = {"llama": "self_attn.q_proj", "gpt2": "attn.c_attn"}
FAST = {"rank": 3, "steps": 12, "learning_rate": 0.02}


@pytest.fixture(params=["llama", "gpt2"])
def kind(request) -> str:
    return request.param


def a_input(kind: str, dtype: torch.dtype = torch.float32) -> MethodInput:
    tiny = tiny_model(kind, dtype)
    return MethodInput(tiny.model, tiny.tokenizer, layout_of(tiny.model), LAYERS, None, KeyHistory(), ("",))


def trained(given: MethodInput, edits=EDITS, **fields: object):
    return compute_update(given, edits, torch.zeros(len(edits), 0), method_config("lora", FAST | fields)).update


def identity(model) -> tuple[object, ...]:
    """What must be the same afterwards: the class, every module object and its attributes, every bit, every flag."""
    modules = [(name, id(module), type(module), sorted(vars(module))) for name, module in model.named_modules()]
    flags = [(name, id(p), p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
    hooks = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return type(model), modules, flags, hooks, model.training, base_digest(model)


def loss(given: MethodInput) -> float:
    return float(target_loss(given.model, encode_targets(given.model, given.tokenizer, EDITS)))


def test_the_model_is_what_it_was(kind):
    given = a_input(kind)
    given.model.get_parameter(given.layout.weight_name(0)).requires_grad_(True)
    before, drawn = identity(given.model), torch.random.get_rng_state()
    trained(given, projections=[given.layout.down_projection, INSIDE[kind]])
    assert identity(given.model) == before and torch.equal(torch.random.get_rng_state(), drawn)


def test_the_model_is_what_it_was_also_after_an_error(kind):
    given = a_input(kind)
    given.model.get_parameter(given.layout.weight_name(3))[0, 0] = float("nan")
    before = identity(given.model)
    with pytest.raises(SearchError, match=r"LoRA on .*: the loss became nan at step 1; lower learning_rate"):
        trained(given)
    assert identity(given.model) == before


def test_a_failure_of_the_injection_itself_is_undone(kind, monkeypatch):
    import peft

    given, real = a_input(kind), peft.inject_adapter_in_model
    before = identity(given.model)

    def half(*arguments):
        real(*arguments)
        raise RuntimeError("it stopped half-way")

    monkeypatch.setattr(peft, "inject_adapter_in_model", half)
    with pytest.raises(RuntimeError, match="it stopped half-way"):
        trained(given)
    assert identity(given.model) == before


def test_training_lowers_the_loss_within_the_rank(kind):
    given = a_input(kind)
    before, update = loss(given), trained(given)
    assert {name: factors.A.shape[0] for name, factors in update.items()} == {
        given.layout.weight_name(layer): 3 for layer in LAYERS
    }
    with overlay(given.model, given.layout, update):
        assert loss(given) < before - 0.5


@pytest.mark.parametrize("alpha", [3.0, 12.0])
def test_the_factors_compute_what_the_adapter_computes(kind, alpha):
    given = a_input(kind, torch.float64)
    config = method_config("lora", {"rank": 3, "alpha": alpha})
    modules = given.layout.projections(given.model, LAYERS, ())
    ids = torch.arange(12)[None] + 20
    with adapted(given.model, modules, config, transposed=given.layout.transposed) as pairs, torch.no_grad():
        for B, _ in pairs.values():
            B.normal_(generator=torch.Generator().manual_seed(1))
        inside = given.model(ids).logits
        deltas = {name: (alpha / 3 * B @ A).double() for name, (B, A) in pairs.items()}
    for name, delta in deltas.items():
        given.layout.oriented(given.model.get_parameter(name).data).add_(delta)
    torch.testing.assert_close(given.model(ids).logits, inside, atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_update_and_another_another(kind):
    given = a_input(kind)
    first, again, other = trained(given), trained(given), trained(given, seed=1)
    for name, factors in first.items():
        assert torch.equal(factors.A, again[name].A) and torch.equal(factors.B, again[name].B)
        assert not torch.equal(factors.A, other[name].A)


def test_weights_of_bfloat16_are_trained_beside_an_adapter_of_float32(kind):
    given = a_input(kind, torch.bfloat16)
    before, update = loss(given), trained(given)
    assert {factors.B.dtype for factors in update.values()} == {torch.float32}
    with overlay(given.model, given.layout, update):
        assert loss(given) < before


def test_each_independent_update_is_that_of_its_edit_alone(kind):
    given = a_input(kind)
    updates = compute_independent_updates(given, EDITS, torch.zeros(len(EDITS), 0), method_config("lora", FAST))
    for edit, update in zip(EDITS, updates, strict=True):
        alone = trained(given, [edit])
        assert all(torch.equal(factors.B, alone[name].B) for name, factors in update.items())


def test_without_peft_the_remedy_is_named(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        UsageError, match=r"'lora' trains by the package peft, which is not installed: pip install peft"
    ):
        trained(a_input(kind))
