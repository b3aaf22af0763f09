"""What the demo says of the time that it will take."""

from pathlib import Path

import pytest

from deployments.demo.pace import (
    REFERENCE_GFLOP,
    REFERENCE_LOOPS,
    WORK,
    Pace,
    announced,
    expected,
    measure,
    rounded,
    spared,
)
from deployments.demo.steps import steps_of

THERE = Pace(REFERENCE_GFLOP, REFERENCE_LOOPS)


ALL = {work.step for work in WORK}


def test_on_the_machine_of_the_table_it_is_the_sum_of_the_table():
    assert expected(THERE, [], ALL) == pytest.approx(sum(work.products + work.other for work in WORK))


def test_twice_as_fast_takes_half_as_long():
    twice = Pace(2 * REFERENCE_GFLOP, 2 * REFERENCE_LOOPS)
    assert expected(twice, [], ALL) == pytest.approx(expected(THERE, [], ALL) / 2)


def test_what_is_cached_and_what_is_done_takes_no_time():
    assert expected(THERE, ["values"], ALL) < expected(THERE, [], ALL)
    assert expected(THERE, [], ()) == 0
    assert announced(100, ["values", "models"], False) == (
        "the demo will take about 100 seconds here (cached already: the model, searched values)"
    )


def test_of_another_model_it_says_what_the_figure_is_of():
    said = announced(100, [], False, "./qwen")
    assert said.startswith("with the embedded model the demo would take about 100 seconds here (nothing is cached yet)")
    assert said.endswith("another takes as many times as long as it is larger, and is asked first what it gets wrong")


@pytest.mark.slow
def test_it_measures_this_machine():
    found = measure()
    assert found.gflop > 0.1 and found.loops > 1e5


def test_every_stage_of_the_table_is_of_a_step():
    assert {work.step for work in WORK} <= {"start", *(step.name for step in steps_of(changes=True))}


def test_a_cache_spares_what_it_holds(tmp_path: Path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / ".half.lock").touch()
    (tmp_path / "texts" / "ab").mkdir(parents=True)
    assert spared(tmp_path, "embedded") == {"texts"}
    assert spared(tmp_path, "./folder") == {"texts", "models"}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3, "10 seconds"), (94, "90 seconds"), (179, "180 seconds"), (200, "3 and a half minutes"), (250, "4 minutes")],
)
def test_an_estimate_is_rounded(seconds, said):
    assert rounded(seconds) == said
