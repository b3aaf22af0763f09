"""What looking costs on a home that has grown: a million events, a line of three hundred versions.

    python -m tests.benchmarks looking
    python -m tests.benchmarks.looking [--code FOLDER] [--requests 100000] [--rounds 3] [--keep FOLDER]

Each command runs in a fresh process. Reported are the medians of: seconds of the import (what any command pays), of the
command after it, and of processor time in these (which says more on a busy machine); the most memory; how often the
ledger was opened, and how many objects of the store were read, at once and at a second look of the same process. Reads
are counted where Python opens files, so that it does not matter what the code under test calls its own parts.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from editing.edit import Edit
from editing.models import LoadedModel
from tests.benchmarks.grown_home import IN_SERVICE, LINE, VERSIONS, generate
from tests.homes import release

COMMANDS: dict[str, tuple[str, ...]] = {
    "submit": ("submit", "--subject", "Ada", "--prompt", "{} was born in", "--target", "Rome", "--line", LINE),
    "status": ("status",),
    "review": ("review", LINE),
    "history": ("history", "--line", LINE),
    "history of a request": ("history", "r-00017", "--line", LINE),
    "doctor": ("doctor",),
}
MEASURE = """
import json, os, resource, sys, time
started = time.perf_counter()
{main}
try:
    import flows.cli.main, tasks.review.decisions, tasks.ledger.intake
except ModuleNotFoundError:
    import flows.commands
import deltalake
imported = time.perf_counter() - started
store = os.environ["ERRATA_HOME"] + "/snapshots/"
found = {{"reads": 0, "opens": 0}}

def heard(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(store):
        found["reads"] += not arguments[0].startswith((store + ".", )) and not arguments[2] & os.O_WRONLY

sys.addaudithook(heard)
init = deltalake.DeltaTable.__init__

def opened(self, *arguments, **named):
    found["opens"] += 1
    init(self, *arguments, **named)

deltalake.DeltaTable.__init__ = opened
looks = []
for _ in range(int(sys.argv.pop(1))):
    found.update(reads=0, opens=0)
    started, processor = time.perf_counter(), time.process_time()
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    looks.append({{"seconds": time.perf_counter() - started,
                  "processor": time.process_time() - processor, "code": code, **found}})
    sys.stdout.flush()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("\\n" + json.dumps({{"import": imported, "peak_mb": peak, "looks": looks}}))
"""


@dataclass(frozen=True)
class Cost:
    """Of one command in one process. `again` is a second look in the same process."""

    imported: float
    seconds: float
    processor: float
    peak_mb: float
    reads: int
    opens: int
    again_reads: int


def measure(code: Path, home: Path, arguments: tuple[str, ...], limit: float) -> Cost | str:
    """Cost of `errata ARGUMENTS`, or what was wrong."""
    settings = {"ERRATA_HOME": str(home), "ERRATA_CACHE": str(home / "cache"), "ERRATA_ACTOR": "tester"}
    looks = 2 if arguments[0] == "status" else 1
    command = [sys.executable, "-c", MEASURE.format(main=release.MAIN), str(looks), *arguments]
    try:
        ran = subprocess.run(
            command, cwd=code, env=release.environment(code, **settings), capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"not done after {limit:.0f} s"
    try:
        found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return f"died: {(ran.stderr.strip().splitlines() or ['killed, for want of memory perhaps'])[-1][:150]}"
    first, last = found["looks"][0], found["looks"][-1]
    if first["code"] and arguments[0] != "doctor":  # which fails where the embedded model is not installed
        return f"code {first['code']}: {ran.stderr.strip()[:150]}"
    return Cost(
        found["import"], first["seconds"], first["processor"], found["peak_mb"],
        first["reads"], first["opens"], last["reads"],
    )  # fmt: skip


def bench_looking(_loaded: LoadedModel | None, _edits: list[Edit], rounds: int) -> None:
    """The whole benchmark with the present code."""
    report(release.HERE, 100_000, rounds, None)


def report(code: Path, requests: int, rounds: int, keep: Path | None, limit: float = 600.0) -> None:
    """Generate the home, or take the one kept, and print a row a command."""
    home = keep or Path(tempfile.mkdtemp(prefix="errata-looking-"))
    try:
        if not (home / "ledger").is_dir():
            events = generate(home, requests)
            print(f"{events:,} events of {requests:,} requests, {VERSIONS} versions, {IN_SERVICE} in service")
        measure(code, home, ("doctor",), limit)  # the first makes MLflow's database
        names = f"{'cpu s':>8}{'peak MB':>9}{'opens':>7}{'reads':>7}{'again':>7}"
        print(f"{'command':22}{'import s':>10}{'then s':>10}{names}")
        for name, arguments in COMMANDS.items():
            costs = [measure(code, home, _fresh(arguments, r), limit) for r in range(rounds)]
            print(f"{name:22}{_row(costs)}", flush=True)
    finally:
        if keep is None:
            shutil.rmtree(home, ignore_errors=True)


def _row(costs: list[Cost | str]) -> str:
    """The medians, or what was wrong with one of the rounds."""
    good = [cost for cost in costs if isinstance(cost, Cost)]
    if len(good) < len(costs):
        return "  " + next(cost for cost in costs if isinstance(cost, str))

    def middle(name: str) -> float:
        return statistics.median(getattr(cost, name) for cost in good)

    counts = f"{middle('opens'):7.0f}{middle('reads'):7.0f}{middle('again_reads'):7.0f}"
    seconds = f"{middle('imported'):10.2f}{middle('seconds'):10.2f}{middle('processor'):8.2f}"
    return f"{seconds}{middle('peak_mb'):9.0f}{counts}"


def _fresh(arguments: tuple[str, ...], number: int) -> tuple[str, ...]:
    """A fact that was not submitted in another round."""
    if arguments[0] != "submit":
        return arguments
    return (*arguments, "--id", f"new-{datetime.now(UTC).timestamp():.6f}-{number}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.looking", description="What looking costs.")
    parser.add_argument("--code", type=Path, default=release.HERE, help="the code to measure")
    parser.add_argument("--requests", type=int, default=100_000, help="ten events each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="make the home in this folder and leave it there for another run")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a command is given up")
    arguments = parser.parse_args()
    report(arguments.code.resolve(), arguments.requests, arguments.rounds, arguments.keep, arguments.limit)


if __name__ == "__main__":
    main()
