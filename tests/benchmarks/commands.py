"""What commands cost on a home that is used: seconds, processor time and memory, each in a process of its own.

    python -m tests.benchmarks commands
    python -m tests.benchmarks.commands [--rounds 5] [COMMAND ...]

The home is one that a release left behind (tests/homes), unpacked anew for every command, so that a decision finds
what waits. Reported are the medians; on a machine that does other work, read the processor time. A grown home is
measured by `looking`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from editing.edit import Edit
from editing.models import LoadedModel
from tests.homes import release
from tests.homes.archive import unpack

ARCHIVE = Path(__file__).parents[1] / "homes" / "home-0.1.tar.gz"
COMMANDS: dict[str, tuple[str, ...]] = {
    "errata --help": ("--help",),
    "submit --help": ("submit", "--help"),
    "a mistyped option": ("status", "--colour"),
    "an unknown line": ("status", "nowhere"),
    "submit": ("submit", "--subject", "Ivy", "--prompt", "{} was born in", "--target", "Rome"),
    "status": ("status",),
    "review": ("review",),
    "history": ("history",),
    "history of a request": ("history", "fact-1"),
    "repair": ("repair",),
    "approve": ("approve",),
    "reject": ("reject", "--reason", "wrong"),
    "rollback": ("rollback", "--to", "0"),
    "doctor": ("doctor",),
}


MEASURED = """
import sys
from flows.cli.__main__ import run
try:
    run()
finally:
    sys.stdout.flush()
    print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0], file=sys.stderr)
"""
"""The command, and its most memory in kB: what the system says afterwards includes that of whoever started it."""


def measure(arguments: tuple[str, ...]) -> tuple[float, float, float]:
    """Seconds, processor seconds and most memory (MB) of `errata ARGUMENTS`, the start of Python included."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = unpack(ARCHIVE, Path(folder, "home"))
        environment = release.environment(release.HERE, **home.settings)
        command = [sys.executable, "-c", MEASURED, *arguments]
        before, started = os.times(), time.perf_counter()
        ran = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        seconds, after = time.perf_counter() - started, os.times()
        processor = after.children_user + after.children_system - before.children_user - before.children_system
        return seconds, processor, int(ran.stderr.split()[-1]) / 1024


def report(names: list[str], rounds: int) -> None:
    """Measure the commands in turn, round by round, and print a row each."""
    measure(("--help",))  # compiles what was never imported
    costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            costs[name].append(measure(COMMANDS[name]))
    print(f"{'command':22}{'seconds':>9}{'cpu s':>8}{'peak MB':>9}   medians of {rounds} rounds")
    for name, found in costs.items():
        seconds, processor, memory = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name:22}{seconds:9.2f}{processor:8.2f}{memory:9.0f}")


def bench_commands(_loaded: LoadedModel | None, _edits: list[Edit], rounds: int) -> None:
    report(list(COMMANDS), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.commands", description="What commands cost.")
    parser.add_argument("names", nargs="*", help=f"{', '.join(COMMANDS)}; all without a name")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - COMMANDS.keys():
        parser.error(f"unknown command {', '.join(sorted(unknown))}; choose from {', '.join(COMMANDS)}")
    report(arguments.names or list(COMMANDS), arguments.rounds)


if __name__ == "__main__":
    main()
