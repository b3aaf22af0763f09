"""Processes that are copies of one that has imported everything: else most of what a short one takes is imports.

    start(function, arguments, environment)    a process of its own, used like one of subprocess

They are processes as any other: kill -9 takes them at once, what they say comes by pipes, and they end with nobody.
The one that is copied has opened nothing and has no thread. What the command line itself is about, such as how long it
takes to start and what it loads, starts Python anew (tests.flows.command.COMMAND).
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import IO, Any

PRELOADED = ["tests.preloaded", "tests.flows.killed_job", "tests.flows.killed_training"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Process:
    """One that runs, with what `subprocess.Popen` has of it."""

    def __init__(self, function: Callable[..., object], arguments: tuple[object, ...], environment: Mapping[str, str]):
        (out, told), (err, complained) = _context.Pipe(duplex=False), _context.Pipe(duplex=False)
        whole = (function, arguments, dict(environment), told, complained)
        self._process = _context.Process(target=_run, args=whole)
        self._process.start()
        told.close()
        complained.close()
        self.pid = int(self._process.pid or 0)
        self.stdout: IO[str] = _read(out)
        self.stderr: IO[str] = _read(err)

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise TimeoutError(f"process {self.pid} has not ended after {timeout} s")
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it says until it ends."""
        with ThreadPoolExecutor(2) as readers:
            said = [readers.submit(pipe.read) for pipe in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except TimeoutError:
                self.kill()
                raise
            return said[0].result(), said[1].result()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self.stdout.close()
        self.stderr.close()


def _read(connection: Connection) -> IO[str]:
    descriptor = os.dup(connection.fileno())
    connection.close()
    return os.fdopen(descriptor, encoding="utf-8")


def start(function: Callable[..., object], arguments: tuple[object, ...], environment: Mapping[str, str]) -> Process:
    """Call a function of a module in a process of its own, which has that environment and no other."""
    return Process(function, arguments, environment)


def _run(
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    told: Connection,
    complained: Connection,
) -> None:
    """In the copy: what Python does for a process that it starts."""
    for descriptor, pipe in ((1, told), (2, complained)):
        os.dup2(pipe.fileno(), descriptor)
        pipe.close()
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)

    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    function(*arguments)
