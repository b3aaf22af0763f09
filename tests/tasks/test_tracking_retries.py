"""An MLflow that goes away for a moment: what may be repeated is, and a run at work does not end of it."""

import logging
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.tracking import address, connection
from tasks.tracking.client import Tracker
from tasks.tracking.errors import TrackingError, TrackingUnavailable
from tasks.tracking.steps import StepLog
from tests.costs import some
from tests.databases import mlflow_database
from tests.tasks.mlflow_server import Gate, MlflowServer
from tests.tasks.test_tracking import pointer

TAGS = 40
"""Written by two at once; about one in four collided."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("retries")


@pytest.fixture(scope="module")
def server(folder) -> Iterator[MlflowServer]:
    made = MlflowServer(f"sqlite:///{mlflow_database(folder / 'mlflow.db')}", folder)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def gate(server) -> Iterator[Gate]:
    made = Gate(server.port)
    yield made
    made.close()


@pytest.fixture
def quick(monkeypatch) -> None:
    """No pause before a further try, neither MLflow's nor ours."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setattr(connection, "time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def at_second_try() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Have something done when the tracker says that it tries again."""
    log, handlers = logging.getLogger(connection.__name__), []
    level = log.level

    class Handler(logging.Handler):
        def __init__(self, do: Callable[[], None]) -> None:
            super().__init__()
            self.do = do

        def emit(self, record: logging.LogRecord) -> None:
            self.do()

    def register(do: Callable[[], None]) -> None:
        handlers.append(Handler(do))
        log.setLevel(logging.INFO)
        log.addHandler(handlers[-1])

    yield register
    log.setLevel(level)
    for handler in handlers:
        log.removeHandler(handler)


def registered(tracker: Tracker, line: str) -> str:
    run_id = tracker.start_run(line, "job", {}, {})
    for version in (1, 2):
        tracker.register_version(line, run_id, pointer(line, version))
    tracker.set_aliases(line, 1, None, None)
    return run_id


@pytest.mark.parametrize("how", some(["reset", "busy"], ["busy"]))
def test_calls_that_may_be_repeated_outlast_a_server_that_is_not_well(gate, quick, at_second_try, how):
    tracker, line = Tracker(gate.url, None, "retries"), f"gate-{how}"
    run_id = registered(tracker, line)

    def open_gate() -> None:
        gate.shut = ""

    at_second_try(open_gate)
    for call in (
        lambda: tracker.log_steps(run_id, [(1, {"x": 1.0})]),
        lambda: tracker.set_version_tag(line, 2, "errata.status", "seen"),
        lambda: tracker.set_aliases(line, 2, None, 1),
        lambda: tracker.register_version(line, run_id, pointer(line, 3)),
        lambda: tracker.log_report(run_id, {"a.txt": b"a"}),
        lambda: tracker.end_abandoned("nobody"),
        lambda: tracker.finish_run(run_id),
    ):
        gate.shut, before = how, gate.turned_away
        call()
        assert gate.turned_away > before
    assert tracker.aliases(line) == {"champion": 2, "previous": 1}
    assert tracker.version_tags(line, 2)["errata.status"] == "seen" and tracker.version_tags(line, 3)
    assert len(tracker._client.search_model_versions(f"name = '{line}'")) == 3


def test_a_server_that_stays_away_is_said_on_one_line_after_the_last_try(gate, quick, at_second_try, monkeypatch):
    tracker, tries = Tracker(gate.url, None, "retries"), []
    monkeypatch.setattr(connection, "time", SimpleNamespace(sleep=tries.append))
    gate.shut = "reset"
    with pytest.raises(TrackingUnavailable) as caught:
        tracker.aliases("any")
    assert tuple(tries) == connection.PAUSES and "\n" not in str(caught.value) and gate.url in str(caught.value)
    assert caught.value.__cause__ is not None


def test_what_mlflow_refuses_is_not_tried_again(gate, monkeypatch):
    tracker, tries = Tracker(gate.url, None, "retries"), []
    monkeypatch.setattr(connection, "time", SimpleNamespace(sleep=tries.append))
    with pytest.raises(TrackingError) as caught:
        tracker.finish_run("no-such-run")
    assert not tries and not isinstance(caught.value, TrackingUnavailable)


@pytest.mark.slow
def test_a_locked_database_is_waited_for_and_named_without_a_traceback(
    impatient, server, folder, at_second_try, capfd, caplog
):
    database = folder / "mlflow.db"
    tracker = Tracker(f"sqlite:///{database}?timeout=0.2", None, "retries")
    run_id = tracker.start_run("locked", "job", {}, {})
    with sqlite3.connect(database, check_same_thread=False) as other:
        other.execute("BEGIN IMMEDIATE")
        at_second_try(other.rollback)
        tracker.log_steps(run_id, [(1, {"x": 1.0})])
    assert tracker._client.get_run(run_id).data.metrics == {"x": 1.0}
    assert "Traceback" not in capfd.readouterr().err and "database is locked" in caplog.text


def test_a_database_that_somebody_holds_is_not_called_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(address, "CONNECT_SECONDS", 0.1)
    with sqlite3.connect(tmp_path / "held.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingUnavailable, match=r"held\.db is locked by another process"):
            Tracker(f"sqlite:///{tmp_path / 'held.db'}", None, "x")


def test_steps_logged_while_the_server_is_dead_come_with_the_next_ones(server, quick):
    tracker = Tracker(server.url, None, "retries")
    run_id = tracker.start_run("killed", "job", {}, {})
    log = StepLog(tracker, run_id)
    log.log([(0, {"x": 0.0})])
    server.stop(signal.SIGKILL)
    log.log([(1, {"x": 1.0, "y": 1.0})])
    log.log([(2, {"x": 2.0})])
    assert log.unsent == 3
    server.start()
    log.log([(3, {"x": 3.0})])
    log.finish()
    assert log.unsent == 0
    history = tracker._client.get_metric_history(run_id, "x")
    assert [(point.step, point.value) for point in history] == [(n, float(n)) for n in range(4)]
    assert len(tracker._client.get_metric_history(run_id, "y")) == 1


def test_what_mlflow_never_takes_is_raised_at_the_end_alone(server, caplog):
    log = StepLog(Tracker(server.url, None, "retries"), "no-such-run")
    log.log([(0, {"x": 0.0})])
    log.log([])
    assert log.unsent == 1 and "1 values are kept" in caplog.text
    with pytest.raises(TrackingError, match="no-such-run"):
        log.finish()


@pytest.mark.parametrize("kind", ["file", "server"])
def test_two_who_write_the_same_tag_at_once_both_succeed(server, tmp_path, kind):
    """MLflow looks for the row, then inserts it; who comes second is told that it is there."""
    uri = f"sqlite:///{mlflow_database(tmp_path / 'mlflow.db')}" if kind == "file" else server.url
    artifacts = str(tmp_path / "artifacts") if kind == "file" else None
    trackers = [Tracker(uri, artifacts, "beside") for _ in range(2)]
    run_id = trackers[0].start_run("facts", "job", {}, {})
    line = f"beside-{kind}"
    trackers[0].register_version(line, run_id, pointer(line, 1))
    together, failed = threading.Barrier(2), list[Exception]()

    def write(tracker: Tracker) -> None:
        for number in range(TAGS):
            together.wait()
            try:
                tracker.set_version_tag(line, 1, f"errata.{number}", "said")
            except TrackingError as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(tracker,)) for tracker in trackers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[:2]
    there = trackers[1].version_tags(line, 1)
    assert all(there[f"errata.{number}"] == "said" for number in range(TAGS))
