"""Processes that outlive the command that starts them, one of each name in a folder.

A daemon holds an exclusive lock on RUN/NAME.pid from before its first instruction to its end, since it inherits the
locked file; the system gives the lock back however the process ends. So a file whose lock is free is stale, whatever
stands in it, a command that is killed at any moment leaves no daemon that the next one does not find, and a number that
another process has by now is never taken for ours. In the file stand the process and a digest of how it was started.
"""

import fcntl
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from editing.errors import ErrataError

MARK = "ERRATA_DAEMON_OF"
"""In the environment of every daemon, and of what it starts, this is its file."""
PATIENCE = 20.0
"""Seconds that a daemon may take to end by itself."""
LAST_SECONDS = 10.0
LOOKS = 20
"""At a process without an environment, one for each 5 ms: it may become another program just now."""
OWNER = 0o600
DESCRIPTOR = 200
"""Always the same, since it is part of how a daemon is started."""
OPENED = f"/proc/self/fd/{DESCRIPTOR}"
SHELL = 'echo "$$ $0"; exec "$@" >&2'
"""Writes the process into the locked file, its standard output, and becomes the daemon, whose output is the log."""


class ServiceError(ErrataError):
    """A service does not start, does not end, or is not well."""


@dataclass(frozen=True)
class Command:
    """How a daemon is started."""

    arguments: Sequence[str]
    own: Mapping[str, str]
    """What is added to the environment."""
    folder: Path
    user: tuple[int, int] | None = None
    """Another user and group than the present ones."""
    opened: Path | None = None
    """A folder that is open for it, as OPENED, so that folders above which are closed to its user do not matter."""

    @property
    def digest(self) -> str:
        """The same as long as it would be started in the same way."""
        parts = [*self.arguments, *(f"{name}={value}" for name, value in sorted(self.own.items()))]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Inside, no other command works on the folder; what inherits the descriptor that is given holds it, too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, OWNER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def running(path: Path) -> tuple[int, str] | None:
    """Process and digest of the daemon that holds this file; None where there is none."""
    deadline = time.monotonic() + LAST_SECONDS
    while True:
        try:
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
        except FileNotFoundError:
            return None
        except OSError:
            words = path.read_text().split()
        if len(words) == 2:
            return int(words[0]), words[1]
        if time.monotonic() > deadline:
            raise ServiceError(f"{path} is locked and names no process: remove what holds it (lsof {path})")
        time.sleep(0.02)  # it starts just now


def start(path: Path, log: Path, command: Command, environment: Mapping[str, str]) -> None:
    """Start a daemon; to be called where none runs, by one command at a time."""
    with path.open("a") as file, log.open("ab") as written, open_folder(command.opened) as descriptors:
        # Nobody waits here for long: only a look at whether it runs holds the file otherwise.
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        user, group = command.user or (None, None)
        subprocess.Popen(
            ["/bin/sh", "-c", SHELL, command.digest, *command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=written,
            pass_fds=[file.fileno(), *descriptors],
            cwd=command.folder,
            env={**environment, **command.own, MARK: str(path)},
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )


@contextmanager
def open_folder(folder: Path | None) -> Iterator[list[int]]:
    """Inside, the folder is open as OPENED for a process to which these descriptors are passed.

    Raises:
        ServiceError: something else is open there.
    """
    if folder is None:
        yield []
        return
    first = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    descriptor = fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, DESCRIPTOR)
    os.close(first)
    try:
        if descriptor != DESCRIPTOR:
            raise ServiceError(f"descriptor {DESCRIPTOR} of this process is taken; start the command from a shell")
        yield [descriptor]
    finally:
        os.close(descriptor)


def stop(path: Path, number: int = signal.SIGTERM, patience: float = PATIENCE, family_first: bool = False) -> None:
    """End the daemon that holds this file: politely, then for good, and what it started with it.

    Args:
        number: The signal that ends it politely.
        family_first: What it has started ends politely before it, and not at once with it.

    Raises:
        ServiceError: the file names a process that is not this one, or one that does not end.
    """
    found = running(path)
    if family_first:
        _end_family(path, signal.SIGTERM, patience, but=found and found[0])
    if found:
        send(path, found[0], number)
        _wait(path, patience)
    end_the_rest(path)  # also what holds the file in the place of a daemon that is gone
    if not _wait(path, LAST_SECONDS):
        raise ServiceError(f"the process that {path} names does not end: end it by hand, then repeat")


def _wait(path: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while running(path) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def send(path: Path, process: int, number: int) -> None:
    """A signal to the daemon of this file, and to no other process."""
    try:
        if _is_of(psutil.Process(process), path):
            os.kill(process, number)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return


def end_the_rest(path: Path) -> None:
    """End the daemon of this file, and whatever it has started, at once."""
    _end_family(path, signal.SIGKILL, LAST_SECONDS)


def _end_family(path: Path, number: int, seconds: float, but: int | None = None) -> None:
    left = [process for process in psutil.process_iter() if process.pid != but and _is_of(process, path)]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    psutil.wait_procs(left, timeout=seconds)


def _is_of(process: psutil.Process, path: Path) -> bool:
    try:
        return environment_of(process).get(MARK) == str(path)
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return False


def environment_of(process: psutil.Process) -> dict[str, str]:
    """Also while it becomes another program, when the system shows none for a moment.

    Raises:
        psutil.Error: it has ended, or is another user's.
    """
    for _ in range(LOOKS):
        # What has no program, either, is a thread of the system or a process that has ended.
        if (environment := process.environ()) or not process.exe():
            return environment
        time.sleep(0.005)
    return {}
