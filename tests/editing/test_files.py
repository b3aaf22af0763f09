"""A folder that is whole or absent, whoever writes it and however that ends."""

import os
import signal
import subprocess
import sys

import pytest

from editing.errors import UsageError
from editing.files import whole_folder

WRITES = """
import sys, time
from pathlib import Path
from editing.files import whole_folder
with whole_folder(Path(sys.argv[1])) as work:
    (work / "half").write_text("half")
    print("begun", flush=True)
    time.sleep(600)
"""


def test_a_killed_writer_leaves_no_folder_and_a_living_one_keeps_others_out(tmp_path):
    target = tmp_path / "new" / "out"
    writer = subprocess.Popen([sys.executable, "-c", WRITES, target], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "begun\n"
        with pytest.raises(UsageError, match="another process is writing"), whole_folder(target):
            pass
        assert (target.parent / ".out.unfinished" / "half").exists()  # the other's is left alone
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
    assert not target.exists()
    with whole_folder(target) as work:
        assert not list(work.iterdir())
        (work / "whole").write_text("whole")
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_an_empty_folder_is_taken_and_one_that_was_filled_meanwhile_is_left_alone(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    with whole_folder(target) as work:
        (work / "ours").write_text("ours")
    assert (target / "ours").read_text() == "ours"
    other = tmp_path / "other"
    with pytest.raises(UsageError, match="is not empty"), whole_folder(other):
        other.mkdir()
        (other / "theirs").write_text("theirs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "out") as work:
        (work / "half").mkdir()
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
