"""What commands cost on Postgres and S3 with a ledger of a million events and a line of three hundred versions.

    python -m tests.benchmarks.grown_services [--requests 100000] [--rounds 3] [--submitted 10000]

All services are started as `make up` starts them. The home is written as raw files, put into S3, and its versions are
registered in MLflow, as their jobs would have done. Then each command runs in a process of its own: seconds of the
whole process and its processor time, medians. At last eight processes submit the same requests at once, in files of
500 and of 50, each beginning elsewhere, and every request must have been received and queued once.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from editing.edit import Edit
from tasks.ledger.trying import as_records
from tasks.ledger.view import look
from tasks.review.aliases import sync_aliases
from tasks.review.registering import register
from tasks.review.telling import record
from tasks.workplace import Workplace, open_workplace
from tests.benchmarks.grown_home import IN_SERVICE, LINE, VERSIONS, generate
from tests.benchmarks.timing import timed
from tests.fact_model import fact_model
from tests.flows.command import COMMAND
from tests.services.conftest import Services, started, used
from tests.services.deployed import invented
from tests.services.stored import BUCKET, SNAPSHOTS, Stored

SUBMITTERS, JOBS, UPLOADS = 8, 30, 8
COMMANDS: dict[str, tuple[str, ...]] = {
    "submit": ("submit", "--subject", "Ada", "--prompt", "{} was born in", "--target", "Rome", "--line", LINE),
    "status": ("status",),
    "status of the line": ("status", LINE),
    "review": ("review", LINE),
    "history": ("history", "--line", LINE),
    "history of a request": ("history", "r-00017", "--line", LINE),
    "history --served": ("history", LINE, "--served"),
    "approve": ("approve", LINE, "--reason", "looked at"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.grown_services")
    parser.add_argument("--requests", type=int, default=100_000, help="ten events each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--submitted", type=int, default=10_000, help="requests that eight submit at once; 0: none")
    parser.add_argument("--only", nargs="*", default=list(COMMANDS), help="commands to measure; none: no home is grown")
    given = parser.parse_args()
    cache = Path(tempfile.mkdtemp(prefix="errata-grown-"))
    try:
        with started(cache, fact_model()) as services, used(services):
            if given.only:
                grow(services, cache / "grown", given.requests)
                print(f"{'command':24}{'seconds':>10}{'cpu s':>10}", flush=True)
            for name in given.only:
                print(f"{name:24}{measured(services, COMMANDS[name], given.rounds)}", flush=True)
            if given.submitted:
                submitted_at_once(services, cache / "files", given.submitted)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def grow(services: Services, folder: Path, requests: int) -> None:
    """The grown home in the services' store, ledger and MLflow."""
    workplace = open_workplace(services.settings)
    tracker = workplace.tracker()
    runs = [tracker.start_run(LINE, f"job {number}", {}, {}) for number in range(JOBS)]
    events = generate(folder, requests, runs)
    seconds, _ = timed(lambda: put(services, folder))
    print(f"{events:,} events of {requests:,} requests, {VERSIONS} versions, {IN_SERVICE} in service")
    print(f"put into S3 in {seconds:.0f} s", flush=True)
    shutil.rmtree(folder)
    versions = workplace.store.versions(LINE)
    seconds, _ = timed(lambda: register(tracker, workplace, LINE, versions))
    took, synced = timed(lambda: sync_aliases(tracker, workplace, LINE))
    record(tracker, workplace, *synced)
    print(f"registered in MLflow in {seconds:.0f} s, tagged in {took:.0f} s", flush=True)


def put(services: Services, folder: Path) -> None:
    """Every file of the home as an object, the ledger's log last."""
    client = services.s3()

    def one(path: Path) -> None:
        name = path.relative_to(folder).as_posix()
        key = SNAPSHOTS + name.removeprefix("snapshots/") if name.startswith("snapshots/") else name
        client.upload_file(str(path), BUCKET, key)

    paths = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: "_delta_log" in str(path))
    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(one, paths))


def measured(services: Services, arguments: Sequence[str], rounds: int) -> str:
    """Medians of seconds and processor seconds, or what was wrong."""
    found = []
    for number in range(rounds):
        more: tuple[str, ...] = ()
        if arguments[0] == "submit":
            more = ("--id", f"new-{time.time_ns()}-{number}")
        if arguments[0] == "approve":
            more = ("--version", str(waiting(services)))
        began = time.perf_counter()
        process = subprocess.Popen(
            [*COMMAND, *arguments, *more], env=services.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            return f"  code {process.returncode}: {said.decode().strip()[-200:]}"
        found.append((time.perf_counter() - began, usage.ru_utime + usage.ru_stime))
    return "".join(f"{statistics.median(values):10.2f}" for values in zip(*found, strict=True))


def waiting(services: Services) -> int:
    workplace = open_workplace(services.settings)
    return look(workplace.store, workplace.ledger, LINE).waiting[0].number


def submitted_at_once(services: Services, folder: Path, requests: int) -> None:
    """Eight who submit the same at once, in files of 500 and of 50; each in an order of its own."""
    workplace = open_workplace(services.settings)
    for size in (500, 50):
        line = f"load-{size}"
        edits = invented(requests // (1 if size == 500 else 10), seed=size)
        files = written(folder / line, edits, size)
        seconds, codes = timed(lambda files=files, line=line: race(services, files, line))
        print(f"{len(edits):,} requests in files of {size}, each by {SUBMITTERS} at once: {seconds:.0f} s, {codes}")
        print(f"  {faults(workplace, services, line, edits) or 'none lost, none twice'}", flush=True)


def written(folder: Path, edits: Sequence[Edit], size: int) -> list[Path]:
    folder.mkdir(parents=True)
    files = []
    for begin in range(0, len(edits), size):
        files.append(folder / f"{begin:06d}.jsonl")
        files[-1].write_text(as_records([*edits[begin : begin + size]]))
    return files


def race(services: Services, files: list[Path], line: str) -> dict[int, int]:
    """Each submitter gives the command all files, in another order; how the processes ended."""
    processes = []
    for number in range(SUBMITTERS):
        order = random.Random(number).sample(files, len(files))
        command = [sys.executable, "-c", SUBMIT, line, *map(str, order)]
        processes.append(subprocess.Popen(command, env=services.environment))
    return dict(Counter(process.wait() for process in processes))


SUBMIT = """
import os, sys
from flows.cli.main import main

line, *files = sys.argv[1:]
for file in files:
    sys.argv = ["errata", "submit", file, "--line", line, "--json"]
    sys.stdout = open("/dev/null", "w")
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
os._exit(0)  # as the command ends: Arrow's threads may still be about to let go of Python's objects
"""
"""One submitter: `errata submit` of one file after the other, in one process."""


def faults(workplace: Workplace, services: Services, line: str, edits: Sequence[Edit]) -> str:
    """What is lost or there twice, by the rows of the table itself and by the states that Errata reads."""
    rows = Stored(services).ledger().to_pyarrow_table(columns=["line", "request_id", "event"]).to_pylist()
    seen = Counter((row["request_id"], row["event"]) for row in rows if row["line"] == line)
    wanted = {(edit.id, event) for edit in edits for event in ("received", "queued")}
    lost, more = wanted - seen.keys(), [key for key, count in seen.items() if count != 1 or key not in wanted]
    counts = workplace.ledger.counts(line)
    if lost or more or counts != {"queued": len(edits)}:
        return f"{len(lost)} lost, {len(more)} twice or strange, {counts}"
    return ""


if __name__ == "__main__":
    main()
