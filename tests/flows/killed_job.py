"""Runs a job and kills its own process with SIGKILL at the n-th boundary; a script for test_kill.py.

Boundaries are: before each task of the flow, after each task, after a version object is created (its events not yet
written), and before and after each append to the ledger. Called as: killed_job.py LINE N FILE; the last boundary that
was passed is written to FILE.
"""

import os
import signal
import sys
from pathlib import Path

from prefect import Task

from flows.knowledge_update import knowledge_update
from tasks.ledger import Ledger
from tasks.snapshots import SnapshotStore
from tests.flows.conftest import POLICY


def main(line: str, kill_at: int, log: Path) -> None:
    passed = 0

    def boundary(name: str) -> None:
        nonlocal passed
        passed += 1
        log.write_text(f"{passed} {name}")
        if passed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: type, method: str, name) -> None:
        original = getattr(owner, method)

        def wrapped(self, *args, **kwargs):
            boundary(f"before {name(self)}")
            result = original(self, *args, **kwargs)
            boundary(f"after {name(self)}")
            return result

        setattr(owner, method, wrapped)

    around(Task, "__call__", lambda task: task.name)
    around(SnapshotStore, "publish", lambda store: "publish")
    around(Ledger, "append", lambda ledger: "append")
    knowledge_update(line, POLICY)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
