"""The Prefect and MLflow servers of this installation, for a person to look at."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from types import FrameType

from prefect.settings import get_current_settings

from editing.errors import UsageError
from flows.cli.console import console
from tasks.settings import Settings, load_settings

START_SECONDS = 90.0


def serve(host: str, prefect_port: int, mlflow_port: int) -> None:
    """Start both, print where they are, and stay until Ctrl-C or a signal ends them."""
    settings = load_settings()
    ports = {"Prefect": prefect_port, "MLflow": mlflow_port}
    for name, port in ports.items():
        if _answers(host, port):
            raise UsageError(f"port {port} for {name} is taken; choose another with --{name.lower()}-port")
    signal.signal(signal.SIGTERM, _stop)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        # The pages of Prefect's server ask the address that they are told, not the one that they came from.
        api = {"PREFECT_SERVER_UI_API_URL": f"http://{host}:{prefect_port}/api"}
        running["Prefect"] = _start(prefect_command(host, prefect_port), api)
        running["MLflow"] = _start(mlflow_command(settings, host, mlflow_port), {})
        with console.status("starting the servers"):
            _wait(running, {"Prefect": f"http://{host}:{prefect_port}/api/health",
                            "MLflow": f"http://{host}:{mlflow_port}/health"})  # fmt: skip
        console.print(f"Prefect  http://{host}:{prefect_port}   runs, progress, artifacts")
        console.print(f"MLflow   http://{host}:{mlflow_port}   report.html in each run, versions and aliases")
        console.print("Ctrl-C ends both")
        while all(process.poll() is None for process in running.values()):
            time.sleep(0.5)
        ended = [name for name, process in running.items() if process.poll() is not None]
        raise UsageError(f"the {' and '.join(ended)} server ended by itself; errata doctor may know why")
    except KeyboardInterrupt:
        return
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait(timeout=30)


def check_prefect() -> None:
    """Without a server of the user's own a run starts one; one that is configured must answer.

    Raises:
        UsageError: it does not.
    """
    url = get_current_settings().api.url
    if not url:
        return
    try:
        urllib.request.urlopen(f"{url}/health", timeout=10).close()
    except urllib.error.HTTPError:
        return  # it answers, to those who have a key
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise UsageError(
            f"no Prefect server answers at {url} ({why}): start it, or correct or unset PREFECT_API_URL"
        ) from None


def prefect_command(host: str, port: int) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]


def mlflow_command(settings: Settings, host: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    return [*command, "--backend-store-uri", settings.mlflow_uri, "--default-artifact-root", settings.artifact_root]


def _start(command: list[str], extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env={**os.environ, **extra}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


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
