"""The Prefect and MLflow servers of this installation, for a person to look at."""

import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from types import FrameType
from urllib.parse import urlsplit

from editing.edit import shown
from editing.errors import UsageError
from flows.cli import lifeline
from flows.cli.accounts import accounts
from flows.cli.console import say, waiting
from flows.cli.guard import is_loopback, own_origins
from flows.cli.prefect_server import database_lock
from tasks.settings import Settings, load_settings
from tasks.tracking.address import artifact_address, quiet_mlflow
from tasks.tracking.making import make_whole

START_SECONDS = 180.0


def run_both(host: str, prefect_port: int, mlflow_port: int) -> None:
    """Start both servers, say where they are, and wait for Ctrl-C; they end with this process.

    Raises:
        UsageError: others could reach them without signing in, a port is taken, or a server does not start or ends by
            itself.
    """
    settings = load_settings()
    _check_reach(settings, host)
    asking = accounts(settings) if settings.mlflow_password.get_secret_value() else {}
    ports = {"Prefect": prefect_port, "MLflow": mlflow_port}
    for name, port in ports.items():
        if _answers(host, port):
            raise UsageError(f"port {port} for {name} is taken; choose another with --{name.lower()}-port")
    signal.signal(signal.SIGTERM, _stop)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with waiting("starting the servers"), database_lock():
            running["Prefect"] = _start_prefect(settings, host, prefect_port)
            running["MLflow"] = _start_mlflow(settings, host, mlflow_port, asking)
            _wait(running, {"Prefect": f"http://{host}:{prefect_port}/api/health",
                            "MLflow": f"http://{host}:{mlflow_port}/health"})  # fmt: skip
        say(f"Prefect  http://{host}:{prefect_port}   runs, progress, artifacts")
        say(f"MLflow   http://{host}:{mlflow_port}   report.html in each run, versions and aliases")
        say("Ctrl-C ends both")
        while all(process.poll() is None for process in running.values()):
            time.sleep(0.5)
        ended = [name for name, process in running.items() if process.poll() is not None]
        raise UsageError(f"the {' and '.join(ended)} server ended by itself; errata doctor may know why")
    except KeyboardInterrupt:
        return
    finally:
        for process in running.values():
            lifeline.stop(process)


def _check_reach(settings: Settings, host: str) -> None:
    asks = settings.prefect_auth.get_secret_value() and settings.mlflow_password.get_secret_value()
    if not is_loopback(host) and not asks:
        raise UsageError(
            f"--host {shown(host)} lets others in, so the servers must ask who they are: set ERRATA_PREFECT_AUTH, "
            "ERRATA_MLFLOW_USERNAME and ERRATA_MLFLOW_PASSWORD, or leave --host away"
        )


def _start_prefect(settings: Settings, host: str, port: int) -> "subprocess.Popen[bytes]":
    asks = {"PREFECT_SERVER_API_AUTH_STRING": settings.prefect_auth.get_secret_value()}
    page = [settings.prefect_page] if settings.prefect_page else []
    command = ["flows.cli.prefect_pages", host, str(port), *page]
    return _start(command, {name: value for name, value in asks.items() if value})


def _start_mlflow(settings: Settings, host: str, port: int, asking: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    quiet_mlflow()
    make_whole(settings.mlflow_uri)
    command = ["mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    stores = ["--default-artifact-root", artifact_address(settings.artifact_root)]
    pages = own_origins(host, port, [settings.mlflow_page])
    stores += ["--allowed-hosts", ",".join(sorted(urlsplit(page).netloc for page in pages))]
    if settings.mlflow_page:
        stores += ["--cors-allowed-origins", settings.mlflow_page]
    # What opens a database stands in no command line, which everybody on this machine can read.
    environment = {"MLFLOW_BACKEND_STORE_URI": settings.mlflow_uri, **asking}
    return _start([*command, *stores, *(["--app-name", "basic-auth"] if asking else [])], environment)


def _start(command: list[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return lifeline.start("flows.cli.lifeline", command, environment, **silent)


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0


def _wait(running: Mapping[str, subprocess.Popen[bytes]], urls: Mapping[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    waiting = dict(urls)
    while waiting:
        for name, url in list(waiting.items()):
            if running[name].poll() is not None:
                raise UsageError(f"the {name} server did not start; is another one using its database or port?")
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    if answer.status == 200:
                        del waiting[name]
            except OSError:
                pass
        if time.monotonic() > deadline:
            raise UsageError(f"{' and '.join(waiting)} did not answer within {START_SECONDS:.0f} s")
        time.sleep(0.3)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
