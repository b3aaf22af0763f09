"""What fails under a job, on the services themselves: nothing is lost, nothing is done twice, and all agrees again."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flows.knowledge_update import knowledge_update
from tasks.stores.snapshots import SnapshotStore
from tasks.update.policy import Policy
from tests.receiver import receiver
from tests.services.conftest import Services
from tests.services.deployed import CHEAP, LENIENT, Deployed, invented, until

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
