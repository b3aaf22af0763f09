"""What was in service when: in the order of HEAD's moves, with who approved it and the run that they could look at."""

from datetime import UTC, datetime, timedelta

import pytest

from editing.errors import UsageError
from tasks.review.decisions import approve, reject, roll_back
from tasks.review.served import in_service_at, moment, service_history
from tasks.stores.manifest import head_bytes
from tasks.stores.records import read_record
from tasks.stores.snapshots import Head
from tasks.workplace import open_workplace


@pytest.fixture
def told(line):
    """Version 2 with 1 below it approved, 1 put back, 3 refused (which moves nothing), the base, 2 again."""
    approve(line.workplace, line.name, None, "good")
    roll_back(line.workplace, line.name, 1, "complaints")
    line.make()
    reject(line.workplace, line.name, 3, "wrong source")
    roll_back(line.workplace, line.name, 0, "all of it")
    roll_back(line.workplace, line.name, 2, "it was not the model")
    return line


def history(line):
    return service_history(open_workplace(line.settings), line.name)


@pytest.mark.slow
def test_every_time_of_service_has_its_mover_its_approval_and_its_evidence(told):
    found = history(told)
    assert [(one.version, one.sequence, one.reason) for one in found] == [
        (0, 0, ""), (2, 1, "good"), (1, 2, "complaints"), (0, 4, "all of it"), (2, 5, "it was not the model"),
    ]  # fmt: skip
    assert [one.until for one in found] == [*(one.since for one in found[1:]), None]
    assert [one.approval and (one.approval.reason, one.approval.actor) for one in found] == [
        None, ("good", "ann"), ("good", "ann"), None, ("good", "ann"),
    ]  # fmt: skip
    assert [[run.versions for run in one.evidence] for one in found] == [[], [(1, 2)], [(1,)], [], [(1, 2)]]
    assert found[1].evidence[0].mlflow_run_id == told.run_id and told.run_id in found[1].evidence[0].report
    assert [one.snapshot for one in found] == [
        told.workplace.store.version(told.name, one.version).snapshot if one.version else None for one in found
    ]


@pytest.mark.slow
def test_each_moment_has_one_version(told):
    found = history(told)
    for one in found[1:]:
        assert in_service_at(found, one.since) == one
        assert in_service_at(found, one.since - timedelta(microseconds=1)).until == one.since
    assert in_service_at(found, datetime(2000, 1, 1, tzinfo=UTC)).version == 0
    assert in_service_at(found, datetime(2999, 1, 1, tzinfo=UTC)) == found[-1]


@pytest.mark.slow
def test_the_order_is_that_of_the_moves_whatever_clocks_say_and_what_cannot_be_read_is_told(told):
    folder = told.settings.home_folder / "snapshots" / "lines" / told.name / "heads"
    moves = sorted(folder.iterdir())
    second = read_record(Head, moves[1].read_bytes(), "here")
    late = second.model_copy(update={"moved": second.moved + timedelta(days=1)})
    moves[1].write_bytes(head_bytes(late))  # a machine whose clock was a day ahead
    moves[3].write_bytes(b"{}")
    found = history(told)
    assert [one.version for one in found] == [0, 2, 1, 2]
    assert [note.partition(":")[0] for note in found[2].notes] == [
        "move 4 of HEAD cannot be read", "the next move recorded an earlier time",
    ]  # fmt: skip
    assert not found[1].notes and not found[3].notes


@pytest.mark.slow
def test_what_nobody_knows_is_one_line(told):
    with pytest.raises(UsageError, match="there is no line 'nowhere'"):
        service_history(told.workplace, "nowhere")
    with pytest.raises(UsageError, match="time 'yesterday' is no point in time; write it as"):
        moment("yesterday")
    with pytest.raises(UsageError, match="has no time zone"):
        moment("2026-12-01T08:00:00")
