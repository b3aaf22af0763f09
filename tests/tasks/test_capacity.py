"""How full a line is, foretold from how it grew; and how much of each fact stands, in words."""

import math

import pytest

from tasks.report.standing import capacity_text, standing_text
from tasks.update.capacity import room
from tasks.update.values import Standing, asked_first, told_standing
from tests.editing.test_methods import EDITS


@pytest.mark.parametrize("power", [0.7, 1.0, 1.6])
def test_a_line_that_grows_by_a_power_is_foretold_from_a_third_of_the_way(power):
    limit, full = 1.1, 600
    scale = math.log(limit) / full**power
    points = [(n, math.exp(scale * n**power)) for n in range(10, full // 3 + 1, 10)]
    found = room(points, limit)
    assert found["room"] + points[-1][0] == pytest.approx(full, rel=0.01)
    assert f"facts^{power:.2f}, from 20 versions" in found["by"]


MEASURED = {
    "light": (1.0044, 1.0045, 1.0061, 1.0156, 1.0136, 1.0194, 1.0186, 1.0220, 1.0197, 1.0244, 1.0212),
    "heavy": (1.0035, 1.0018, 1.0034, 1.0109, 1.0083, 1.0133, 1.0127, 1.0152, 1.0146, 1.0182, 1.0136, 1.0133),
}
"""Perplexity of the embedded model by tens of facts, λ = 100 and 1,000 (tests/benchmarks/capacity.py)."""


@pytest.mark.parametrize(
    ("name", "seen", "limit", "full"), [("light", 7, 1.05, 210), ("light", 11, 1.1, 330), ("heavy", 12, 1.05, 360)]
)
def test_what_two_lines_of_a_real_model_took_is_foretold_within_a_quarter(name, seen, limit, full):
    points = [(10 * (i + 1), ratio) for i, ratio in enumerate(MEASURED[name][:seen])]
    assert room(points, limit)["room"] + points[-1][0] == pytest.approx(full, rel=0.25)


def test_nothing_is_foretold_from_too_little():
    assert room([(10, 1.01), (20, 1.02)], 1.1) == {} == room([(10, 0.99), (20, 0.98), (30, 0.99)], 1.1)
    assert room([(10, 1.01)] * 5, 1.1) == {}
    assert room([(10, 1.05), (20, 1.1), (30, 1.15)], 1.1)["room"] == 0


def test_the_worst_facts_are_named_and_those_that_fell_are_asked_first():
    one, other, third = EDITS
    found = {one.id: Standing(0.2, 0.1), other.id: Standing(0.9, 0.15), third.id: Standing(0.3, 0.3)}
    told = told_standing(found)
    assert told["facts"] == 3 and told["fell"] == 2 and told["worst"][0]["request"] == other.id
    assert told["worst"][0] == {"request": other.id, "missing": 0.9, "written": 0.15}
    assert told["quantiles"]["0.5"] == 0.3 and told["quantiles"]["1"] == 0.9
    assert asked_first([one, other, third], found, 1) == [other] and asked_first(list(EDITS), found, 9) == [other, one]
    assert "2 stand notably less than once written" in standing_text(told)
    assert told_standing({}) == {} and standing_text({}) == "" == capacity_text({"facts": 2})
