"""Sums in float64 become numbers of a weight's dtype by one rounding, to the nearest, ties to even."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editing.layout import layout_of
from editing.rounding import rounded, rounded_by_way_of_float32
from editing.weights import EditedWeights, Factors
from tests.conftest import tiny_model

NARROW = [torch.bfloat16, torch.float16]
BESIDE = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half of what lies between 1 and the next number."""


def nearest(value: float, dtype: torch.dtype) -> float:
    """The nearest of all numbers of 16 bits, by exact arithmetic; of two the even one."""
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype).double()
    finite = every[every.isfinite()]
    close = finite[(finite - value).abs().argsort()[:4]].tolist()
    close.sort(key=lambda number: (abs(Fraction(number) - Fraction(value)), _odd(number, dtype)))
    return close[0]


def _odd(number: float, dtype: torch.dtype) -> int:
    return int(torch.tensor([number], dtype=dtype).view(torch.int16)) & 1


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_number_just_beside_a_middle_goes_to_its_own_side(dtype, sign):
    """Rounded to float32 first, 1 + h + 2^-40 is the middle 1 + h, and then the even 1."""
    step = BESIDE[dtype]
    values = sign * torch.tensor([1 + step + 2.0**-40, 1 + step, 1 + 3 * step - 2.0**-40], dtype=torch.float64)
    wanted = [sign * (1 + 2 * step), sign * 1.0, sign * (1 + 2 * step)]
    assert rounded(values, dtype).tolist() == wanted
    assert rounded_by_way_of_float32(values, dtype).tolist() == [sign * 1.0, sign * 1.0, sign * (1 + 4 * step)]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    number=st.integers(0, (1 << 15) - 2),
    nudge=st.sampled_from([0.0, 1e-17, -1e-17, 1e-12, -1e-12, 0.25, -0.4]),
    middle=st.booleans(),
    dtype=st.sampled_from(NARROW),
    negative=st.booleans(),
)
def test_every_number_goes_to_the_nearest_of_the_narrow_ones(number, nudge, middle, dtype, negative):
    """Numbers on, between and just beside those of 16 bits, the smallest and the largest ones included."""
    low, high = (torch.tensor([bits], dtype=torch.int16).view(dtype).double().item() for bits in (number, number + 1))
    if not (torch.isfinite(torch.tensor([low, high]))).all():
        return
    value = ((low + high) / 2 if middle else low) + nudge * (high - low)
    value = -value if negative else value
    assert rounded(torch.tensor([value], dtype=torch.float64), dtype).item() == nearest(value, dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_what_is_no_number_or_too_large_stays_so(dtype):
    values = torch.tensor([float("inf"), -float("inf"), 1e300, -1e39, 0.0, -0.0, 1e-320, -1e-320], dtype=torch.float64)
    found = rounded(values, dtype)
    assert found.tolist() == [float("inf"), -float("inf"), float("inf"), -float("inf"), 0.0, 0.0, 0.0, 0.0]
    assert found.signbit().tolist() == [False, True] * 4
    assert rounded(torch.tensor([float("nan")], dtype=torch.float64), dtype).isnan().all()


@pytest.mark.parametrize("dtype", NARROW)
def test_a_weight_of_16_bits_is_its_sum_rounded_once(dtype):
    """The base 1, and an update of h + 2^-40 in two factors that float32 holds exactly."""
    tiny = tiny_model("llama", dtype)
    name = "model.layers.1.mlp.down_proj.weight"
    tiny.model.get_parameter(name).data.fill_(1.0)
    m, d = tiny.model.get_parameter(name).shape
    B, A = torch.zeros(m, 2), torch.zeros(2, d)
    B[0, 0], A[0, 0] = BESIDE[dtype], 1.0
    B[0, 1], A[1, 0] = 2.0**-40, 1.0
    EditedWeights(tiny.model, layout_of(tiny.model)).apply({name: Factors(B, A)})
    assert tiny.model.get_parameter(name)[0, 0].item() == 1 + 2 * BESIDE[dtype]
    assert (tiny.model.get_parameter(name).flatten()[1:] == 1).all()
