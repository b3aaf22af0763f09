"""The Prefect and MLflow servers of this installation, for a person to look at."""

import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from types import FrameType

from editing.errors import UsageError
from flows.cli import lifeline
from flows.cli.console import say, waiting
from flows.cli.prefect_server import database_lock
from tasks.settings import Settings, load_settings

START_SECONDS = 180.0


def run_both(host: str, prefect_port: int, mlflow_port: int) -> None:
    """Start both servers, say where they are, and wait for Ctrl-C; they end with this process.

    Raises:
        UsageError: a port is taken, or a server does not start or ends by itself.
    """
    settings = load_settings()
    ports = {"Prefect": prefect_port, "MLflow": mlflow_port}
    for name, port in ports.items():
        if _answers(host, port):
            raise UsageError(f"port {port} for {name} is taken; choose another with --{name.lower()}-port")
    signal.signal(signal.SIGTERM, _stop)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with waiting("starting the servers"), database_lock():
            running["Prefect"] = _start_prefect(host, prefect_port)
            running["MLflow"] = _start_mlflow(settings, host, mlflow_port)
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


def _start_prefect(host: str, port: int) -> "subprocess.Popen[bytes]":
    # The pages of Prefect's server ask the address that they are told, not the one that they came from.
    address = {"PREFECT_SERVER_UI_API_URL": f"http://{host}:{port}/api"}
    return _start(["prefect", "server", "start", "--host", host, "--port", str(port)], address)


def _start_mlflow(settings: Settings, host: str, port: int) -> "subprocess.Popen[bytes]":
    command = ["mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", settings.mlflow_uri, "--default-artifact-root", settings.artifact_root]
    return _start([*command, *stores], {})


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
