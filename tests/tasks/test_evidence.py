"""Laws of the tests behind levels: each against a plain second derivation, and false alarms and finds by simulation."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.update.evidence import (
    FALSE_ALARMS,
    FOUND,
    NUISANCE,
    Evidence,
    _gain_rates,
    at_least,
    p_fewer_lost,
    p_more_lost,
    p_positive,
    share_of,
    shares,
    sizes,
)
from tasks.update.families import holm, together
from tests.benchmarks.gates import Planted, rates


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0, 1))
def test_the_tail_of_a_binomial_is_scipys(count, of, p):
    assert at_least(count, of, p) == pytest.approx(stats.binom.sf(count - 1, of, p), abs=1e-12)


@given(st.integers(0, 40), st.integers(0, 40))
def test_without_anything_allowed_it_is_mcnemars_exact_test(lost, gained):
    expected = stats.binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue if lost + gained else 1.0
    assert p_more_lost(lost, gained, 100, 0.0) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.sampled_from([0.05, 0.2, 0.5]), st.data())
def test_with_a_loss_allowed_it_is_the_worst_chance_of_all_outcomes_over_the_rates_of_gains(of, allowed, data):
    lost = data.draw(st.integers(0, of))
    gained = data.draw(st.integers(0, of - lost))
    net, more, fewer = lost - gained, [], []
    for rate in _gain_rates(gained, of):
        gain = min(rate, (1 - allowed) / 2)
        chance = {1: gain + allowed, -1: gain, 0: 1 - allowed - 2 * gain}
        outcomes = [(sum(some), math.prod(chance[one] for one in some)) for some in product((1, -1, 0), repeat=of)]
        more.append(math.fsum(p for total, p in outcomes if total >= net))
        fewer.append(math.fsum(p for total, p in outcomes if total <= net))
    if net > allowed * of:
        assert p_more_lost(lost, gained, of, allowed) == pytest.approx(min(1, max(more) + NUISANCE), abs=1e-9)
    if net < allowed * of:
        assert p_fewer_lost(lost, gained, of, allowed) == pytest.approx(min(1, max(fewer) + NUISANCE), abs=1e-9)
    if gained < of:
        assert stats.binom.cdf(gained, of, _gain_rates(gained, of)[-1]) == pytest.approx(NUISANCE, rel=1e-3)


@given(st.lists(st.floats(-2, 2).map(lambda x: round(x, 2)), min_size=1, max_size=8))
def test_few_differences_are_flipped_in_every_way(differences):
    nonzero = [one for one in differences if one]
    flips = [sum(a * b for a, b in zip(s, nonzero, strict=True)) for s in product((1, -1), repeat=len(nonzero))]
    expected = np.mean([flip >= sum(nonzero) - 1e-9 for flip in flips]) if nonzero else 1.0
    assert p_positive(differences) == pytest.approx(expected)


def test_many_differences_are_judged_as_by_a_paired_t_test():
    drawn = np.random.default_rng(1).normal(0.3, 1.0, 60)
    assert p_positive(list(drawn)) == pytest.approx(stats.ttest_1samp(drawn, 0, alternative="greater").pvalue, abs=0.01)


def test_what_is_no_number_is_a_breach():
    assert p_positive([math.nan]) == p_positive([math.inf, 0.1]) == 0.0
    assert not sizes([math.inf], [1.0], 0.1, 0.05).is_kept


def test_holm_rejects_what_a_plain_reading_of_it_does():
    assert [*map(bool, holm([0.01, 0.04, 0.03]))] == [True, False, False]
    assert holm([0.01, 0.02, 0.03]) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    assert holm([0.06]) == [0.0] and holm([]) == []
    assert holm([0.03, 0.02], weights=[3, 1]) == pytest.approx([0.0375, 0.05])  # weighed, the first comes first
    assert holm([0.03, 0.02], weights=[1, 1]) == pytest.approx([0.05, 0.025])


def drops(lost: Sequence[Sequence[int]], allowed: float = 0.01) -> list[Evidence]:
    """Readings of requests of five questions each that lost so many, and their sum."""
    names = [str(place // 5) for place in range(5 * len(lost[0]))]
    now = [[float(place % 5 >= one[place // 5]) for place in range(5 * len(one))] for one in lost]
    found = [shares(one, [1.0] * len(one), allowed, names) for one in now]
    every = [place for one in now for place in one]
    return [*found, shares(every, [1.0] * len(every), allowed, names * len(now))]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 7).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=2, max_size=3)
    )
)
def test_readings_of_the_same_requests_are_held_against_the_largest_of_them_over_all_flips(lost):
    readings = drops(lost)
    x = [[reading.beyond[str(place)] for place in range(len(lost[0]))] for reading in readings]
    norms = [math.sqrt(sum(one * one for one in row)) or 1.0 for row in x]

    def statistics(signs: Sequence[int]) -> list[float]:
        return [sum(s * one for s, one in zip(signs, row, strict=True)) / n for row, n in zip(x, norms, strict=True)]

    flips = [max(statistics(signs)) for signs in product((1, -1), repeat=len(lost[0]))]
    expected = [np.mean([flip >= t - 1e-9 for flip in flips]) for t in statistics([1] * len(lost[0]))]
    found, alone = together(readings), [one.breached for one in readings]
    guards = [*alone[:-1], max(min(alone[:-1]), alone[-1])]
    assert [one.breached for one in found] == pytest.approx([max(*two) for two in zip(expected, guards, strict=True)])


def test_what_each_count_shows_faintly_their_sum_shows_and_none_is_made_of_nothing():
    faint = [([3] + [0] * 13) * 5, ([0] * 13 + [3]) * 5]
    *counts, both = together(drops(faint))
    assert both.breached < 0.04 < 0.07 < min(one.breached for one in counts)
    *counts, both = together(drops([[0] * 40, [0] * 40]))
    assert both.breached == 1.0


def test_questions_of_one_request_are_one_piece_of_news():
    """Five neighbors lost at one request of twenty: much by itself, and nothing that all requests share."""
    now = [0.0] * 5 + [1.0] * 95
    requests = [str(place // 5) for place in range(100)]
    assert shares(now, [1.0] * 100, 0.0).breached < 0.05 < shares(now, [1.0] * 100, 0.0, requests).breached
    spread = [0.0 if place % 25 == 0 else 1.0 for place in range(100)]
    assert shares(spread, [1.0] * 100, 0.0, requests).breached < 0.1


def test_a_sample_that_is_too_small_says_how_large_a_one_would_tell_and_that_one_does():
    few = shares([1.0] * 20, [1.0] * 20, 0.01)
    assert few.breached == 1.0 and not few.is_kept
    wanted = few.needs.questions(FALSE_ALARMS)
    assert wanted is not None and 100 < wanted < 500
    assert shares([1.0] * wanted, [1.0] * wanted, 0.01).is_kept
    rng, found = np.random.default_rng(2), 0
    for _ in range(200):
        now = (rng.random(wanted) >= 0.06).astype(float)
        found += shares(list(now), [1.0] * wanted, 0.01).breached <= FALSE_ALARMS
    assert found / 200 >= FOUND - 0.04


def test_a_share_that_no_sample_breaks_by_chance_is_held_to_its_number():
    assert share_of([1.0] * 20, 0.9).is_kept and share_of([1.0] * 12 + [0.0] * 8, 0.9).breached < 0.001
    assert share_of([1.0] * 9 + [0.0], 1.0).breached == 0.0


@pytest.mark.slow
def test_clean_jobs_are_rarely_called_breached_and_a_loss_of_five_points_is_found():
    """The law of the default policy, all rows of a verdict together; tests/benchmarks/gates.py has the whole table."""
    clean = rates(Planted(facts=60), jobs=60, seed=0)
    assert clean.failed <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 60)
    harmed = rates(Planted(facts=300, loss=0.05), jobs=25, seed=1)
    assert harmed.failed >= 0.9
    small = rates(Planted(facts=10, loss=0.05), jobs=25, seed=2)
    assert small.held <= 0.1 and small.unclear >= 0.5


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_limit_that_nothing_can_breach_holds_however_few_were_asked(lost):
    names = ["a", "a"]  # several questions of one request, which alone never tell
    now = [0.0] * lost + [1.0] * (2 - lost)
    for found in (shares(now, [1.0, 1.0], 1.0, names), share_of(now, 0.0, names), shares(now, [1.0, 1.0], 1.0)):
        assert found.is_kept and found.breached == 1.0
