"""What a training learns from and what it is judged by never meet."""

import json

import pytest

from editing.errors import UsageError
from tasks.training.data import read_training
from tests.fact_model import fact_edits


@pytest.fixture
def file(tmp_path):
    def make(name: str, edits) -> object:
        (tmp_path / name).write_text(json.dumps([edit.model_dump(mode="json") for edit in edits]))
        return tmp_path / name

    return make


EDITS = fact_edits(60, seed=1)


def test_whole_subjects_are_held_out_by_the_seed_and_nothing_is_lost(file):
    path = file("a.json", [*EDITS, EDITS[0]])
    one, again, other = (read_training(path, None, 8, None, seed) for seed in (0, 0, 1))
    assert one == again and one.validated != other.validated and len(one.validated) >= 8
    assert not {edit.subject for edit in one.learnt} & {edit.subject for edit in one.validated}
    assert sorted(edit.id for edit in (*one.learnt, *one.validated)) == sorted(edit.id for edit in EDITS)


def test_a_small_file_keeps_most_of_its_edits_to_learn_from(file):
    made = read_training(file("a.json", EDITS[:10]), None, 64, None, 0)
    assert len(made.learnt) >= 6 and made.validated


def test_a_file_of_its_own_validates_all_that_is_learnt(file):
    made = read_training(file("a.json", EDITS[:20]), file("b.json", EDITS[40:]), 5, 10, 0)
    assert list(made.learnt) == EDITS[:10] and len(made.validated) == 5
    assert set(made.validated) < set(EDITS[40:])


def test_too_few_edits_are_refused(file):
    with pytest.raises(
        UsageError, match=r"a.json' has 2 edits that can be used, too few to train and validate: give 5"
    ):
        read_training(file("a.json", EDITS[:2]), None, 8, None, 0)
    with pytest.raises(UsageError, match=r"a.json' has 1 edit that can be used in its first 1, too few"):
        read_training(file("a.json", EDITS), None, 8, 1, 0)
    nothing = [EDITS[0].model_copy(update={"target_new": " "})]
    with pytest.raises(
        UsageError, match=r"b.json' has no edit that can be used, and one is needed to validate by; ref"
    ):
        read_training(file("a.json", EDITS), file("b.json", nothing), 8, None, 0)


def test_bad_records_are_named_with_file_and_row(file, tmp_path):
    path = file("a.json", EDITS[:20])
    records = json.loads(path.read_text())
    records[4]["target_new"] = " "
    path.write_text(json.dumps(records))
    made = read_training(path, None, 3, None, 0)
    assert len(made.refused) == 1 and made.refused[0].startswith("a.json row 5: ") and "is empty" in made.refused[0]
