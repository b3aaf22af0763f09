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
