"""Runs jobs that kill their own process with SIGKILL at the n-th boundary; a script for test_kill.py.

Each is a copy (`fork`) of this process, which has imported everything and done nothing: else most of a job is imports.
Boundaries are: before each task of the flow (which is after the one before it), after a version object is created, when
its events are not yet written, and after each append to the ledger. What it reads are lines of JSON, [LINE, N, FILE,
LEAVES, ENVIRONMENT]; each is answered with the job's exit code, and the boundaries that were passed stand in FILE.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import mlflow.pyfunc
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # what a job imports when it comes to it
from prefect import Task
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.knowledge_update import knowledge_update
from tasks.garbage import collect_rarely
from tasks.ledger.table import Ledger
from tasks.report import figures  # noqa: F401  # likewise
from tasks.stores.snapshots import SnapshotStore
from tests.flows.conftest import POLICY

LOOKS = ("stand_still", "ask_line", "make_root", "validate_root")
"""Stages that only look, where nothing leaves: killed before one, a job is where it is before the next that does."""


def main(line: str, kill_at: int, log: Path, leaves: bool) -> None:
    """With `leaves`, the line loses facts: each stage does something."""
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

    Task.__call__, SnapshotStore.publish, Ledger.write = called, published, appended
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # as in the other tests of flows
        knowledge_update(line, POLICY)


if __name__ == "__main__":
    collect_rarely()  # as the command line does
    for asked in sys.stdin:
        job = os.fork()
        if job == 0:
            os.dup2(2, 1)  # standard output is for the answers
            name, number, file, leaves, environment = json.loads(asked)
            os.environ.update(environment)
            code = 1
            try:
                main(name, number, Path(file), leaves)
                code = 0
            except Exception:  # as Python itself would say it; this copy must not go on reading
                traceback.print_exc()
            finally:
                os._exit(code)  # what the original has registered for its own end is not the copy's
        print(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]), flush=True)
