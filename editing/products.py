"""The number format of matrix products."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Products = Literal["auto", "weights", "bfloat16"]


def wants_bfloat16(products: Products, weights: torch.dtype, device: torch.device) -> bool:
    """Whether products should run in bfloat16 though the weights are wider.

    `auto`: where the weights are float32 and the processor multiplies bfloat16 faster. Intel's have it from their
    tiles (AMX); without them, as many virtual machines are, its products take 1.3 to 2 times as long as float32's
    (measured: 150 against 280 GFLOP/s). AMD's multiply it with the vector units, twice as fast.
    """
    if weights != torch.float32 or products == "weights":
        return False
    if products == "bfloat16":
        return True
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    # The processor may have what torch was told not to use, and then multiplies bfloat16 many times slower.
    vectors = able.get("avx512_bf16") and not by_intel()
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512" and (vectors or able.get("amx_bf16"))
    return device.type == "cpu" and bool(wide or able.get("bf16"))


def by_intel() -> bool:
    """Whether the processor is one of Intel's."""
    return str(torch.cpu.get_capabilities().get("cpu_name", "")).startswith("Intel")


@contextmanager
def bfloat16_products(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, the linear maps in `modules` multiply in bfloat16; everything between them keeps its dtype.

    Not by autocast, which would take attention along: its backward pass in bfloat16 is six times slower than in
    float32 on a CPU (measured). Weights are not written: tensors are exchanged by reference and come back.
    """
    linear = [m for module in modules for m in module.modules() if isinstance(m, nn.Linear | Conv1D)]
    originals = {parameter: parameter.data for module in linear for parameter in module.parameters()}
    try:
        with ExitStack() as hooks:
            for parameter, tensor in originals.items():
                parameter.data = tensor.bfloat16()
            for module in linear:
                hooks.callback(module.register_forward_pre_hook(_narrow).remove)
                hooks.callback(module.register_forward_hook(_widen).remove)
            yield
    finally:
        for parameter, tensor in originals.items():
            parameter.data = tensor


def _narrow(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return args[0].bfloat16(), *args[1:]


def _widen(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return output.float()
