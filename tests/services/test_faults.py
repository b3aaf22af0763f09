"""What fails under a job, on the services themselves: nothing is lost, nothing is done twice, and all agrees again."""

import subprocess

import pytest

from flows.knowledge_update import knowledge_update
from tasks.stores.snapshots import SnapshotStore
from tasks.update.policy import Policy
from tests.services.conftest import Services
from tests.services.deployed import CHEAP, LENIENT, Deployed, invented

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
