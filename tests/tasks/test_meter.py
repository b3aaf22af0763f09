"""Progress of a stage made of parts: it begins at nothing, never falls, and ends with all of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.meter import Meter
from tasks.progress import listening
from tests.heard import Heard


def test_each_part_goes_on_where_the_last_one_ended():
    heard = Heard()
    with listening(heard):
        meter = Meter("work", 30)
        first, second = meter.part(10), meter.part(20)
        first(1, 2)
        first(2, 2)
        second(1, 4)
        meter.end()
        meter.end()
    assert heard.told == [("work", done, 30) for done in (0, 5, 10, 15, 30)]


def test_a_stage_that_fails_goes_on_no_more():
    heard = Heard()
    with listening(heard), pytest.raises(OSError), Meter("work", 30) as meter:
        meter.part(10)(1, 2)
        raise OSError
    assert heard.told[-1] == ("work", 30, 30)


@given(
    st.lists(st.integers(0, 9), min_size=1),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(0, 5))),
    st.integers(0, 20),
)
def test_whatever_the_parts_say_it_never_falls_and_never_passes_the_end(sizes, says, total):
    heard = Heard()
    with listening(heard):
        meter = Meter("work", total)
        parts = [meter.part(size) for size in sizes]
        for number, done, of in says:
            parts[number % len(parts)](done, of)
        meter.end()
    done = [done for _, done, _ in heard.told]
    assert done == sorted(done) and done[0] == 0 and done[-1] == total and done.count(total) == 1
