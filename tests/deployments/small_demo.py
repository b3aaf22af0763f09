"""The demo on a small model, killed where it is told to be; a script for test_demo.py.

Called as: small_demo.py HOME MODEL CANDIDATES [PLACE N]: its own process is killed (SIGKILL) after the n-th write to
the ledger (PLACE ledger) or move of HEAD (PLACE head). The small model needs stronger edits than the default ones, and
is held to less.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from deployments.demo.begin import begin
from flows.cli import jobs
from tasks.ledger.table import Ledger
from tasks.stores.snapshots import SnapshotStore
from tests.flows.conftest import METHOD, POLICY

CAN_KILL: dict[str, tuple[type, str]] = {"ledger": (Ledger, "write"), "head": (SnapshotStore, "move_head")}


def kill_after(place: str, times: int) -> None:
    owner, name = CAN_KILL[place]
    original: Callable[..., Any] = getattr(owner, name)
    passed = 0

    @wraps(original)
    def killing(*args: Any, **kwargs: Any) -> Any:
        nonlocal passed
        done = original(*args, **kwargs)
        passed += 1
        if passed == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, name, killing)


def options(fields: dict[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in fields.items()]


def main(home: str, model: str, candidates: str, place: str = "", times: str = "0") -> None:
    os.environ["ERRATA_HOME"] = home
    policy = options(POLICY.model_dump(exclude_defaults=True))
    jobs.run = partial(jobs.run, option=options(METHOD), policy=policy)  # type: ignore[assignment]
    if place:
        kill_after(place, int(times))
    begin(Path(home), model, Path(candidates), changes=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
