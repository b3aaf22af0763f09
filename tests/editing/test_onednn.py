"""The faster products against torch's own."""

import pytest
import torch
from torch import nn

from editing.onednn import fast_linear
from editing.products import wants_bfloat16


@pytest.mark.parametrize("tokens", [1, 4, 33])
@pytest.mark.parametrize("bias", [True, False])
def test_products_and_their_gradients_are_torchs_own(tiny_llama, tokens, bias):
    linear = nn.Linear(24, 40, bias=bias).requires_grad_(False)
    x = torch.randn(2, tokens, 24, requires_grad=True)
    with fast_linear(tiny_llama.model):
        fast = linear(x)
    expected = linear(x)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(fast, expected)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (fast, expected)))


def test_a_weight_that_wants_a_gradient_gets_it(tiny_llama):
    linear, x = nn.Linear(24, 40), torch.randn(8, 24)
    with fast_linear(tiny_llama.model):
        linear(x).sum().backward()
    torch.testing.assert_close(linear.weight.grad, x.sum(0).expand(40, 24))


def test_bfloat16_is_not_chosen_where_torch_is_told_to_do_without_wide_instructions(monkeypatch):
    able = {"avx512_bf16": True, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    for capability, wanted in (("AVX512", True), ("AVX2", False), ("DEFAULT", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert wants_bfloat16("auto", torch.float32, torch.device("cpu")) is wanted
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name, tiles, wanted in (("Intel Xeon", False, False), ("Intel Xeon", True, True), ("AMD EPYC", False, True)):
        able |= {"cpu_name": name, "amx_bf16": tiles}
        assert wants_bfloat16("auto", torch.float32, torch.device("cpu")) is wanted, (name, tiles)
    able |= {"avx512_bf16": False, "amx_bf16": False}
    assert not wants_bfloat16("auto", torch.float32, torch.device("cpu"))
    able["bf16"] = True  # an ARM processor's
    assert wants_bfloat16("auto", torch.float32, torch.device("cpu"))
    assert wants_bfloat16("bfloat16", torch.float32, torch.device("cpu"))
    assert not wants_bfloat16("weights", torch.float32, torch.device("cpu"))
