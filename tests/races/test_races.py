"""Two processes on one line at the same moment: HEAD, ledger and aliases agree after. More: python -m tests.races."""

from collections.abc import Iterator

import pytest

from tests.costs import THOROUGH
from tests.homes.release import HERE
from tests.races.trial import RACES, Race, Track, opened

TRIALS = 20 if THOROUGH else 2


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Track]:
    with opened(HERE, tmp_path_factory.mktemp("races") / "track") as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("race", RACES.values(), ids=RACES)
def test_head_ledger_and_aliases_agree_after(track: Track, race: Race):
    outcome = track.run(race, TRIALS)
    assert outcome.good, outcome
