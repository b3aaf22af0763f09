"""What the demo costs at the first start: seconds and processor time by command and stage, cold and warm, and killed.

    python -m tests.benchmarks.start [--threads 2] [--kills 5] [--all-instructions] [--folder FOLDER] [-- ARGUMENTS...]

`python -m deployments.demo ARGUMENTS` runs with a home and a cache of its own: first with nothing there (cold), then
with the caches that this left (warm). With --kills it begins once more with nothing there, and the demo and all that it
started are killed (SIGKILL) at that many random moments and started again, until it ends.

Two ordinary cores are meant: AVX2 and no wider instructions, unless --all-instructions. Seconds are worth something on
a quiet machine alone; processor time, of all processes together, also on one that is shared.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

HERE = Path(__file__).parents[2]
LOOK_SECONDS = 0.1
FOREIGN = ("ERRATA_", "PREFECT_", "MLFLOW_", "XDG_")
"""What the user of this machine has set, and a newcomer has not."""
ORDINARY = {"DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
INSIDE = """
import json, os, time
try:
    import tasks.progress as heard
except ImportError:  # a process that does not run Errata
    heard = None
if heard:
    def progress(what, done, total, tell=heard.progress):
        line = json.dumps([time.time(), what, done, total])
        with open(os.environ["STAGES"], "a") as file:
            file.write(line + "\\n")
        tell(what, done, total)
    heard.progress = progress
