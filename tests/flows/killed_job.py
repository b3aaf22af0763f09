"""A job that kills its own process with SIGKILL at the n-th boundary, for test_kill.py.

Boundaries are: before each task of the flow (which is after the one before it), after a version object is created, when
its events are not yet written, and after each append to the ledger. Those that were passed stand in a file.
"""

import os
import signal
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from prefect import Task
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.knowledge_update import knowledge_update
from tasks.ledger import removals
from tasks.ledger.table import Ledger
from tasks.stores.snapshots import SnapshotStore
from tests.flows.conftest import POLICY

LOOKS = ("stand_still", "ask_line", "make_root", "validate_root")
"""Stages that only look, where nothing leaves: killed before one, a job is where it is before the next that does."""


def clock(ahead: timedelta) -> SimpleNamespace:
    """What tells the time by which facts expire, that much later than it is."""
    return SimpleNamespace(now=lambda zone: datetime.now(zone) + ahead)


def main(line: str, kill_at: int, log: Path, leaves: bool, ahead: timedelta) -> None:
    """With `leaves`, the line loses facts: each stage does something. `ahead`: what expires until then has expired."""
    passed = 0

    def boundary(name: str) -> None:
        nonlocal passed
        passed += 1
        with log.open("a") as told:
            print(passed, name, file=told)
        if passed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    task_call, publish, append = Task.__call__, SnapshotStore.publish, Ledger.write

    def called(self, *args, **kwargs):
        if leaves or self.name not in LOOKS:
            boundary(f"before {self.name}")
        return task_call(self, *args, **kwargs)

    def published(self, *args, **kwargs):
        version = publish(self, *args, **kwargs)
        boundary("after publish")
        return version

    def appended(self, *args, **kwargs):
        written = append(self, *args, **kwargs)
        boundary("after append")
        return written

    removals.datetime = clock(ahead)
    Task.__call__, SnapshotStore.publish, Ledger.write = called, published, appended
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # as in the other tests of flows
        knowledge_update(line, POLICY)
