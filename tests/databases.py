"""Databases of Prefect and MLflow as they make them themselves, by all their migrations: made once, then copied.

To make them takes 5 s and 1 s of processor time, and several times as long where a disk writes slowly. What is about a
first start makes its own.
"""

import importlib.metadata
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock

from flows.cli import lifeline
from tests.fact_model import kept_between_runs

SOON = {"PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.2"}
"""A Prefect server keeps events after 5 s, and nobody finds them before."""

UNRECORDED = {"PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false"}
"""To write down the twenty-odd tasks of a job is most of what a server does for it, and only people look at them."""


def give_databases(home: Path) -> None:
    """To a home of Errata, both."""
    prefect_database(home / "prefect")
    mlflow_database(home / "mlflow.db")


def prefect_database(home: Path) -> Path:
    """Give a home of Prefect its database; returns the home."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(_made("prefect", _make_prefect), home / "prefect.db")
    return home


def mlflow_database(path: Path) -> Path:
    """Make MLflow's database there; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_made("mlflow", _make_mlflow), path)
    return path


def _made(name: str, make: Callable[[Path], Path]) -> Path:
    """The kept database of the installed release, made now unless it is there."""
    cache = kept_between_runs()
    kept = cache / f"{name}-{importlib.metadata.version(name)}.db"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{name}.lock"):  # whoever else needs it waits for it
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                whole = Path(folder, "whole.db")
                with closing(sqlite3.connect(make(Path(folder)))) as source, closing(sqlite3.connect(whole)) as copy:
                    source.backup(copy)  # what is still in its journal, too
                whole.rename(kept)
    return kept


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """The address of a Prefect server of this home on 127.0.0.1, as commands have one; it says when it has started."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        url, descriptor = f"http://127.0.0.1:{listening.getsockname()[1]}/api", listening.fileno()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "pass_fds": [descriptor]}
        own = {**SOON, **UNRECORDED, "PREFECT_HOME": str(home)}
        process = lifeline.start("flows.cli.prefect_server", [str(descriptor)], own, **pipes)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"started\n"
        yield url
    finally:
        lifeline.stop(process)


def _make_prefect(folder: Path) -> Path:
    with serving(folder):
        pass
    return folder / "prefect.db"


def _make_mlflow(folder: Path) -> Path:
    from mlflow import MlflowClient  # takes seconds, and only who makes one needs it

    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return folder / "mlflow.db"
