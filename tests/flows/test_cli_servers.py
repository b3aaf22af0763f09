"""Servers that commands start: they end with the command however it ends, wait for each other, and fail in one line."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from filelock import FileLock, Timeout

from tests.flows.command import check_one_line, ended, environment, single, start
from tests.flows.conftest import free_port

PARENT = """
import subprocess
from flows.cli import lifeline
child = lifeline.start("flows.cli.lifeline", ["tests.flows.family"], stdout=subprocess.PIPE)
print(child.stdout.readline().decode(), flush=True)
child.wait()
"""


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def kill_and_find_no_other(process: "subprocess.Popen[str]") -> None:
    children = family(process)
    assert children
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def server_runs(home: Path) -> bool:
    """Prefect's database is set up, and nobody is at it any more."""
    if not (home / "prefect" / "prefect.db").exists():
        return False
    try:
        with FileLock(home / "prefect" / "database.lock", timeout=0):
            return True
    except Timeout:
        return False


def test_what_a_process_starts_ends_when_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "both run\n"
        assert len(family(process)) == 2
        kill_and_find_no_other(process)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting", "working"])
def test_no_process_outlives_a_killed_job(tmp_path, fact_model_path, moment):
    env = environment(tmp_path, ERRATA_MODEL=str(fact_model_path))
    assert ended(start(single(), env)).code == 0
    with start(("run",), env) as job:
        until(lambda: family(job) if moment == "starting" else server_runs(tmp_path), "no server")
        kill_and_find_no_other(job)
    again = ended(start(("run", "another"), env))  # whatever was cut off, the next one goes on from it
    assert (again.code, again.err) == (0, "") and "nothing is queued" in again.out


@pytest.mark.slow
def test_two_jobs_at_once_on_a_fresh_home_behind_a_proxy_both_succeed(tmp_path):
    env = environment(tmp_path, HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    for job in [ended(job) for job in [start(("run", line), env) for line in ("one", "two")]]:
        assert (job.code, job.err) == (0, "") and "nothing is queued" in job.out
    assert not (tmp_path / "user" / ".prefect").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("database", r"Prefect's server for this command did not start: .*unable to open database file"),
        ("folder", r"prefect: File exists"),
        ("disk", r"Prefect's server for this command did not start: .*(disk|full|large)"),
    ],
)
def test_whatever_keeps_the_server_from_starting_is_one_line(tmp_path, broken, says):
    env = environment(tmp_path)
    if broken == "database":
        env["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{tmp_path}/nowhere/prefect.db"
    elif broken == "folder":
        (tmp_path / "prefect").write_text("I am no folder")
    process = start(("run",), env)
    if broken == "disk":  # no file may grow beyond 64 KiB: as on a disk that is full
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    check_one_line(ended(process), 1, says)


@pytest.mark.slow
def test_the_servers_of_ui_end_when_it_is_killed(tmp_path):
    ports = [f"--{name}-port={free_port()}" for name in ("prefect", "mlflow")]
    with start(("ui", *ports), environment(tmp_path)) as ui:
        said = ""
        while "Ctrl-C ends both" not in said:
            line = ui.stdout.readline()
            assert line, ui.stderr.read()
            said += line
        kill_and_find_no_other(ui)
