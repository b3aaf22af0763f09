"""The Prefect server of one command, for where none is configured; `flows.cli.prefect_api` starts and ends it.

    python -m flows.cli.prefect_server FD

FD is the socket that listens already. How it stands is said to the parent in lines on standard output: `waiting` while
another process sets up the database, then `started`, or `failed` and the reason. All else goes to standard error.
Prefect has such a server of its own; that one outlives a killed parent, migrates the database beside another one that
does the same, and says why it did not start only after its time is over.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flows.cli import lifeline
from flows.cli.guard import guarded, own_origins


def database_lock() -> FileLock:
    """Held by a server of this installation while it creates or migrates Prefect's database."""
    return FileLock(Path(os.environ["PREFECT_HOME"]).expanduser() / "database.lock", thread_local=False)


def main() -> None:
    os.environ["PREFECT__SERVER_EPHEMERAL"] = "1"  # no pages and only the services that a short life needs
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    os.environ.pop("PREFECT_API_URL", None)  # it is the server: its services ask itself
    with os.fdopen(os.dup(1), "w", buffering=1) as parent:
        os.dup2(2, 1)

        def say(what: str) -> None:
            # A parent that is gone hears nothing; the lifeline ends this process.
            with contextlib.suppress(OSError):
                print(what, file=parent)

        try:
            _serve(int(sys.argv[1]), say)
        except Exception as error:  # whatever it is, the parent names it in its one line; the log has it whole
            say(f"failed {type(error).__name__}: {_last_line(str(error))}")
            raise


def _serve(descriptor: int, say: Callable[[str], None]) -> None:
    """Serve until told to end, or until the parent is gone.

    The database is set up by one process at a time. One that is killed at it leaves what the next goes on from: each
    migration is a transaction.
    """
    lifeline.watch()
    # Imports stand here, since they take seconds and what goes wrong in them is to be said to the parent, too.
    import uvicorn
    from prefect.server.api.server import create_app

    lock = database_lock()
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say("waiting")
        lock.acquire()
        say("starting")
    reasons: list[str] = []

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            lock.release()
            if self.started:
                say("started")

    listening = socket.socket(fileno=descriptor)
    app = guarded(_noting_failure(create_app(), reasons), own_origins(*listening.getsockname()[:2]))
    server = Server(uvicorn.Config(app, lifespan="on", log_level="error", timeout_graceful_shutdown=2))
    with contextlib.suppress(SystemExit):  # so uvicorn ends a start that failed
        server.run(sockets=[listening])
    if not server.started:
        say(f"failed {reasons[-1] if reasons else 'no reason given'}")
        sys.exit(1)


def _noting_failure(app: Any, reasons: list[str]) -> Any:
    """The same ASGI application; the last line of what makes its start fail is appended to `reasons`."""

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "lifespan.startup.failed":
                reasons.append(_last_line(message.get("message", "")))
            await send(message)

        await app(scope, receive, sent)

    return noting


def _last_line(text: str) -> str:
    """The line of a traceback that names the error."""
    text = text.rpartition("\n[SQL:")[0] or text  # a database's statement, of many lines, comes after the error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith((" ", "(Background on", "["))]
    return lines[-1].strip() if lines else "no reason given"


if __name__ == "__main__":
    main()
