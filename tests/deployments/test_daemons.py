"""Daemons: one of each name, found again after whatever happened, and never another's process."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deployments.services import daemons, logs
from deployments.services.daemons import Command, ServiceError

SLEEPS = Command(["/bin/sleep", "600"], {"OF_ITS_OWN": "1"}, Path("/"))
FAMILY = Command([sys.executable, "-c", "import subprocess; subprocess.run(['/bin/sleep', '600'])"], {}, Path("/"))


@pytest.fixture
def path(tmp_path):
    yield tmp_path / "a.pid"
    daemons.stop(tmp_path / "a.pid", signal.SIGKILL)


def start(path: Path, command: Command = SLEEPS) -> int:
    daemons.start(path, path.with_suffix(".log"), command, dict(os.environ))
    found = daemons.running(path)
    assert found is not None and found[1] == command.digest
    return found[0]


def test_a_daemon_is_found_until_it_ends_however_it_ends(path):
    assert daemons.running(path) is None
    process = psutil.Process(start(path))
    assert daemons.environment_of(process)["OF_ITS_OWN"] == "1"
    assert os.getsid(process.pid) == process.pid
    process.kill()
    psutil.wait_procs([process], timeout=30)
    assert daemons.running(path) is None
    assert start(path) != process.pid


def test_a_process_is_known_by_its_environment_also_while_it_becomes_another_program(tmp_path):
    script = tmp_path / "again"
    script.write_text('#!/bin/sh\nexec "$0"\n')
    script.chmod(0o700)
    with subprocess.Popen([script], env={"OF_ITS_OWN": "1"}) as becoming:
        process = psutil.Process(becoming.pid)
        seen = [daemons.environment_of(process).get("OF_ITS_OWN") for _ in range(5000)]
        becoming.kill()
    assert set(seen) == {"1"}
    assert daemons.environment_of(psutil.Process(os.getpid())) == psutil.Process(os.getpid()).environ()


def test_what_a_daemon_has_started_ends_with_it(path):
    process = psutil.Process(start(path, FAMILY))
    while not (children := process.children()):
        time.sleep(0.02)
    daemons.stop(path)
    assert daemons.running(path) is None
    assert psutil.wait_procs([process, *children], timeout=30)[1] == []


def test_the_number_of_a_process_in_a_file_that_nobody_holds_says_nothing(path):
    with subprocess.Popen(["/bin/sleep", "600"]) as foreign:
        path.write_text(f"{foreign.pid} {SLEEPS.digest}\n")
        assert daemons.running(path) is None
        daemons.stop(path)
        assert foreign.poll() is None
        foreign.kill()


def test_a_process_that_is_no_daemon_of_this_file_is_left_alone(path, monkeypatch):
    monkeypatch.setattr(daemons, "LAST_SECONDS", 0.2)
    with subprocess.Popen(["/bin/sleep", "600"]) as foreign, path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        path.write_text(f"{foreign.pid} {SLEEPS.digest}\n")
        with pytest.raises(ServiceError, match="does not end"):
            daemons.stop(path, patience=0.2)
        assert foreign.poll() is None
        foreign.kill()


def test_one_that_does_not_end_politely_ends_for_good(path):
    stubborn = Command(["/bin/sh", "-c", "trap '' TERM; while :; do sleep 600; done"], {}, Path("/"))
    process = psutil.Process(start(path, stubborn))
    while "trap" not in " ".join(process.cmdline()) or not process.children():
        time.sleep(0.02)
    daemons.stop(path, patience=0.2)
    assert psutil.wait_procs([process], timeout=30)[1] == []


def test_what_a_daemon_has_started_may_end_politely_too(path, tmp_path):
    """A job of a worker, say, which takes back what it was at."""
    child = (
        f"import signal, time; signal.signal(15, lambda *_: open('{tmp_path}/said', 'w').write('goodbye') and exit()); "
    )
    child += f"open('{tmp_path}/ready', 'w'); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    start(path, Command([sys.executable, "-c", parent], {}, Path("/")))
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    daemons.stop(path, family_first=True)
    assert (tmp_path / "said").read_text() == "goodbye"


def test_started_in_another_way_it_has_another_digest():
    assert SLEEPS.digest != Command(SLEEPS.arguments, {"OF_ITS_OWN": "2"}, Path("/")).digest
    assert SLEEPS.digest != FAMILY.digest


def test_a_long_log_begins_anew_and_what_writes_to_it_goes_on(tmp_path):
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writing:
        writing.write(b"x" * 100)
        logs.shorten(tmp_path, most=100)
        assert log.stat().st_size == 100
        writing.write(b"y")
        logs.shorten(tmp_path, most=100)
        writing.write(b"z")
    assert log.read_bytes() == b"z"
    assert (tmp_path / "a.log.1").read_bytes() == b"x" * 100 + b"y"
    logs.rotate(log)
    assert not log.exists() and (tmp_path / "a.log.1").read_bytes() == b"z"
