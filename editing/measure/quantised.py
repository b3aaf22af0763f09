"""The model as it will be served: asked with weights of 8 or 4 bits, in the place of those in memory.

What is in service is rarely float32. Each weight matrix is rounded when its module runs and is itself again afterwards,
so the rounded model takes the memory of one matrix. Rounded as the formats do:

- `int8`: a row has one scale, its largest magnitude over 127.5 (torch's dynamic quantisation by channel).
- `q8_0`: blocks of 32 along a row, each with a scale in float16 (GGUF; https://github.com/ggml-org/ggml).
- `q4_1`: blocks of 32, each with a scale of its range over 15 and its least value, both in float16 (GGUF).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from editing.config import FewerBits

BLOCK = 32


def int8(rows_nd: Tensor) -> Tensor:
    """Rows (n, d) rounded to 8 bits each with one scale; float32."""
    scale = (rows_nd.abs().amax(1) / 127.5).clamp(min=torch.finfo(torch.float32).eps)
    none = torch.zeros(len(rows_nd), dtype=torch.int32, device=rows_nd.device)
    return torch.fake_quantize_per_channel_affine(rows_nd, scale, none, 0, -128, 127)


def q8_0(rows_nd: Tensor) -> Tensor:
    """Rows (n, d), d a multiple of 32, rounded by blocks; float32."""
    blocks = rows_nd.reshape(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    codes = _away_from_zero(blocks / _nonzero(scale))
    return (codes * _half(scale)).reshape(rows_nd.shape)


def q4_1(rows_nd: Tensor) -> Tensor:
    """Rows (n, d), d a multiple of 32, rounded by blocks; float32."""
    blocks = rows_nd.reshape(-1, BLOCK)
    least, most = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    scale = (most - least) / 15
    codes = ((blocks - least) / _nonzero(scale) + 0.5).trunc().clamp(0, 15)
    return (codes * _half(scale) + _half(least)).reshape(rows_nd.shape)


ROUNDED: dict[FewerBits, Callable[[Tensor], Tensor]] = {"int8": int8, "q8_0": q8_0, "q4_1": q4_1}


@contextmanager
def quantised(model: PreTrainedModel, kind: FewerBits) -> Iterator[None]:
    """Inside, the model runs with rounded weight matrices; its own are not touched. A matrix whose rows are no whole
    blocks stays as it is, as GGUF files keep it.
    """
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding | Conv1D) and _has_blocks(module, kind):
                swap = _Swap(ROUNDED[kind])
                for handle in (
                    module.register_forward_pre_hook(swap.round),
                    module.register_forward_hook(swap.restore, always_call=True),
                ):
                    hooks.callback(handle.remove)
        yield


class _Swap:
    """The matrix of one module: rounded while it runs."""

    def __init__(self, rounded: Callable[[Tensor], Tensor]) -> None:
        self.rounded = rounded
        self.own: Tensor | None = None

    def round(self, module: nn.Module, inputs: Any) -> None:
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        self.own = weight.data
        made = self.rounded(_as_rows(module, self.own).float()).to(self.own.dtype)
        weight.data = _as_rows(module, made)

    def restore(self, module: nn.Module, inputs: Any, output: Any) -> None:
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        if self.own is not None:
            weight.data, self.own = self.own, None


def _has_blocks(module: nn.Module, kind: FewerBits) -> bool:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return kind == "int8" or _as_rows(module, weight).shape[1] % BLOCK == 0


def _as_rows(module: nn.Module, weight: Tensor) -> Tensor:
    """A matrix with its inputs along a row, or such rows as the module keeps them: Conv1D transposes."""
    return weight.T if isinstance(module, Conv1D) else weight


def _half(x: Tensor) -> Tensor:
    return x.half().float()


def _nonzero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1.0, scale)


def _away_from_zero(x: Tensor) -> Tensor:
    """Rounded, halves away from zero, as C does; torch rounds them to even."""
    return x.sign() * (x.abs() + 0.5).floor()
