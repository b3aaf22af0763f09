"""When a batch only shows that its line is full, and when it is to blame itself."""

import math

import pytest

from tasks.report.data import Check
from tasks.update.policy import Policy
from tasks.update.root_verdict import filled_by
from tasks.update.verdicts import Verdict

POLICY = Policy(max_perplexity_ratio=1.1)
OVER = Check(measure="perplexity", field="max_perplexity_ratio", holds=False, reason="too much")
LOST = Check(measure="efficacy", field="min_efficacy", holds=False, reason="not taken")


def filled(before: float, after: float, live: int = 100, facts: int = 10, checks=(OVER,)) -> bool:
    verdict = Verdict({"perplexity_ratio": after}, {}, checks)
    return filled_by(verdict, before, live, facts, POLICY) == checks


@pytest.mark.parametrize(("before", "after"), [(1.0999, 1.1001), (1.095, 1.101), (1.09, 1.1001)])
def test_an_ordinary_batch_that_reaches_the_limit_shows_that_the_line_is_full(before, after):
    assert filled(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1.02, 1.2),  # far more than the facts before it
        (1.0999, 1.2),  # whatever room there was
        (1.05, 1.101),  # 5 % at once, where ten facts took a half
        (1.0, 1.2),  # nothing was used up
        (0.99, 1.2),
        (1.09, math.inf),
        (1.09, math.nan),
    ],
)
def test_a_batch_that_rises_far_more_than_the_facts_before_it_is_to_blame(before, after):
    assert not filled(before, after)


def test_of_few_facts_nothing_is_usual_and_what_fails_otherwise_is_no_matter_of_the_line():
    assert not filled(1.0999, 1.1001, live=9)
    assert not filled(1.0999, 1.1001, checks=(OVER, LOST))
