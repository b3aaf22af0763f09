"""Laws of trying again, on real Prefect tasks: what may pass is tried again and again, what does not is tried once."""

import pytest
from prefect import Task, flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings

from editing.errors import ErrataError, UsageError
from tasks.ledger.errors import IllegalStep, LedgerError
from tasks.retries import PAUSES, RETRIES, outlasting
from tasks.stores.errors import DigestMismatch, HeadMoved, LineBusy, ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.opening import open_store
from tasks.tracking.errors import TrackingError, TrackingUnavailable
from tasks.training import steps as training_steps
from tasks.update.steps import run_step

TRIES = 1 + len(PAUSES)


@pytest.fixture(autouse=True)
def server(prefect_server, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield


def calls(failing) -> int:
    """How often Prefect calls a step that fails so until it gives up."""
    made = []

    @task(**RETRIES)
    def step() -> None:
        made.append(1)
        failing()

    @flow
    def job() -> None:
        step.with_options(retry_delay_seconds=0)()

    with pytest.raises(ErrataError):
        job()
    return len(made)


def raising(error, cause=None):
    def fail():
        raise error("something") from cause

    return fail


@pytest.mark.parametrize("error", [StorageError, LedgerError, TrackingError, TrackingUnavailable])
def test_what_a_network_can_do_is_tried_again_whatever_it_was_raised_from(error):
    assert calls(raising(error)) == calls(raising(error, OSError("reset"))) == TRIES


@pytest.mark.parametrize(
    "error", [ObjectConflict, ObjectNotFound, DigestMismatch, HeadMoved, LineBusy, IllegalStep, UsageError]
)
def test_what_does_not_pass_is_tried_once_whatever_it_was_raised_from(error):
    assert calls(raising(error)) == calls(raising(error, StorageError("the network is gone"))) == 1


def test_a_disk_that_fails_and_a_server_that_is_away_are_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr("tasks.stores.s3._RETRIES", 1)
    (tmp_path / "a").write_bytes(b"a file where a folder belongs")
    assert calls(lambda: open_store(str(tmp_path)).put("a/b", b"")) == TRIES
    assert calls(lambda: open_store("s3://bucket/p", endpoint_url="http://127.0.0.1:1").put("k", b"")) == TRIES


def test_a_stage_that_fails_once_gives_what_it_gave_at_last():
    made = []

    def stage() -> str:
        made.append(1)
        if len(made) == 1:
            raise LedgerError("the disk was away")
        return "done"

    @flow
    def job() -> str:
        return run_step("stage", stage, retries=RETRIES | {"retry_delay_seconds": 0})

    assert (job(), len(made)) == ("done", 2)


def test_every_step_of_a_training_that_is_tried_again_is_so_by_these_rules():
    again = [one for one in vars(training_steps).values() if isinstance(one, Task) and one.retries]
    assert [one.name for one in again] == ["checkpoint", "register"]
    assert {one.retry_condition_fn for one in again} == {RETRIES["retry_condition_fn"]}


def test_what_is_outlasted_is_tried_after_each_pause_and_what_does_not_pass_is_not(monkeypatch):
    paused, made = [], []
    monkeypatch.setattr("tasks.retries.time.sleep", paused.append)

    def work(error) -> str:
        made.append(1)
        if len(made) <= len(PAUSES):
            raise error("away")
        return "done"

    assert outlasting(lambda: work(StorageError)) == "done"
    assert tuple(paused) == PAUSES and sum(PAUSES) > 60
    made.clear()
    with pytest.raises(DigestMismatch):
        outlasting(lambda: work(DigestMismatch))
    assert len(made) == 1
