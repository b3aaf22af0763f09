"""Runs a Python module that ends with the process that started it, even by kill -9, and its own children with it.

    python -m flows.cli.lifeline MODULE [ARGUMENTS...]

Standard input is a pipe that the parent holds open and never writes to: when the parent is gone, however it went, the
system closes the pipe. It works on Linux and macOS alike. The process leads a group of its own (`start_new_session`),
so that what it starts is ended, too, and Ctrl-C on the terminal reaches the parent alone.
"""

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

STOP_SECONDS = 10.0
"""How long a server may take to end by itself."""


def start(
    module: str,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> "subprocess.Popen[bytes]":
    """A process of a module, its life bound to that of this process; `options` are Popen's."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
        **options,
    )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process of `start`: politely, then its whole group for good."""
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _kill_group(process.pid)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def watch() -> None:
    """From now on this process and its group end as soon as its parent is gone; for the started process to call."""

    def wait_for_parent() -> None:
        while os.read(0, 1):
            pass
        _kill_group(os.getpgrp())

    threading.Thread(target=wait_for_parent, name="lifeline", daemon=True).start()


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM where only zombies are left
        return


def main() -> None:
    watch()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
