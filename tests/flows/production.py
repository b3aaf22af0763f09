"""A whole Prefect server with pages, schedules and automations, and workers of it, for tests of what is deployed."""

import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cli import lifeline, prefect_pages
from tasks.lines.specs import resolve_line, save_line
from tasks.settings import load_settings
from tasks.workplace import Workplace, open_workplace
from tests.databases import SOON, prefect_database
from tests.flows.conftest import METHOD, free_port
from tests.waiting import until

QUICK = SOON | {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_LOGGING_TO_API_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
HEARTBEAT = "errata: a run without a heartbeat is ended as crashed"
SENT = {"name", "description", "enabled", "tags", "trigger", "actions"}
SLOW_SEARCH = METHOD | {"contexts": 40, "search": METHOD["search"] | {"steps": 1000, "stop_loss": 0.0}}
"""Options of a line whose value search takes minutes."""


def description(client: SyncPrefectClient, run: str) -> str:
    """Of the form that a run waits with: the server has the run's state a moment before it has the form."""

    def read() -> str:
        state = client.read_flow_run(UUID(run)).state
        keys = (state.state_details.run_input_keyset if state else None) or {}
        try:
            return str(client.read_flow_run_input(UUID(run), keys["description"])) if keys else ""
        except PrefectHTTPStatusError:
            return ""

    return until(read)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a Prefect server with all its services."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        pages = {"PREFECT_UI_URL": prefect_pages.environment("127.0.0.1", port, "")["PREFECT_UI_URL"]}
        environment = QUICK | pages | {"PREFECT_API_URL": "", "PREFECT_HOME": str(prefect_database(folder))}
        process = lifeline.start("flows.cli.lifeline", command, environment, stdout=log, stderr=log)
    try:
        until(lambda: _answers(f"{url}/health"))
        yield url
    finally:
        lifeline.stop(process)


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


class Production:
    """A home whose flows a server knows."""

    def __init__(self, url: str, folder: Path, places: Mapping[str, str]) -> None:
        self.url, self.folder = url, folder
        self.environment = {**places, "ERRATA_HOME": str(folder / "home"), "PREFECT_API_URL": url}

    def line(self, name: str, options: Mapping[str, object] = METHOD) -> Workplace:
        """A new line of the fact model."""
        settings = load_settings()
        workplace = open_workplace(settings)
        spec = resolve_line(workplace.store.store, settings, name, options=dict(options))
        save_line(workplace.store.store, spec)
        return workplace

    @contextmanager
    def worker(self) -> Iterator["subprocess.Popen[bytes]"]:
        """A worker as the documentation starts it."""
        command = ["prefect", "worker", "start", "--pool", "errata", "--type", "process"]
        environment = {**QUICK, **self.environment, "PREFECT_HOME": str(self.folder / "worker")}
        with (self.folder / "worker.log").open("a") as log:
            process = lifeline.start("flows.cli.lifeline", command, environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            lifeline.stop(process)
            for one in family:  # runs lead groups of their own
                with suppress(psutil.NoSuchProcess):
                    one.kill()

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        with get_client(sync_client=True) as client:
            yield client

    def start(self, name: str, **parameters: object) -> str:
        """The id of a new run of a deployment."""
        with self.client() as client:
            deployment = client.read_deployment_by_name(name)
            return str(client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id)

    def state(self, run: str) -> State:
        with self.client() as client:
            state = client.read_flow_run(UUID(run)).state
            assert state is not None
            return state

    def ended(self, run: str, seconds: float = 90) -> State:
        return until(lambda: state if (state := self.state(run)).is_final() else None, seconds)

    def log(self, run: str) -> list[str]:
        with self.client() as client:
            return [line.message for line in client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])))]


@contextmanager
def in_production(url: str, folder: Path, places: Mapping[str, str]) -> Iterator[Production]:
    """Inside, this process works in the home, with that server."""
    made = Production(url, folder, places)
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: url}):
        for name, value in made.environment.items():
            patch.setenv(name, value)
        patch.delenv("ERRATA_NOTIFY", raising=False)
        (folder / "home").mkdir()
        yield made


def wait_for_a_heartbeat(seconds: float) -> None:
    """Make the automation that ends runs without one wait so long, until `errata deploy` is next called."""
    with get_client(sync_client=True) as client:
        [automation] = client.read_automations_by_name(HEARTBEAT)
        changed = AutomationCore.model_validate(automation.model_dump(include=SENT))
        assert isinstance(changed.trigger, EventTrigger)
        changed.trigger.within = timedelta(seconds=seconds)
        client.update_automation(automation.id, changed)


def processes_of(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