"""
"""Run by every Python process of the demo as it starts: reports of progress are noted, too."""


@dataclass
class Attempt:
    """One run of the demo, until it ended or was killed."""

    looks: list[tuple[float, float]] = field(default_factory=list)
    """(time, processor seconds of all its processes until then)"""
    lines: list[tuple[float, str]] = field(default_factory=list)
    """What it printed, and when."""
    code: int | None = None
    """None: it was killed."""

    @property
    def seconds(self) -> float:
        return self.looks[-1][0] - self.looks[0][0]

    @property
    def processor(self) -> float:
        return self.looks[-1][1]

    def processor_at(self, moment: float) -> float:
        """Between two looks, as if it had been spent evenly."""
        i = bisect_left(self.looks, (moment, 0.0))
        if i in (0, len(self.looks)):
            return self.looks[min(i, len(self.looks) - 1)][1]
        (before, spent), (after, more) = self.looks[i - 1 : i + 1]
        return spent + (more - spent) * (moment - before) / (after - before)


@dataclass(frozen=True)
class Place:
    """Where demos run that know nothing of others."""

    folder: Path
    arguments: Sequence[str]
    threads: int
    instructions: dict[str, str]

    def environment(self) -> dict[str, str]:
        hook = self.folder / "hook"
        hook.mkdir(parents=True, exist_ok=True)
        (hook / "sitecustomize.py").write_text(INSIDE)
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("ERRATA_", "PREFECT_", "MLFLOW_", "XDG_"))
        }
        settings = {
            "HOME": str(self.folder / "user"),
            "ERRATA_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONPATH": os.pathsep.join([str(hook), str(HERE)]),
            "PYTHONUNBUFFERED": "1",
            "STAGES": str(self.stages),
        }
        return inherited | settings | self.instructions

    @property
    def stages(self) -> Path:
        return self.folder / "stages.jsonl"

    def forget(self, *names: str) -> None:
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.stages.unlink(missing_ok=True)

    def run(self, kill_after: float | None = None) -> Attempt:
        """The demo, until it ends, or until all of it is killed after so many seconds."""
        command = [sys.executable, "-m", "deployments.demo", "--home", str(self.folder / "home"), *self.arguments]
        process = subprocess.Popen(
            command, cwd=HERE, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        attempt, started = Attempt(), time.time()
        assert process.stdout is not None
        reader = threading.Thread(target=_read, args=(process.stdout, attempt.lines), daemon=True)
        reader.start()
        spent: dict[int, float] = {}
        while process.poll() is None:
            attempt.looks.append((time.time(), _processor(process.pid, spent)))
            if kill_after is not None and time.time() - started > kill_after:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return attempt
            time.sleep(LOOK_SECONDS)
        reader.join()
        attempt.code = process.returncode
        return attempt


def _read(output: IO[str], lines: list[tuple[float, str]]) -> None:
    for line in output:
        lines.append((time.time(), line.rstrip("\n")))


def _processor(root: int, spent: dict[int, float]) -> float:
    """Seconds of a process and all that descend from it; those that ended count as they were last seen."""
    try:
        parent = psutil.Process(root)
        family = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        family = []
    for process in family:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        spent[process.pid] = times.user + times.system
    return sum(spent.values())


@dataclass(frozen=True)
class Stage:
    name: str
    began: float
    ended: float


def stages_of(written: Path) -> list[Stage]:
    """Each piece of work that told its progress, from its first word to its last."""
    running: dict[str, tuple[float, float]] = {}
    found: list[Stage] = []
    for line in written.read_text().splitlines() if written.exists() else ():
        moment, what, done, total = json.loads(line)
        if done == 0 and what in running:
            found.append(Stage(what, *running.pop(what)))
        running[what] = running.get(what, (moment, moment))[0], moment
        if done >= total:
            found.append(Stage(what, *running.pop(what)))
    found += [Stage(what, *span) for what, span in running.items()]
    return sorted((stage for stage in found if stage.name != "edits"), key=lambda stage: stage.began)


def commands_of(attempt: Attempt) -> list[Stage]:
    """From one line that begins with '$ ' to the next."""
    marks = [(moment, line[2:]) for moment, line in attempt.lines if line.startswith("$ ")]
    ends = [*(moment for moment, _ in marks[1:]), attempt.looks[-1][0]]
    before = [Stage("before the first command", attempt.looks[0][0], marks[0][0])] if marks else []
    return before + [Stage(line, moment, end) for (moment, line), end in zip(marks, ends, strict=True)]


def rows(attempt: Attempt, stages: Sequence[Stage]) -> Iterator[tuple[str, float, float]]:
    """(name, seconds, processor seconds) of each command and, indented, of the stages in it."""
    for command in commands_of(attempt):
        yield command.name[:60], *_cost(attempt, [command])
        inside: dict[str, list[Stage]] = {}
        for stage in stages:
            if command.began <= stage.began < command.ended:
                inside.setdefault(stage.name, []).append(stage)
        for name, spans in inside.items():
            yield f"    {name}" + (f" ({len(spans)})" if len(spans) > 1 else ""), *_cost(attempt, spans)


def _cost(attempt: Attempt, spans: Sequence[Stage]) -> tuple[float, float]:
    seconds = sum(span.ended - span.began for span in spans)
    return seconds, sum(attempt.processor_at(span.ended) - attempt.processor_at(span.began) for span in spans)


def show(title: str, place: Place, attempt: Attempt) -> None:
    """A table of one uninterrupted run."""
    print(f"\n{title}\n{'':62}{'seconds':>9}{'processor':>11}")
    for name, seconds, processor in rows(attempt, stages_of(place.stages)):
        print(f"{name:62}{seconds:9.1f}{processor:11.1f}")
    print(f"{'all':62}{attempt.seconds:9.1f}{attempt.processor:11.1f}")
    print(next((line for _, line in attempt.lines if " take about " in line), "it did not say how long"), flush=True)


def uninterrupted(title: str, place: Place) -> Attempt:
    """Run the demo once and print its table. Exits with what the demo said when it fails."""
    attempt = place.run()
    if attempt.code:
        raise SystemExit("\n".join(line for _, line in attempt.lines[-30:]) + f"\nthe demo failed ({attempt.code})")
    show(title, place, attempt)
    return attempt


def killed(place: Place, whole: Attempt, kills: int, generator: random.Random) -> None:
    """Kill the demo at so many random moments of its way, start it again each time, and compare with a whole run."""
    moments = sorted(generator.uniform(0, whole.seconds) for _ in range(kills))
    waits = [after - before for before, after in zip([0.0, *moments], moments, strict=False)]
    attempts: list[Attempt] = []
    for wait in [*waits, None]:
        attempts.append(place.run(wait))
        what = "killed" if attempts[-1].code is None else f"ended with {attempts[-1].code}"
        print(f"    {what} after {attempts[-1].seconds:.1f} s, {attempts[-1].processor:.1f} s of processor", flush=True)
        if attempts[-1].code is not None:
            break
    seconds, processor = sum(one.seconds for one in attempts), sum(one.processor for one in attempts)
    print(
        f"killed {len(attempts) - 1} times: {seconds:.1f} s and {processor:.1f} s of processor, "
        f"{seconds / whole.seconds:.2f} and {processor / whole.processor:.2f} times those of a run of its own"
    )
    if attempts[-1].code:
        raise SystemExit("\n".join(line for _, line in attempts[-1].lines[-30:]) + "\nthe demo failed after the kills")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.start", description="What the demo costs.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kills", type=int, default=0, help="how often it is killed, in a run after the others")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which it is killed")
    parser.add_argument("--all-instructions", action="store_true", help="whatever the processor has, not AVX2 alone")
    parser.add_argument("--folder", type=Path, help="work here and leave it there; a cache in it is used as it is")
    parser.add_argument("arguments", nargs="*", help="the demo's own, after --")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="errata-start-"))
    place = Place(folder.resolve(), given.arguments, given.threads, {} if given.all_instructions else ORDINARY)
    try:
        place.forget("home")
        title = "with the caches that were there" if (folder / "cache").exists() else "cold: everything new"
        whole = uninterrupted(title, place)
        place.forget("home")
        uninterrupted("warm: with the caches of the first", place)
        if given.kills:
            place.forget("home", "cache", "user")
            print(f"\ncold, and killed {given.kills} times")
            killed(place, whole, given.kills, random.Random(given.seed))
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
