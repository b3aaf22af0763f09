"""The faster products against torch's own."""

import threading

import pytest
import torch
from torch import nn

from editing import linear
from editing.linear import by_onednn, by_size, fast_linear, fastest_product, turned
from editing.products import wants_bfloat16

PRODUCTS = pytest.mark.parametrize("product", [by_onednn, turned, by_size], ids=lambda product: product.__name__)


@pytest.fixture(autouse=True)
def no_weights_are_too_few(monkeypatch):
    monkeypatch.setattr(linear, "TURNED_WEIGHTS", 1)
    monkeypatch.setattr(linear, "LARGE", 24)


@PRODUCTS
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("tokens", [1, 4, 33])
@pytest.mark.parametrize("bias", [True, False])
def test_products_and_their_gradients_are_torchs_own(tiny_llama, monkeypatch, product, graph, tokens, bias):
    monkeypatch.setattr(linear, "fastest_product", lambda: product)
    layer = nn.Linear(24, 40, bias=bias).requires_grad_(False)
    x = torch.randn(2, tokens, 24, requires_grad=graph)
    with fast_linear(tiny_llama.model), torch.set_grad_enabled(graph):
        fast = layer(x)
    expected = layer(x)
    torch.testing.assert_close(fast, expected)
    assert fast.is_contiguous()
    if graph:
        weights = torch.randn_like(expected)
        torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (fast, expected)))


@PRODUCTS
def test_factors_without_a_column_give_zeros(tiny_llama, monkeypatch, product):
    monkeypatch.setattr(linear, "fastest_product", lambda: product)
    x = torch.randn(8, 24)
    with fast_linear(tiny_llama.model), torch.no_grad():
        inner = nn.functional.linear(x, torch.empty(0, 24))
        assert nn.functional.linear(inner, torch.empty(40, 0)).equal(torch.zeros(8, 40))


@PRODUCTS
def test_a_weight_that_wants_a_gradient_gets_it(tiny_llama, monkeypatch, product):
    monkeypatch.setattr(linear, "fastest_product", lambda: product)
    layer, x = nn.Linear(24, 40), torch.randn(8, 24)
    with fast_linear(tiny_llama.model):
        layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(40, 24))


def test_the_model_multiplies_fast_inside_and_torchs_way_outside_and_in_other_threads(tiny_llama, monkeypatch):
    seen: list[str] = []

    def product(x, W_md, bias=None):
        seen.append(threading.current_thread().name)
        return linear._plain(x, W_md, bias)

    def run() -> None:
        tiny_llama.model(torch.tensor([[1, 2, 3]]))

    monkeypatch.setattr(linear, "fastest_product", lambda: product)
    run()
    assert not seen
    with fast_linear(tiny_llama.model):
        with pytest.raises(KeyError), fast_linear(tiny_llama.model):
            raise KeyError
        run()  # still inside
        count = len(seen)
        assert count == 4 * 7 + 1  # every linear layer
        (other := threading.Thread(target=run, name="other")).start()
        other.join()
        assert len(seen) == count
    run()
    assert len(seen) == count and nn.functional.linear is linear._plain


def test_a_weight_that_multiplies_in_its_own_way_does(tiny_llama, monkeypatch):
    class Quantised(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, arguments=(), named=None):
            return (
                "its own"
                if function is linear._plain
                else super().__torch_function__(function, types, arguments, named)
            )

    monkeypatch.setattr(linear, "fastest_product", lambda: lambda *given: "fast")
    x, weight = torch.randn(8, 24), torch.randn(40, 24)
    with fast_linear(tiny_llama.model):
        assert nn.functional.linear(x, weight) == "fast"
        assert nn.functional.linear(x, weight.as_subclass(Quantised)) == "its own"


def test_what_a_context_of_another_thread_exchanged_stays_until_the_last_has_ended(tiny_llama, monkeypatch):
    entered, leave = threading.Event(), threading.Event()
    monkeypatch.setattr(linear, "fastest_product", lambda: turned)

    def hold() -> None:
        with fast_linear(tiny_llama.model):
            entered.set()
            leave.wait(60)

    (other := threading.Thread(target=hold)).start()
    assert entered.wait(60)
    with fast_linear(tiny_llama.model):
        leave.set()
        other.join()
        assert nn.functional.linear is linear._linear
    assert nn.functional.linear is linear._plain


@pytest.mark.parametrize(
    ("maker", "capability", "mkl", "expected"),
    [
        ("Intel Xeon 2.50GHz", "AVX512", True, by_size),
        ("Intel Xeon 2.50GHz", "AVX512", False, by_onednn),
        ("AMD EPYC", "AVX512", True, by_onednn),
        ("AMD EPYC", "AVX2", True, None),
        ("Intel Xeon 2.50GHz", "AVX2", True, None),
    ],
)
def test_what_is_faster_is_chosen_by_the_processor(monkeypatch, maker, capability, mkl, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": maker})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert fastest_product() is expected


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
