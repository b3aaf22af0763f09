"""Time left and share of long work: what is shown only grows, and what is named at a quarter of the way holds."""

from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import courses
from tasks.courses import MOST_REPORTS, Course, Courses, described, duration

numbers = st.integers(-5, 60)
reports = st.lists(st.tuples(numbers, numbers, st.floats(0, 30)), max_size=30)


def named_at_a_quarter(finished: list[tuple[float, int]], total: int) -> tuple[float, float]:
    """The time left that is shown when a quarter is done, and the time that it really takes then."""
    course = Course("work", finished[0][1], total)
    for at, done in finished[1:]:
        course.report(done, total, at)
        if done >= total / 4:
            break
    left = course.left(at)
    assert left is not None
    return left, finished[-1][0] - at


def check_named(finished: list[tuple[float, int]], total: int) -> None:
    named, real = named_at_a_quarter(finished, total)
    assert real / 2 <= named <= 2 * real


@settings(deadline=None)
@given(numbers, numbers, reports)
def test_whatever_is_reported_figures_only_grow_and_time_left_is_a_time(done, total, later):
    course, elapsed = Course("work", done, total), 0.0
    seen = [(course.done, course.share)]
    for now_done, now_total, seconds in later:
        elapsed += seconds
        course.report(now_done, now_total, elapsed)
        seen.append((course.done, course.share))
        left = course.left(elapsed)
        assert left is None or left >= 0
        assert 0 <= course.done <= course.total and described(course, elapsed)
    assert all(a[0] <= b[0] and a[1] <= b[1] <= 1 for a, b in pairwise(seen))


@settings(deadline=None)
@given(
    st.lists(st.floats(0.75, 1.33), min_size=20, max_size=200),
    st.floats(0, 3),
    st.integers(0, 1000),
    st.integers(1, 3),
)
def test_the_time_named_at_a_quarter_holds_for_uneven_units_a_costly_first_one_and_what_was_done_before(
    costs, warm_up, cached, together
):
    finished, at, done = [(0.0, 0), (0.0, cached)], warm_up, cached
    for number, cost in enumerate(costs, start=1):
        at, done = at + cost, done + 1
        if number % together == 0 or number == len(costs):
            finished.append((at, done))
    # A quarter of what is still to be done: what was done before costs nothing.
    course = Course("work", 0, done)
    for at, now in finished[1:]:
        course.report(now, done, at)
        if at > 0 and now - cached >= len(costs) / 4:
            break
    named, real = course.left(at), finished[-1][0] - at
    assert named is not None and real / 2 <= named <= 2 * real


def test_a_first_unit_that_costs_much_is_forgotten_at_a_quarter():
    check_named([(0.0, 0), *((14.0 + number, number) for number in range(1, 41))], 40)


def test_work_reported_in_large_pieces_is_foretold():
    check_named([(0.0, 0), (40.0, 10), (80.0, 20), (112.0, 28)], 28)


def test_time_left_runs_down_between_reports_and_slows_where_they_fail_to_come():
    course = Course("work", 0, 40)
    course.report(10, 40, 10.0)
    assert [course.left(at) for at in (10.0, 15.0, 20.0)] == [30.0, 25.0, 20.0]
    assert course.left(40.0) == pytest.approx(40.0)  # 20 of 40 at best: half the pace


def test_a_last_part_that_takes_longer_than_the_others_is_not_said_to_end_now():
    course = Course("edits", 0, 28)
    course.report(10, 28, 40.0)
    course.report(20, 28, 80.0)
    assert [course.left(at) for at in (80.0, 100.0)] == [32.0, 12.0]
    assert course.left(113.0) is None and "left" not in described(course, 300.0)


def test_more_work_than_was_thought_leaves_the_share_as_it_was():
    course = Course("steps", 0, 10)
    course.report(5, 10, 5.0)
    course.report(6, 20, 6.0)
    assert (course.done, course.total, course.share) == (6, 20, 0.5)
    course.report(12, 20, 12.0)
    assert course.share == 0.6 and course.left(12.0) == 8.0


def test_however_many_reports_come_few_are_remembered_and_the_pace_stays():
    course = Course("tokens", 0, 10_000)
    for done in range(1, 5001):
        course.report(done, 10_000, done / 10)
    assert len(course._reports) <= MOST_REPORTS
    assert course.left(500.0) == pytest.approx(500.0, rel=0.02)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_names_the_latest_stage_and_the_one_around_it():
    clock = Clock()
    courses = Courses(clock)

    def says() -> list[str]:
        return [described(*one) for one in courses.now()]

    courses.report("working", 0, 1)
    courses.report("edits", 0, 28)
    courses.report("apply batch", 0, 1)
    courses.report("values", 0, 10)
    clock.now += 30
    courses.report("values", 4, 10)
    assert says() == ["values: 4 of 10 (40 %), 30 s so far, about 45 s left", "edits: 0 of 28 (0 %), 30 s so far"]
    course, seconds = courses.report("values", 10, 10)
    assert (course.what, seconds) == ("values", 30.0)
    assert courses.report("values", 10, 10) is None  # said twice
    assert says() == ["apply batch, 30 s so far", "edits: 0 of 28 (0 %), 30 s so far"]
    courses.report("apply batch", 1, 1)
    courses.report("edits", 10, 28)
    assert says() == ["edits: 10 of 28 (36 %), 30 s so far, about 54 s left"]


def test_what_is_reported_while_the_time_left_is_told_does_not_disturb_it(monkeypatch):
    course = Course("work", 0, 1000)
    for done in range(1, MOST_REPORTS):
        course.report(done, 1000, float(done**4))  # ever slower: the latter half of the time holds few reports

    def interrupted(*args):
        found = bisect_left(*args)
        course.report(course.done + 1, 1000, float(MOST_REPORTS**4))  # from another thread: one too many to remember
        return found

    alone = course.left(float(MOST_REPORTS**4))
    monkeypatch.setattr(courses, "bisect_left", interrupted)
    assert course.left(float(MOST_REPORTS**4)) == alone


def test_a_stage_that_begins_again_begins_at_nothing():
    clock = Clock()
    courses = Courses(clock)
    courses.report("values", 0, 10)
    courses.report("values", 6, 10)  # and then it failed
    clock.now += 50
    courses.report("values", 0, 5)
    assert [described(*one) for one in courses.now()] == ["values: 0 of 5 (0 %), 0 s so far"]


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0.4, "0 s"),
        (99.4, "99 s"),
        (100, "1 min 40 s"),
        (119, "2 min"),
        (3599, "60 min"),
        (3600, "1 h"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, says):
    assert duration(seconds) == says
