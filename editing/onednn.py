"""Products with float32 weights on a CPU, by the faster of torch's two libraries.

torch multiplies float32 matrices with its BLAS, and with oneDNN only where it compiles a model. MKL, the BLAS of its
builds for x86, keeps to AVX2 on processors that are not Intel's; there oneDNN's AVX-512 kernels take less than half the
time from some tokens on (measured: 410 against 190 GFLOP/s for 256 tokens, five times faster for 8 tokens and a large
output matrix). They work on the weights as they are, nothing is copied. Both libraries sum in float32; results differ
in the last bits, as those of two batch sizes do.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from editing.placed import device_of

FEWEST_TOKENS = 4
"""For fewer the BLAS is as fast."""


def fast_linear(model: PreTrainedModel) -> AbstractContextManager[object]:
    """A context in which the model's linear layers run fast, where that is known to help.

    Gradients pass through to their inputs; weights that want a gradient themselves are multiplied as ever.
    """
    helps = (
        device_of(model).type == "cpu"
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # what compiled models use; torch has no public name for it
    )
    return _FastLinear() if helps else nullcontext()


class _FastLinear(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.linear and not kwargs and _suits(*args):
            return _Linear.apply(*args) if torch.is_grad_enabled() else onednn_linear(*args)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _suits(x: Tensor, W_md: Tensor, bias: Tensor | None = None) -> bool:
    many = x.numel() >= FEWEST_TOKENS * x.shape[-1]
    return many and x.dtype == W_md.dtype == torch.float32 and not W_md.requires_grad


def onednn_linear(x: Tensor, W_md: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, W_md, bias, "none", [], "")
    return made


class _Linear(torch.autograd.Function):
    """The same with a gradient for x; for a weight and a bias that want none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W_md: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.W_md = W_md
        made = onednn_linear(x, W_md, bias)
        whole: Tensor = torch.ops.aten._unsafe_view(made, made.shape)  # no view: OLMo clips what comes out in place
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return onednn_linear(gradient, ctx.W_md.T), None, None
