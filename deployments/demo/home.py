"""The folder of a demo, and what of it is done: one that was killed goes on where it was.

A step is written down when it is done, in a file that is whole or absent. Killed in between, the step begins again, so
each of them must find its own traces (see steps.py).
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from editing.errors import UsageError
from editing.files import write_atomically

MARKER = ".errata-demo"
LOCK = ".errata-demo.lock"
STAGES = "stages.jsonl"
"""What each step cost: its name, seconds, and processor seconds of this process and those that it waited for."""


@dataclass(frozen=True)
class Record:
    """What is known of a demo: what it is about, which steps are done, and whether all of them are."""

    about: str
    done: tuple[str, ...] = ()
    finished: bool = False


class DemoHome:
    """The folder of one demo, held by one process at a time; get it by `opened`."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder, self.record = folder, record

    @property
    def answers(self) -> Path:
        return self.folder / "answers.json"

    def finish(self) -> None:
        self._write(replace(self.record, finished=True))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Inside, the step is done; left without an error, it is written down as done, with what it cost."""
        began, spent = time.monotonic(), processor_seconds()
        yield
        cost = {"step": name, "seconds": time.monotonic() - began, "processor_seconds": processor_seconds() - spent}
        self.note_cost(**cost)
        self._write(replace(self.record, done=(*self.record.done, name)))

    def note_cost(self, **cost: Any) -> None:
        with (self.folder / STAGES).open("a", encoding="utf-8") as stages:
            stages.write(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in cost.items()}) + "\n")

    def _write(self, record: Record) -> None:
        write_atomically(self.folder / MARKER, json.dumps(asdict(record)).encode())
        self.record = record


@contextmanager
def opened(folder: Path, about: str) -> Iterator[DemoHome]:
    """Inside, the folder is this process's; it goes on with an unfinished demo about the same, else it is emptied.

    Raises:
        UsageError: the folder holds something else, or another demo runs in it.
    """
    if folder.exists() and (not folder.is_dir() or (_holds_more(folder) and not (folder / MARKER).exists())):
        raise UsageError(f"{folder} is not empty and no demo's folder; choose another --home")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARKER).exists():
        write_atomically(folder / MARKER, b"")
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"another demo runs in {folder}; wait for it, or choose another --home") from error
    with lock:
        home = DemoHome(folder, _read(folder) or Record(""))
        if home.record.about != about or home.record.finished:
            home._write(Record(""))  # a demo that is half removed must not be gone on with
            _empty(folder)
            home._write(Record(about))
        yield home


def _holds_more(folder: Path) -> bool:
    """More than what a process leaves that is killed while it marks the folder as a demo's."""
    return any(not path.name.startswith(f".{MARKER}.") for path in folder.iterdir())


def _read(folder: Path) -> Record | None:
    """None: begun by another release, or by a process that was killed before it had begun."""
    try:
        fields = json.loads((folder / MARKER).read_bytes())
        return Record(fields["about"], tuple(fields["done"]), fields["finished"])
    except (ValueError, KeyError, TypeError):
        return None


def _empty(folder: Path) -> None:
    """Remove everything but what says whose folder it is."""
    for path in folder.iterdir():
        if path.name in (MARKER, LOCK):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def processor_seconds() -> float:
    """Of this process and of those that it started and waited for."""
    return sum(os.times()[:4])
