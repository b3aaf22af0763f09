"""Many requests through a line of the services, while at random moments one of them, or the job, is killed with -9.

What was killed is started again by `up`; a job that ended without finishing is started again, as a schedule would. In
the end a version is approved, and the checker, which imports nothing of Errata, says whether anything was lost, done
twice, or disagrees.

    python -m tests.services.load --requests 2000 --kills 20 --seed 0
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fact_model import fact_model
from tests.services.conftest import Services, started, used
from tests.services.deployed import AWAY, Deployed, invented

BATCH = 10
KILLED = ("flow", "worker", "prefect", "mlflow", "seaweedfs")
SPREAD_SECONDS = 4.0
"""A kill comes so long, at most, after the version that it waits for."""
STALE_SECONDS = 400.0
"""A run that is neither at work nor ended for so long is a fault; Prefect ends one that is gone after 90 seconds."""


@dataclass
class Load:
    """One line under load."""

    deployed: Deployed
    rng: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {text}", flush=True)

    def work(self, kills: int, most_runs: int) -> list[str]:
        """Jobs until one has finished and all kills are done; the faults that are found then."""
        batches = -(-len(self.deployed.submitted) // BATCH)
        moments = sorted(self.rng.randint(0, batches) for _ in range(kills))
        order = [KILLED[i % len(KILLED)] for i in range(kills)]
        self.rng.shuffle(order)
        left = list(zip(moments, order, strict=True))
        for _ in range(most_runs):
            run = self.deployed.start()
            ended = self.follow(run, left)
            self.runs[ended] += 1
            if ended == "Completed":
                break
        else:
            return [f"no run of {most_runs} finished"]
        return self.deployed.approved()

    def follow(self, run: str, left: list[tuple[int, str]]) -> str:
        """Wait for the end of a run, and kill what is to be killed meanwhile."""
        seen, changed = (-1, ""), time.monotonic()
        while True:
            time.sleep(0.3)
            try:
                state, versions = self.deployed.state(run), self.deployed.versions()
            except AWAY as error:
                self.say(f"not reached: {type(error).__name__}")
                continue
            if state.is_final():
                name = state.name or state.type.value
                self.say(f"run {sum(self.runs.values()) + 1} ended {name}, {versions} versions: {state.message}")
                return name
            if (versions, str(state.name)) != seen:
                seen, changed = (versions, str(state.name)), time.monotonic()
            if time.monotonic() - changed > STALE_SECONDS:
                return f"silent ({state.name})"
            if left and versions >= left[0][0] and state.is_running():
                time.sleep(self.rng.uniform(0, SPREAD_SECONDS))
                self.kill(left.pop(0)[1], run, versions)

    def kill(self, what: str, run: str, versions: int) -> None:
        services = self.deployed.services
        before = time.monotonic()
        if what == "flow":
            found = bool(self.deployed.kill_job(run))
        else:
            found = services.pid(what) is not None
            services.kill(what, alone=what == "worker")
        ran = services.run("up")
        self.kills[what] += found
        well = "" if ran.returncode == 0 else f"; up: {ran.stderr.strip()}"
        took = time.monotonic() - before
        self.say(
            f"killed {what}{'' if found else ', which had ended'} at {versions} versions; back in {took:.1f} s{well}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.services.load", description="Services die under a job.")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="draws other facts, moments and victims")
    parser.add_argument("--folder", type=Path, help="where logs are copied to at the end")
    arguments = parser.parse_args()
    cache = Path(tempfile.mkdtemp(prefix="errata-load-"))
    try:
        with started(cache, fact_model()) as services, used(services):
            load = Load(Deployed(services, "load"), random.Random(arguments.seed))
            load.deployed.submit(invented(arguments.requests, arguments.seed))
            load.say(f"{arguments.requests} requests are queued")
            try:
                found = load.work(arguments.kills, most_runs=2 * arguments.kills + 3)
                show(load, found)
            finally:
                keep_logs(services, arguments.folder)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    sys.exit(bool(found))


def show(load: Load, found: list[str]) -> None:
    def counted(what: Counter[str]) -> str:
        return ", ".join(f"{name} {count}" for name, count in what.most_common()) or "none"

    rows: dict[str, Callable[[], str]] = {
        "kills": lambda: f"{load.kills.total()} ({counted(load.kills)})",
        "runs": lambda: f"{load.runs.total()} ({counted(load.runs)})",
        "seconds": lambda: f"{time.monotonic() - load.began:.0f}",
        "requests": lambda: counted(load.deployed.states()),
        "faults": lambda: "; ".join(found) or "none",
    }
    for name, row in rows.items():
        print(f"{name:10} {row()}", flush=True)


def keep_logs(services: Services, folder: Path | None) -> None:
    if folder is not None:
        shutil.copytree(services.place.folder / "logs", folder, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
