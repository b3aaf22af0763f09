"""Numbers of many bits rounded once to few."""

import torch
from torch import Tensor


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 `values` as the nearest numbers of `dtype`, ties to even.

    torch itself goes from float64 to a type of 16 bits by way of float32, which rounds twice: a number just beside the
    middle of two of the narrow ones becomes the middle, then the wrong one. Here the float32 between is rounded to odd
    (where it is not exact, to the one of its neighbors whose last bit is 1), which keeps on which side of every middle
    the number was: Boldo and Melquiond, "When double rounding is odd", 2005.
    """
    if values.dtype != torch.float64 or torch.finfo(dtype).bits >= 32:
        return values.to(dtype)
    nearest = values.to(torch.float32)
    bits = nearest.view(torch.int32).clone()
    exact = nearest.double()
    bits -= (exact.abs() > values.abs()).int()  # a float's bits, as a number, rise with its size
    bits |= (exact != values).int()
    return bits.view(torch.float32).to(dtype)


def rounded_by_way_of_float32(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The same rounded twice, as release 0.1 did: what its versions recorded of weights of 16 bits."""
    return values.to(torch.float32).to(dtype)
