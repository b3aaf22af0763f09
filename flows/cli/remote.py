"""Runs of deployments on the configured Prefect server: start one, follow it, and end as it ends.

Prefect is imported inside the functions: it reads its settings when it is imported, and `load_settings` comes first.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editing.errors import ErrataError, UsageError
from flows.cli.app import if_stopped
from flows.cli.console import as_json, console, errors, plain, say, waiting
from flows.cli.deployment_table import read_table
from flows.cli.prefect_api import check_server
from tasks.settings import load_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, Log, State

POLL_SECONDS = 1.0
LATE_LINES = timedelta(seconds=30)
"""Lines of the log may reach the server so much later than others that are younger."""
UNTAKEN_SECONDS = 30.0
"""A run that no worker has taken for so long is spoken of."""


class RunFailed(ErrataError):
    """A run that was followed ended otherwise than well."""


@contextmanager
def configured_client() -> Iterator["SyncPrefectClient"]:
    """A client of the configured Prefect server.

    Raises:
        UsageError: none is configured, it does not answer, or it refuses what is asked of it.
    """
    load_settings()
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        raise UsageError(
            "no Prefect server is configured: set ERRATA_PREFECT_API_URL, for example to "
            "http://127.0.0.1:4200/api for that of errata ui"
        )
    check_server(url)
    with get_client(sync_client=True) as client:
        try:
            yield client
        except httpx.HTTPStatusError as error:
            raise UsageError(f"Prefect's server at {url} refused it: {_why(error)}") from error
        except httpx.HTTPError as error:
            raise UsageError(f"Prefect's server at {url} answers no more ({error}): is it running?") from error


def follow_run(flow: str, line: str, parameters: Mapping[str, Any], wait: bool, json: bool) -> None:
    """Start a run of FLOW/LINE with what of the parameters is not None, and follow it unless `wait` is false.

    Raises:
        UsageError: there is no such deployment, or it refuses a parameter.
        RunFailed: it ended otherwise than completed.
    """
    settings, name = load_settings(), f"{flow}/{line}"
    with configured_client() as client:
        run = _start(client, name, line, {key: _sent(value) for key, value in parameters.items() if value is not None})
        page = f"{settings.prefect_people}/runs/flow-run/{run.id}"
        if not json:
            say(f"started {name}: {page}")
        with if_stopped(f"no longer followed; {name} goes on: {page}"):
            state = _followed(client, run, json) if wait else run.state
    assert state is not None  # the server gives each run one
    if json:
        as_json({"run": str(run.id), "page": page, "state": state.name, "message": state.message})
    if not wait:
        return
    said = plain(state.message or "")
    if not state.is_completed():
        raise RunFailed(f"{name} ended {state.name}: {said or 'no reason given'}; {page}")
    if not json:
        say(f"{name} completed{f': {said}' if said else ''}")


def _start(client: "SyncPrefectClient", name: str, line: str, parameters: dict[str, Any]) -> "FlowRun":
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        lines = f" {line}" if read_table().flows[name.partition("/")[0]].of == "line" else ""
        raise UsageError(f"Prefect has no deployment '{name}'; make it: errata deploy{lines}") from error
    return client.create_flow_run_from_deployment(found.id, parameters=parameters)


def _followed(client: "SyncPrefectClient", run: "FlowRun", json: bool) -> "State[Any]":
    """Print the lines of its log until it ends; returns its last state."""
    out = errors if json else console
    log = _Log(client, run)
    begun, told = time.monotonic(), ""
    with waiting("waiting for a worker", out) as change:
        while True:
            state = client.read_flow_run(run.id).state
            for level, text in log.news():
                say(text, "warning" if level > 20 else "", to=out)
            assert state is not None
            if state.is_final():
                return state
            stands = (state.name or state.type.value).lower()
            change(stands)
            untaken = state.is_scheduled() and time.monotonic() - begun > UNTAKEN_SECONDS
            if untaken and told != stands:
                told = stands
                say(f"{stands}: no worker has taken it yet, or another run of the line goes on", to=out)
            time.sleep(POLL_SECONDS)


TRACEBACK = "Traceback (most recent call last)"


class _Log:
    """The log of a run, each line once."""

    def __init__(self, client: "SyncPrefectClient", run: "FlowRun") -> None:
        self.client, self.run = client, run
        self.seen: dict[object, datetime] = {}

    def news(self) -> list[tuple[int, str]]:
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterTimestamp
        from prefect.client.schemas.sorting import LogSort

        since = max(self.seen.values()) - LATE_LINES if self.seen else None
        wanted = LogFilter(
            flow_run_id=LogFilterFlowRunId(any_=[self.run.id]),
            timestamp=LogFilterTimestamp(after_=since) if since else None,
        )
        found: list[Log] = []
        while page := self.client.read_logs(wanted, sort=LogSort.TIMESTAMP_ASC, offset=len(found), limit=200):
            found += page
        fresh = [line for line in found if line.id not in self.seen]
        self.seen |= {line.id: line.timestamp for line in fresh}
        # Prefect's own line of a failure is a traceback; its last state says the same in one line.
        return [(line.level, line.message.strip()) for line in fresh if TRACEBACK not in line.message]


def _sent(value: Any) -> Any:
    """A parameter as JSON; a path as the worker will find it, where it shares this machine."""
    return str(value.expanduser().resolve()) if isinstance(value, Path) else value


def _why(error: Any) -> str:
    """What the server said, in words."""
    try:
        said = error.response.json()
    except ValueError:
        return plain(error).partition(" For more information")[0]
    return plain(said.get("detail", said) if isinstance(said, dict) else said)
