"""Trials: two processes act on one line at the same moment, and the checker decides whether all still agrees.

A home is prepared once: that of release 0.1 (tests/homes), in which version 1 is in service and version 4 waits, with
one more job of the code under test, so that versions 4 to 7 wait. Each trial is a fresh copy in the same place, for
MLflow's database holds absolute paths.
"""

import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.homes import release
from tests.homes.archive import Home, unpack
from tests.homes.make import LENIENT
from tests.races import checker

ARCHIVE = Path(__file__).parents[1] / "homes" / "home-0.1.tar.gz"
STARTER = Path(__file__).with_name("starter.py")
LINE = "main"
WAITING = (4, 5, 6, 7)
ALLOWED_CODES = {0, 1, 2}
"""Done, refused because somebody else was faster, or nothing left to do. Anything else is a fault."""
LONGEST_DELAY = 0.4
"""Seconds by which one of the two starts later, at most: about as long as a decision takes."""


@dataclass(frozen=True)
class Race:
    """Two actions; `{n}` and `{m}` stand for versions that wait, drawn anew for each trial."""

    one: tuple[str, ...]
    other: tuple[str, ...]
    repeated: bool = False
    """The other is repeated while the one runs."""


APPROVE = ("approve", LINE, "--version", "{n}")
RACES = {
    "approve beside approve": Race(APPROVE, ("approve", LINE, "--version", "{m}")),
    "approve beside reject": Race(APPROVE, ("reject", LINE, "--version", "{m}", "--reason", "wrong")),
    "approve beside rollback": Race(APPROVE, ("rollback", LINE)),
    "approve beside status": Race(APPROVE, ("status", LINE), repeated=True),
    "approve beside a job's end": Race(APPROVE, ("job-end",)),
    "rollback beside a job's end": Race(("rollback", LINE), ("job-end",)),
    "rollback beside status": Race(("rollback", LINE), ("status", LINE), repeated=True),
    "reject beside a job's end": Race(("reject", LINE, "--version", "{m}", "--reason", "wrong"), ("job-end",)),
}


@dataclass
class Outcome:
    """What the trials of one race came to."""

    trials: int = 0
    disagree: int = 0
    """Trials after which HEAD, ledger and aliases did not agree."""
    died: int = 0
    """Trials in which a process ended with a traceback or an exit code that is none of errata's."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Trials by what was wrong, the numbers in it left out."""
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return self.trials > 0 and not self.disagree and not self.died


class Track:
    """The prepared home, and the warm process that starts racers on copies of it."""

    def __init__(self, code: Path, folder: Path, starter: "subprocess.Popen[str]") -> None:
        self.code, self.folder, self._starter = code, folder, starter

    @property
    def home(self) -> Home:
        return Home(self.folder / "now")

    def prepare(self) -> None:
        """The home with four versions that wait."""
        unpack(ARCHIVE, self.folder / "now")
        requests = self.folder / "requests.json"
        requests.write_text(json.dumps([_record(name) for name in ("Jo", "Kai", "Lu")]), encoding="utf-8")
        release.answer(self.code, self.home.settings, "submit", requests, "--line", LINE)
        policy = LENIENT | {"batch_size": 1}
        options = [part for name, value in policy.items() for part in ("--set", f"{name}={value}")]
        # fact-8 is queued in the archive and would be a fifth version: three requests more than one.
        release.answer(self.code, self.home.settings, "run", LINE, "--limit", 3, *options)
        found = checker.faults(self.home.home, LINE)
        if found:
            raise RuntimeError(f"the prepared home does not agree with itself: {'; '.join(found)}")
        (self.folder / "now").rename(self.folder / "prepared")

    def ask(self, racers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Let racers loose on a fresh copy; what each says."""
        shutil.rmtree(self.folder / "now", ignore_errors=True)
        shutil.copytree(self.folder / "prepared", self.folder / "now")
        asked = {"settings": self.home.settings, "line": LINE, "racers": list(racers)}
        assert self._starter.stdin is not None and self._starter.stdout is not None
        print(json.dumps(asked), file=self._starter.stdin, flush=True)
        answer: list[dict[str, Any]] = json.loads(self._starter.stdout.readline())
        return answer

    def run(self, race: Race, trials: int, seed: int = 0) -> Outcome:
        """So many trials of a race; the same seed draws the same versions and delays."""
        outcome = Outcome()
        for number in range(trials):
            rng = random.Random(f"{seed} {number}")
            self._trial(_racers(race, rng), outcome)
        return outcome

    def _trial(self, racers: list[dict[str, Any]], outcome: Outcome) -> None:
        answers = self.ask(racers)
        outcome.trials += 1
        died = [a for a in answers if a["code"] not in ALLOWED_CODES or "Traceback" in a["said"]]
        found = checker.faults(self.home.home, LINE)
        outcome.died += bool(died)
        outcome.disagree += bool(found)
        kinds = {re.sub(r"\d+|\b(Jo|Kai|Lu)\b", "N", fault) for fault in found}
        kinds |= {f"died: {(a['said'].strip().splitlines() or [''])[-1][:100]}" for a in died}
        outcome.kinds.update(kinds)
        for kind in kinds:
            what = " | ".join(f"{' '.join(r['do'])} +{r['delay']:.2f}s: {a['code']} {a['said'].strip()[:200]}"
                              for r, a in zip(racers, answers, strict=True))  # fmt: skip
            outcome.examples.setdefault(kind, f"{what} => {'; '.join(found)}")


@contextmanager
def opened(code: Path, folder: Path) -> Iterator[Track]:
    """A prepared track of the code in that folder, which must not exist."""
    folder.mkdir(parents=True)
    with (folder / "starter.log").open("w") as log:
        starter = subprocess.Popen(
            [sys.executable, str(STARTER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=release.environment(code),
        )
        try:
            track = Track(code, folder, starter)
            track.prepare()
            assert starter.stdout is not None
            if not starter.stdout.readline():
                raise RuntimeError(f"the racers cannot start: {(folder / 'starter.log').read_text()[-2000:]}")
            yield track
        finally:
            starter.kill()
            starter.wait()


def _racers(race: Race, rng: random.Random) -> list[dict[str, Any]]:
    n, m = rng.choice(WAITING), rng.choice(WAITING)
    delays = [0.0, rng.uniform(0, LONGEST_DELAY)]
    rng.shuffle(delays)
    return [
        {"do": [part.format(n=n, m=m) for part in do], "delay": delay, "again": again}
        for do, delay, again in zip((race.one, race.other), delays, (False, race.repeated), strict=True)
    ]


def _record(name: str) -> dict[str, Any]:
    return {"id": name, "subject": name, "prompt": "{} was born in", "target_new": "Rome", "target_true": "London"}
