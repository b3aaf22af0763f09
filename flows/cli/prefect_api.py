"""The Prefect server that a command works with: the user's own where one is configured, else one for this command.

The own one lives as long as the command, even where that is killed, and listens on this machine alone. Commands that
run at once in one home have one each, on one database, which one of them sets up while the others wait.

Prefect is imported inside the functions: it reads its settings when it is imported, and `load_settings` comes first.
"""

import http
import os
import select
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from editing.errors import ErrataError, UsageError
from flows.cli import lifeline
from flows.cli.console import console, errors, waiting
from tasks.addresses import asked
from tasks.secrets import without_secrets
from tasks.settings import load_settings
from tasks.tracking.address import check_usable

START_SECONDS = 180.0
"""Most time for a start; a first one sets up a database, which takes long on a busy machine."""
POLL_SECONDS = 1.0
LOG = "temporary-server.log"
LOG_BYTES = 1 << 20
LOADING = "loading what the job needs"
ENDING = "ending Prefect's server for this command"
STARTING = "starting Prefect's server for this command"
WAITING = "another command sets up Prefect's database in this home; waiting for it"


class ServerError(ErrataError):
    """Prefect's server for this command did not start, or failed at work."""


@contextmanager
def prefect_api(json: bool = False) -> Iterator[Callable[[], None]]:
    """Inside, Prefect has a server. It starts meanwhile: import what is needed, then call what is given, which waits.

    Args:
        json: Standard output is for a script; what is waited for is said on standard error.

    Raises:
        UsageError: a server is configured and does not answer.
        TrackingError: MLflow's records or artifacts cannot be used where they are to be.
        ServerError: its own server cannot start.
    """
    used = load_settings()
    if used.tracking_uri or used.artifacts:
        check_usable(used.mlflow_uri, used.artifact_root)
    out = errors if json else console
    with ExitStack() as ending, ExitStack() as loading:
        change = loading.enter_context(waiting(LOADING, out))
        from prefect.settings import get_current_settings

        settings = get_current_settings()
        if settings.api.url:
            check_server(settings.api.url)
            yield loading.close
            return
        home = Path(settings.home)
        with _started(home) as (process, url), _address(url), _failures_named(url, home):

            @cache  # whoever asks again does not wait for another start
            def started() -> None:
                _wait(process, home, change)
                loading.close()

            yield started
            ending.enter_context(waiting(ENDING, out))  # up to the end of the server
            _flush()


def check_server(url: str) -> None:
    try:
        urllib.request.urlopen(asked(f"{url.rstrip('/')}/health"), timeout=10).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        if isinstance(error, urllib.error.HTTPError):
            if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                return  # it answers, to those who have a key
            why = f"{error.code} {error.reason}"  # a proxy says so of a server that is away
        raise UsageError(
            f"no Prefect server answers at {without_secrets(url)} ({why}): start it, or correct or unset "
            "ERRATA_PREFECT_API_URL, or PREFECT_API_URL"
        ) from error


@contextmanager
def _started(home: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """The server's process and address. Its socket listens from the start: no other process can take the port."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / LOG
    if log.exists() and log.stat().st_size > LOG_BYTES:
        os.truncate(log, 0)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening, log.open("ab") as written:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        process = lifeline.start(
            "flows.cli.prefect_server",
            [str(listening.fileno())],
            stdout=subprocess.PIPE,
            bufsize=0,
            stderr=written,
            pass_fds=[listening.fileno()],
        )
    try:
        yield process, url
    finally:
        lifeline.stop(process)


@contextmanager
def _address(url: str) -> Iterator[None]:
    """Inside, this process and those that it starts find the server there."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    before = os.environ.get("PREFECT_API_URL")
    os.environ["PREFECT_API_URL"] = url
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            yield
    finally:
        del os.environ["PREFECT_API_URL"]
        if before is not None:  # set and empty
            os.environ["PREFECT_API_URL"] = before


def _wait(process: "subprocess.Popen[bytes]", home: Path, change: Callable[[str], None]) -> None:
    """Until the server has started; whatever keeps it from that is an error at once."""
    change(STARTING)
    deadline = time.monotonic() + START_SECONDS
    while (said := _next_line(process)) != "started":
        if said is None:
            raise ServerError(_failure(home, _how_it_ended(process)))
        if said.startswith("failed "):
            raise ServerError(_failure(home, said.removeprefix("failed ")))
        if said in ("waiting", "starting"):
            change(WAITING if said == "waiting" else STARTING)
            deadline = time.monotonic() + START_SECONDS
        elif time.monotonic() > deadline:
            raise ServerError(_failure(home, f"nothing within {START_SECONDS:.0f} s"))


def _next_line(process: "subprocess.Popen[bytes]") -> str | None:
    """What the server says next; empty: nothing yet; None: it has ended."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], POLL_SECONDS)[0]:
        return ""
    said = process.stdout.readline()
    return said.decode(errors="replace").strip() if said else None


def _how_it_ended(process: "subprocess.Popen[bytes]") -> str:
    code = process.wait()
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"


def _failure(home: Path, reason: str) -> str:
    return (
        f"Prefect's server for this command did not start: {reason}; are {home} and {tempfile.gettempdir()} writable, "
        f"with space left? More is in {home / LOG}"
    )


@contextmanager
def _failures_named(url: str, home: Path) -> Iterator[None]:
    """Inside, a server that answers with an error, or no more (a full disk, a kill), is one line."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        if not str(error.request.url).startswith(url):
            raise
        why = str(error).partition("\n")[0]
        raise ServerError(
            f"Prefect's server for this command failed at work ({why}): is there space in {home}? "
            f"Start the command again: what was committed stands. More is in {home / LOG}"
        ) from error


def _flush() -> None:
    """What is still to be sent goes to the server before it ends."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=5)
