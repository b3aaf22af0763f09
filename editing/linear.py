"""Products with float32 weights on a CPU, faster than torch's own call of its BLAS.

MKL, the BLAS of torch's builds for x86, keeps to AVX2 on processors that are not Intel's. There oneDNN's wider kernels
take less than half the time from some tokens on (measured: 410 against 190 GFLOP/s for 256 tokens, five times faster
for 8 tokens and a large output matrix); torch uses them only where it compiles a model. On Intel's, oneDNN is faster by
a fifth for large matrices, and slower for small ones, of which a call costs 50 µs more. But few tokens are shared out
badly among MKL's threads: W xᵀ, of which they are the columns, takes half the time of x Wᵀ for 16 to 48 of them.
`python -m tests.benchmarks.products` measures it.

Nothing is copied, all sum in float32; results differ in the last bits, as those of two batch sizes do.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from editing.placed import device_of
from editing.products import by_intel

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x Wᵀ + bias."""
FEWEST_TOKENS = 4
"""For fewer the BLAS is as fast as oneDNN."""
LARGE = 800
"""On Intel's: where a matrix has so many rows and columns oneDNN is faster, else MKL."""
TURNED_TOKENS = range(8, 64)
"""There, for so many W xᵀ is faster than x Wᵀ,"""
TURNED_WEIGHTS = 100_000
"""and for at least so many weights."""


def fast_linear(model: PreTrainedModel) -> AbstractContextManager[None]:
    """A context in which linear layers that this thread runs are fast, where that is known to help.

    Gradients pass through to their inputs; weights that want a gradient themselves are multiplied as ever.
    """
    product = fastest_product() if device_of(model).type == "cpu" else None
    return nullcontext() if product is None else _exchanged(product)


def fastest_product() -> Product | None:
    """What is known to multiply faster than torch's own function on this processor; None: nothing."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    # What compiled models use; torch has no public name for it.
    onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    if by_intel() and torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return by_size if onednn else turned
    return by_onednn if onednn else None


class _Inside(threading.local):
    """Of this thread: what multiplies in the context that it is in."""

    product: Product | None = None


_inside = _Inside()
_plain = nn.functional.linear
_lock = threading.Lock()
_contexts = 0
"""Of all threads."""


@contextmanager
def _exchanged(product: Product) -> Iterator[None]:
    """torch's function is exchanged: a mode that hears of every operation takes 3 µs for each of a pass's 900."""
    global _contexts
    before = _inside.product
    with _lock:
        _contexts += 1
        nn.functional.linear = _linear
    _inside.product = product
    try:
        yield
    finally:
        _inside.product = before
        with _lock:
            _contexts -= 1
            if not _contexts:
                nn.functional.linear = _plain


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Named as torch's parameters are."""
    product = _inside.product
    return (product if product and _suits(input, weight) else _plain)(input, weight, bias)


def _suits(x: Tensor, W_md: Tensor) -> bool:
    ordinary = type(W_md) in (Tensor, nn.Parameter)  # a quantised one says it is float32, too
    return ordinary and W_md.numel() > 0 and x.dtype == W_md.dtype == torch.float32 and not W_md.requires_grad


def by_size(x: Tensor, W_md: Tensor, bias: Tensor | None = None) -> Tensor:
    return (by_onednn if min(W_md.shape) >= LARGE else turned)(x, W_md, bias)


def turned(x: Tensor, W_md: Tensor, bias: Tensor | None = None) -> Tensor:
    """(W xᵀ)ᵀ + bias for few tokens."""
    tokens = x.numel() // x.shape[-1]
    if tokens not in TURNED_TOKENS or W_md.numel() < TURNED_WEIGHTS:
        return _plain(x, W_md, bias)
    made = (W_md @ x.reshape(tokens, -1).T).T.contiguous().view(*x.shape[:-1], len(W_md))
    return made if bias is None else made + bias


def by_onednn(x: Tensor, W_md: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.numel() < FEWEST_TOKENS * x.shape[-1]:
        return _plain(x, W_md, bias)
    if not torch.is_grad_enabled():
        return onednn_linear(x, W_md, bias)
    made: Tensor = _ByOnednn.apply(x, W_md, bias)  # type: ignore[no-untyped-call]
    return made


def onednn_linear(x: Tensor, W_md: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, W_md, bias, "none", [], "")
    return made


class _ByOnednn(torch.autograd.Function):
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
