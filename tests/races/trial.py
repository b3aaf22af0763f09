"""Trials: two processes act on one line at the same moment, and the checker decides whether all still agrees.

A home is prepared once: that of release 0.1 (tests/homes), in which version 1 is in service and version 4 waits, with
versions 5 to 7 built on it as a job leaves them before its last step: in store, ledger and MLflow, but with the aliases
of before. Each trial is a fresh copy in the same place, for MLflow's database holds absolute paths.
"""

import hashlib
import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from tests.homes import release
from tests.homes.archive import Home, unpack
from tests.races import checker

ARCHIVE = Path(__file__).parents[1] / "homes" / "home-0.1.tar.gz"
STARTER = Path(__file__).with_name("starter.py")
LINE = "main"
MORE = {5: "fact-Jo", 6: "fact-Kai", 7: "fact-Lu"}
"""Versions that are added to the archive's, and the request of each."""
WAITING = (4, *MORE)
ALLOWED_CODES = {0, 1, 2}
"""Done, refused because somebody else was faster, or nothing left to do. Anything else is a fault."""


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
    "approve beside rollback": Race(APPROVE, ("rollback", LINE, "--to", "2")),
    "approve beside status": Race(APPROVE, ("status", LINE), repeated=True),
    "approve beside a job's end": Race(APPROVE, ("job-end",)),
    "rollback beside a job's end": Race(("rollback", LINE, "--to", "2"), ("job-end",)),
    "rollback beside status": Race(("rollback", LINE, "--to", "2"), ("status", LINE), repeated=True),
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

    def __init__(self, folder: Path, starter: "subprocess.Popen[str]") -> None:
        self.folder, self._starter = folder, starter
        self._seconds: dict[str, float] = {}
        """How long each action takes, as seen last."""

    @property
    def home(self) -> Home:
        return Home(self.folder / "now")

    def prepare(self) -> None:
        """The home with four versions that wait."""
        home = unpack(ARCHIVE, self.folder / "now")
        for number, request in MORE.items():
            add_version(home.home, number, request)
        home.folder.rename(self.folder / "prepared")

    def rehearse(self) -> None:
        """Every action alone: once so that the warm process imports what it did, once to see how long it takes."""
        actions = {do[0]: do for race in RACES.values() for do in (race.one, race.other)}
        for name, do in actions.items():
            racer = {"do": [part.format(n=WAITING[0], m=WAITING[0]) for part in do], "delay": 0.0}
            self.ask([racer], rehearsal=True)
            [answer] = self.ask([racer])
            if answer["code"]:
                raise RuntimeError(f"{' '.join(racer['do'])} does not even work alone: {answer['said']}")
            self._seconds[name] = answer["seconds"]

    def ask(self, racers: Sequence[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
        """Let racers loose on a fresh copy; what each says."""
        shutil.rmtree(self.folder / "now", ignore_errors=True)
        shutil.copytree(self.folder / "prepared", self.folder / "now")
        asked = {"settings": self.home.settings, "line": LINE, "racers": list(racers), **more}
        assert self._starter.stdin is not None and self._starter.stdout is not None
        print(json.dumps(asked), file=self._starter.stdin, flush=True)
        answer: list[dict[str, Any]] = json.loads(self._starter.stdout.readline())
        return answer

    def run(self, race: Race, trials: int, seed: int = 0) -> Outcome:
        """So many trials of a race; the same seed draws the same versions and delays."""
        outcome = Outcome()
        for number in range(trials):
            rng = random.Random(f"{seed} {number}")
            self._trial(self._racers(race, rng), outcome)
        return outcome

    def _racers(self, race: Race, rng: random.Random) -> list[dict[str, Any]]:
        """The one starts up to as much earlier or later as leaves them together at some moment."""
        n, m = rng.choice(WAITING), rng.choice(WAITING)
        lead = rng.uniform(-self._seconds[race.other[0]], self._seconds[race.one[0]])
        delays = (max(0.0, -lead), 0.0 if race.repeated else max(0.0, lead))
        return [
            {"do": [part.format(n=n, m=m) for part in do], "delay": delay, "again": again}
            for do, delay, again in zip((race.one, race.other), delays, (False, race.repeated), strict=True)
        ]

    def _trial(self, racers: list[dict[str, Any]], outcome: Outcome) -> None:
        answers = self.ask(racers)
        self._seconds |= {r["do"][0]: a["seconds"] for r, a in zip(racers, answers, strict=True) if not r["again"]}
        outcome.trials += 1
        died = [a for a in answers if a["code"] not in ALLOWED_CODES or "Traceback" in a["said"]]
        found = checker.faults(self.home.home, LINE)
        outcome.died += bool(died)
        outcome.disagree += bool(found)
        kinds = {re.sub(r"\d+|(?<=fact-)\w+", "N", fault) for fault in found}
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
            track = Track(folder, starter)
            track.prepare()
            assert starter.stdout is not None
            if not starter.stdout.readline():
                raise RuntimeError(f"the racers cannot start: {(folder / 'starter.log').read_text()[-2000:]}")
            track.rehearse()
            yield track
        finally:
            starter.kill()
            starter.wait()


def add_version(home: Path, number: int, request: str) -> None:
    """Make a version on the one before it as a job of release 0.1 does, with other requests and the same tensors."""
    store, line = home / "snapshots", home / "snapshots" / "lines" / LINE
    before = checker.read_versions(checker.Home(home), LINE)[number - 1]
    manifest = json.loads((store / "manifests" / f"{before.snapshot}.json").read_bytes())
    now = datetime.now(UTC)
    manifest |= {"version": number, "parent": before.snapshot, "request_ids": [request], "created": now.isoformat()}
    manifest["request_metrics"] = {request: {}}
    data = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    snapshot = hashlib.sha256(data).hexdigest()
    (store / "manifests" / f"{snapshot}.json").write_bytes(data)
    pointer = {"line": LINE, "version": number, "snapshot": snapshot}
    (line / "versions" / f"{number:08d}.json").write_text(json.dumps(pointer, sort_keys=True, separators=(",", ":")))
    common = {"request_id": request, "line": LINE, "actor": "ann", "time": now, "sequence": 0}
    made = common | {"version": number, "batch": 1, "snapshot": snapshot, "flow_run_id": manifest["flow_run_id"]}
    payload = json.dumps({"id": request, "subject": request, "prompt": "{} was born in", "target_new": "Rome"})
    rows = [common | {"event": "received", "payload": payload}, common | {"event": "queued"}]
    rows += [made | {"event": event} for event in ("applied", "validated", "committed")]
    for sequence, row in enumerate(rows):
        row |= {"event_id": uuid.uuid4().hex, "sequence": sequence}
    table = DeltaTable(home / "ledger")
    write_deltalake(table, pa.Table.from_pylist(rows, schema=pa.schema(table.schema().to_arrow())), mode="append")
    with closing(sqlite3.connect(home / "mlflow.db")) as database, database:
        _register(database, number, snapshot)


def _register(database: sqlite3.Connection, number: int, snapshot: str) -> None:
    """The newest of the line's versions in MLflow once more, as another version; storing a model would take seconds."""
    [newest] = database.execute("SELECT max(version) FROM model_versions WHERE name = ?", (LINE,)).fetchone()
    tags = {"errata.version": str(number), "errata.snapshot": snapshot}
    for table in ("model_versions", "model_version_tags"):
        found = database.execute(f"SELECT * FROM {table} WHERE name = ? AND version = ?", (LINE, newest))
        names = [column[0] for column in found.description]
        for values in found.fetchall():
            row = dict(zip(names, values, strict=True)) | {"version": newest + 1}
            if row.get("key") in tags:
                row["value"] = tags[row["key"]]
            quoted, marks = ", ".join(f'"{name}"' for name in names), ", ".join("?" * len(names))
            database.execute(f"INSERT INTO {table} ({quoted}) VALUES ({marks})", [row[name] for name in names])
