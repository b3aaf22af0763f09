"""What the down projection must write when a norm stands between it and the hidden state.

OLMo 2 (https://arxiv.org/abs/2501.00656) and Gemma 2 (https://arxiv.org/abs/2408.00118) add n = g ⊙ u / rms(u) to the
hidden state, u being the down projection's output. Scaling u changes nothing and n keeps to an ellipsoid, so a
residual R cannot be added to u as MEMIT adds it. The best that u can do is

    y* = argmin |g ⊙ y − (n + R)|   over |y| = |u / rms(u)|,      u* = |u| y* / |y*|,

a least-squares problem on a sphere: y* = (G² + μ)⁻¹ G (n + R) with the one μ > −min g² that gives the right length.

Shapes: m = hidden size, n = edits.
"""

import torch
from torch import Tensor, nn

from editing.layout import gain_of

BISECTIONS = 200


@torch.no_grad()
def change_before_norm(norm: nn.Module, u_nm: Tensor, R_nm: Tensor) -> Tensor:
    """The change of `u` after which norm(u) is as near to norm(u) + R as it can be, (n, m); |u| stays as it is.

    Where norm(u) + R can be reached at all, it is.
    """
    dtype = next(norm.parameters()).dtype
    g_m = gain_of(norm, u_nm.shape[1]).to(u_nm.device).double()
    u, n = u_nm.double(), norm(u_nm.to(dtype)).double()
    gu = g_m * u
    y = u * ((gu * n).sum(1, keepdim=True) / gu.square().sum(1, keepdim=True))
    y_star = _on_sphere(g_m, n + R_nm.double(), y.norm(dim=1, keepdim=True))
    u_star: Tensor = y_star * (u.norm(dim=1, keepdim=True) / y_star.norm(dim=1, keepdim=True))
    return (u_star - u).to(R_nm.dtype)


def _on_sphere(g_m: Tensor, t_nm: Tensor, length_n1: Tensor) -> Tensor:
    """argmin |g ⊙ y − t| over |y| = length: the secular equation |(G² + μ)⁻¹ G t| = length, by bisection."""
    gt, squares = g_m * t_nm, g_m.square()
    low = -squares.min().expand_as(length_n1)
    high = gt.norm(dim=1, keepdim=True) / length_n1 + low.abs()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        long = (gt / (squares + middle)).norm(dim=1, keepdim=True) > length_n1
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    y: Tensor = gt / (squares + high)
    y *= length_n1 / y.norm(dim=1, keepdim=True)
    return y
