"""Servers that commands start: they end with the command however it ends, wait for each other, and fail in one line."""

import base64
import resource
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.costs import further, some
from tests.databases import give_databases
from tests.flows.command import check_one_line, ended, environment, single, start
from tests.flows.conftest import free_port
from tests.waiting import until

PARENT = """
import subprocess
from flows.cli import lifeline
child = lifeline.start("flows.cli.lifeline", ["tests.flows.family"], stdout=subprocess.PIPE)
print(child.stdout.readline().decode(), flush=True)
child.wait()
"""


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def kill_and_find_no_other(process: "subprocess.Popen[str]") -> None:
    children = family(process)
    assert children
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def works(home: Path) -> bool:
    """A job holds its line, which it takes once Prefect's server has started."""
    return any((home / "snapshots").glob("lines/*/job.json"))


def test_what_a_process_starts_ends_when_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "both run\n"
        assert len(family(process)) == 2
        kill_and_find_no_other(process)


@pytest.mark.slow
def test_no_process_outlives_a_job_that_is_killed_at_work(tmp_path, fact_model_path):
    env = environment(tmp_path, ERRATA_MODEL=str(fact_model_path))
    give_databases(tmp_path)
    assert ended(start(single(), env)).code == 0  # with nothing to do it would end by itself
    with start(("run",), env) as job:
        until(lambda: works(tmp_path), 240, "it does not work")
        kill_and_find_no_other(job)


@pytest.mark.slow
@pytest.mark.parametrize("killed", some([True, False], [True]))
def test_two_jobs_at_once_on_a_fresh_home_behind_a_proxy_both_succeed(tmp_path, killed):
    """Also where the first that ever ran was killed as it started, whatever was cut off of Prefect's database."""
    home = tmp_path / "home%2F? [of] #1 & 法"  # of which addresses are made
    env = environment(home, HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    if killed:
        with start(("run", "zero"), env) as job:
            until(lambda: family(job), 240, "it does not start")
            kill_and_find_no_other(job)
    for job in [ended(job) for job in [start(("run", line), env) for line in ("one", "two")]]:
        assert (job.code, job.err) == (0, "") and "nothing is queued" in job.out
    assert not (home / "user" / ".prefect").exists() and (home / "prefect" / "prefect.db").is_file()
    assert list(tmp_path.iterdir()) == [home]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "says"),
    [
        pytest.param(
            "database",
            r"Prefect's server for this command did not start: .*unable to open database file",
            marks=further,
        ),
        ("folder", r"prefect/profiles.toml cannot be read .*Not a directory"),
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
    check_one_line(ended(process), 2 if broken == "folder" else 1, says)


@pytest.fixture(scope="module")
def ui_home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("ui")
    give_databases(home)
    return home


def start_ui(home: Path, env: dict[str, str] | None = None, **ports: int) -> "subprocess.Popen[str]":
    """`errata ui` once both servers answer."""
    ui = start(("ui", *(f"--{name}-port={port}" for name, port in ports.items())), environment(home, **(env or {})))
    assert ui.stdout is not None and ui.stderr is not None
    said = ""
    while "Ctrl-C ends both" not in said:
        line = ui.stdout.readline()
        assert line, ui.stderr.read()
        said += line
    assert all(f"http://127.0.0.1:{port}" in said for port in ports.values())
    return ui


@pytest.mark.slow
def test_ui_starts_both_servers_on_this_machine_alone_and_ctrl_c_ends_them(ui_home):
    ports = {"prefect": free_port(), "mlflow": free_port()}
    with start_ui(ui_home, **ports) as ui:
        try:
            for path in (f"{ports['prefect']}/api/health", f"{ports['mlflow']}/health"):
                with urllib.request.urlopen(f"http://127.0.0.1:{path}", timeout=10) as answer:
                    assert answer.status == 200
            for page in (
                f"{ports['prefect']}/api/flows/filter",
                f"{ports['mlflow']}/api/2.0/mlflow/experiments/create",
            ):
                for foreign in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
                    assert code(f"http://127.0.0.1:{page}", **foreign) == 403
            ui.send_signal(signal.SIGINT)
            assert ui.wait(timeout=60) == 0 and "Traceback" not in ui.stderr.read()
        finally:
            ui.kill()
    for port in ports.values():
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)


def code(url: str, sign_in: str = "", **headers: str) -> int:
    """What a server answers to a POST."""
    if sign_in:
        headers["Authorization"] = "Basic " + base64.b64encode(sign_in.encode()).decode()
    asked = urllib.request.Request(url, b"{}", {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_the_servers_of_ui_ask_who_somebody_is_where_that_is_set_and_end_when_it_is_killed(ui_home):
    prefect, mlflow = free_port(), free_port()
    env = {"ERRATA_PREFECT_AUTH": "ada:prefect-secret", "ERRATA_MLFLOW_PASSWORD": "mlflow-secret"}
    with start_ui(ui_home, env, prefect=prefect, mlflow=mlflow) as ui:
        said = " ".join(word for process in family(ui) for word in process.cmdline())
        for url, person in (
            (f"http://127.0.0.1:{prefect}/api/flows/filter", "ada:prefect-secret"),
            (f"http://127.0.0.1:{mlflow}/api/2.0/mlflow/experiments/search", "admin:mlflow-secret"),
        ):
            assert person.partition(":")[2] not in said
            assert (code(url), code(url, person + "x")) == (401, 401)
            assert code(url, person) in (200, 400)  # 400: it is let in, and asks for more
        kill_and_find_no_other(ui)


@pytest.mark.parametrize(
    "given", [{}, {"ERRATA_PREFECT_AUTH": "a:secret"}, {"ERRATA_MLFLOW_PASSWORD": "long enough a secret"}]
)
def test_servers_that_others_reach_must_ask_who_they_are(errata, monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    ran = errata("ui", "--host", "0.0.0.0")
    check_one_line(ran, 2, r"--host '0.0.0.0' lets others in.* set ERRATA_PREFECT_AUTH")
    assert "secret" not in ran.err


def test_a_password_that_mlflow_would_not_take_is_refused_before_anything_starts(errata, monkeypatch):
    monkeypatch.setenv("ERRATA_MLFLOW_PASSWORD", "short")
    ran = errata("ui")
    check_one_line(ran, 2, "ERRATA_MLFLOW_PASSWORD")
    assert "short" not in ran.err
