"""MLflow's database of a new home: whole or not there, whoever is killed while it is made, and however many make it."""

import signal
import subprocess
import sys
import time

import pytest

from tasks.tracking.connection import Connection
from tests.waiting import until

pytestmark = pytest.mark.slow
MAKE = "import sys; from tasks.tracking.making import make_whole; make_whole(sys.argv[1])"


def making(uri) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", MAKE, uri])


def test_who_is_killed_while_it_is_made_leaves_a_home_that_goes_on_and_two_make_one(tmp_path):
    place, uri = tmp_path / "home" / "mlflow.db", f"sqlite:///{tmp_path}/home/mlflow.db"
    place.parent.mkdir()
    place.touch()  # as whoever looked whether it can be written leaves it
    begun = place.with_name(".mlflow.db.making") / "migrated.db"
    process = making(uri)
    until(lambda: begun.exists() and begun.stat().st_size, what="no table was made")
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert begun.exists() and not place.stat().st_size
    assert [one.wait(60) for one in (making(uri), making(uri))] == [0, 0]
    assert not begun.parent.exists()
    assert [one.name for one in Connection(uri)._client.search_experiments()] == ["Default"]


def test_what_is_no_file_of_sqlite_and_what_is_there_is_left_alone(tmp_path):
    from tasks.tracking.making import make_whole

    place = tmp_path / "mlflow.db"
    Connection(f"sqlite:///{place}")
    before = place.read_bytes(), place.stat().st_ino, place.stat().st_mtime_ns
    for uri in ("http://127.0.0.1:1", "postgresql://nobody@127.0.0.1:1/mlflow", f"sqlite:///{place}"):
        make_whole(uri)
    assert (place.read_bytes(), place.stat().st_ino, place.stat().st_mtime_ns) == before
    assert {one.name for one in tmp_path.iterdir()} <= {"mlflow.db", ".mlflow.db.lock"}


def test_where_it_cannot_be_made_is_one_line(tmp_path):
    from tasks.tracking.errors import TrackingError
    from tasks.tracking.making import make_whole

    (tmp_path / "file").touch()
    with pytest.raises(
        TrackingError, match=r"MLflow database '.*/file/mlflow.db' cannot be made .*: make room, choose"
    ):
        make_whole(f"sqlite:///{tmp_path}/file/mlflow.db")
