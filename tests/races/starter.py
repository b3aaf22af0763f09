"""A warm process of the code under test that forks one racing child for each action. Run as a script, by trial.py.

Importing the command line takes seconds, a race must not: everything is imported once, and no table, database or pool
is opened here, so that a fork starts clean. One trial is one line of JSON on standard input,

    {"settings": {NAME: VALUE}, "line": NAME, "racers": [{"do": [ARGUMENT, ...], "delay": SECONDS, "again": BOOL}, ...]}

and its answer one line on standard output: for each racer its exit code, what it said on standard error, the seconds
it took, and the modules that it imported; with "rehearsal" in the line, they are imported here too, for those to come.
A racer gets ready, waits until all are, is let go at the same moment, sleeps its delay and acts. `do` are arguments of
`errata`, or ["job-end"]; `again` repeats it until all that do not have it are done.
"""

import contextlib
import importlib
import io
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

try:
    from flows.cli.main import main

    importlib.import_module("tasks.review.decisions")  # commands import it when they run
except ModuleNotFoundError:  # release 0.1 has its command line in one file
    from flows.cli import main

    importlib.import_module("flows.commands")

import job_end  # beside this script

LONGEST = 120.0
"""Seconds after which a racer is killed: it hangs."""
POLL = 0.002
CRASHED = 70
"""Exit code of a racer that raised something: errata itself has 0, 1, 2 and 130."""


def serve() -> None:
    """Answer trial after trial until standard input ends."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what a racer prints must not mix with the answers
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for text in sys.stdin:
            asked = json.loads(text)
            answer = trial(asked)
            for name in (
                {name for racer in answer for name in racer.pop("imported", ())} if "rehearsal" in asked else ()
            ):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
            print(json.dumps(answer), file=answers, flush=True)


def trial(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Fork the racers, let them go together, and gather what they say."""
    racers = asked["racers"]
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()
    done_read, done_write = os.pipe()
    said = [tempfile.TemporaryFile() for _ in racers]  # noqa: SIM115  # closed where they are read
    pids = []
    for racer, out in zip(racers, said, strict=True):
        pid = os.fork()
        if pid == 0:
            os.close(go_write)
            os.close(done_write)
            barrier = Barrier(ready_write, go_read, done_read)
            out.write(json.dumps(race(asked, racer, barrier)).encode())
            out.flush()
            os._exit(0)
        pids.append(pid)
    for _ in racers:
        os.read(ready_read, 1)
    os.close(go_write)  # the end of the file is what all wait for
    single = [pid for pid, racer in zip(pids, racers, strict=True) if not racer.get("again")]
    ended = wait(single)
    os.close(done_write)
    ended |= wait([pid for pid in pids if pid not in single])
    for descriptor in (ready_read, ready_write, go_read, done_read):
        os.close(descriptor)
    found = []
    for pid, file in zip(pids, said, strict=True):
        with file:
            file.seek(0)
            text = file.read()
        found.append(json.loads(text) if text else {"code": ended[pid], "said": "died", "seconds": LONGEST})
    return found


class Barrier:
    """What a racer waits for, and how it knows that the others are done: pipes that the parent closes."""

    def __init__(self, ready: int, go: int, done: int) -> None:
        self._ready, self._go, self._done = ready, go, done

    def ready(self) -> None:
        os.write(self._ready, b".")

    def wait(self) -> None:
        self.ready()
        os.read(self._go, 1)

    def others_are_done(self) -> bool:
        return bool(select.select([self._done], [], [], 0)[0])


def race(asked: dict[str, Any], racer: dict[str, Any], barrier: Barrier) -> dict[str, Any]:
    """One racer, in its own process."""
    os.environ.update(asked["settings"])
    known = set(sys.modules)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            act = prepared(racer["do"], asked["line"])
            barrier.wait()
            time.sleep(racer.get("delay", 0.0))
            started = time.monotonic()
            code = act()
            while racer.get("again") and code == 0 and not barrier.others_are_done():
                code = act()
        except BaseException:  # reported to the trial, which calls it a fault
            traceback.print_exc(file=errors)
            code, started = CRASHED, time.monotonic()
            barrier.ready()  # it may not have come so far, and the others wait for it
    seconds = time.monotonic() - started
    imported = sorted(set(sys.modules) - known) if "rehearsal" in asked else []
    return {"code": code, "said": errors.getvalue()[-3000:], "seconds": seconds, "imported": imported}


def prepared(do: list[str], line: str) -> Callable[[], int]:
    """The action of a racer, as far as it can be prepared before the race."""
    if do == ["job-end"]:
        return job_end.begin(line)

    def command() -> int:
        sys.argv = ["errata", *do]
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return command


def wait(pids: list[int]) -> dict[int, int]:
    """Exit status of each process; one that hangs is killed."""
    ended: dict[int, int] = {}
    limit = time.monotonic() + LONGEST
    while len(ended) < len(pids):
        for pid in set(pids) - ended.keys():
            if time.monotonic() > limit:
                os.kill(pid, signal.SIGKILL)
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(POLL)
    return ended


if __name__ == "__main__":
    serve()
