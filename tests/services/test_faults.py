"""What fails under a job, on the services themselves: nothing is lost, nothing is done twice, and all agrees again."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flows.knowledge_update import knowledge_update
from tasks import retries
from tasks.stores.snapshots import SnapshotStore
from tasks.update.policy import Policy
from tests.costs import further
from tests.flows.production import wait_for_a_heartbeat
from tests.receiver import receiver
from tests.services.conftest import Services
from tests.services.deployed import CHEAP, LENIENT, Deployed, invented, until

HEARTBEAT_SECONDS = 45
"""Runs say that they live every 30 seconds."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_s3_that_dies_while_a_version_is_published_is_outlasted(here: Services, monkeypatch: pytest.MonkeyPatch):
    line = Deployed(here, "s3")
    line.submit(invented(4, seed=1))
    publish, killed = SnapshotStore.publish, []

    def publishing(store, *arguments):
        version = publish(store, *arguments)  # the version is there, its events are not
        if not killed:
            here.kill("seaweedfs")
            killed.append(subprocess.Popen(*here.call("up"), stdout=subprocess.DEVNULL))
        return version

    monkeypatch.setattr(SnapshotStore, "publish", publishing)
    summary = knowledge_update("s3", Policy(**LENIENT, batch_size=2), options=CHEAP)
    assert killed[0].wait(timeout=120) == 0
    assert (summary.kept, line.versions()) == (4, 2)
    assert line.approved() == []


def test_s3_that_is_away_while_a_job_opens_is_waited_for(here: Services, monkeypatch: pytest.MonkeyPatch):
    line = Deployed(here, "s3-away")
    line.submit(invented(2, seed=3))
    said: list[str] = []

    def pausing(text: str, style: str = "") -> None:
        """What a job says before it waits; meanwhile somebody starts the store."""
        said.append(text)
        here.start("seaweedfs")

    monkeypatch.setattr(retries, "note", pausing)
    here.kill("seaweedfs")
    assert knowledge_update("s3-away", Policy(**LENIENT), options=CHEAP).kept == 2
    assert [text.endswith("; again in 2 s") for text in said] == [True]
    assert line.approved() == []


@contextmanager
def notified(services: Services, address: str) -> Iterator[None]:
    """Inside, jobs of the worker tell whoever listens there."""
    path = services.place.settings_file
    before = path.read_text()
    path.write_text(f'{before}notify = "{address}"\n')
    try:
        yield
    finally:
        path.write_text(before)


def test_postgres_that_is_started_anew_under_a_job_and_as_it_ends_is_outlasted(here: Services):
    line = Deployed(here, "postgres", LENIENT | {"batch_size": 2})
    line.submit(invented(6, seed=2))
    started: list[subprocess.Popen[bytes]] = []

    def start_anew(said: dict[str, Any]) -> None:
        """The notice is the last that a job does before it says that it has completed."""
        here.stop("postgres")
        started.append(subprocess.Popen(*here.call("up"), stdout=subprocess.DEVNULL))

    with receiver(start_anew) as address, notified(here, address):
        run = line.start()
        until(line.versions, 120)
        here.stop("postgres")
        here.start("postgres")
        state = line.ended(run)
    assert [up.wait(timeout=120) for up in started] == [0]
    assert (state.name, line.versions()) == ("Completed", 3), state
    assert line.approved() == []


@further  # it waits until the server misses a heartbeat; tests/flows/test_cancel.py has it with a short one
def test_a_job_that_is_killed_with_its_worker_ends_as_crashed_and_the_next_one_finishes(here: Services):
    line = Deployed(here, "killed", LENIENT | {"batch_size": 1})
    line.submit(invented(6, seed=4))
    line.deploy()
    try:
        wait_for_a_heartbeat(HEARTBEAT_SECONDS)
        run = line.start()
        until(line.versions, 120)
        here.kill("worker", alone=True)
        assert line.kill_job(run) > 0 and line.state(run).is_running()
        state = line.ended(run)
        assert state.is_crashed() and "its heartbeat is gone" in (state.message or ""), state
    finally:
        line.deploy()
    assert 0 < line.versions() < 6
    here.start("worker")
    assert line.ended(line.start()).is_completed()
    assert line.approved() == []
