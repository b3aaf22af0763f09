"""What looking costs on a home that has grown: a million events, a line of three hundred versions.

    python -m tests.benchmarks looking
    python -m tests.benchmarks.looking [--code FOLDER] [--requests 100000] [--rounds 3] [--keep FOLDER]

Each command runs in a fresh process. Reported are the medians of: seconds of the import (what any command pays) and of
the command after it, the most memory, how often the ledger was opened, and how many objects of the store were read.
Reads are counted where Python opens files, so that it does not matter what the code under test calls its own parts.
"""

import argparse
import hashlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from editing.edit import Edit
from editing.models import LoadedModel
from tests.homes import release

LINE, OTHER = "main", "archive"
VERSIONS, IN_SERVICE = 300, 290
LIVE_SHARE = 0.1
"""Share of the requests that stand in versions; the others were refused or quarantined, twice and more."""
PAYLOAD_BYTES, REQUESTS_A_FILE = 500, 2500
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("sequence", pa.int32()),
        ("request_id", pa.string()),
        ("event", pa.string()),
        ("line", pa.string()),
        ("version", pa.int64()),
        ("batch", pa.int32()),
        ("actor", pa.string()),
        ("flow_run_id", pa.string()),
        ("mlflow_run_id", pa.string()),
        ("snapshot", pa.string()),
        ("metrics", pa.string()),
        ("reason", pa.string()),
        ("payload", pa.string()),
    ]
)
"""The ledger as release 0.1 writes it; every later one reads it."""
ATTEMPT = ("received", "queued", "applied", "quarantined")
LIVES = (
    (*ATTEMPT, *ATTEMPT, "received", "queued", "rejected"),
    (*ATTEMPT, *ATTEMPT, "received", "queued", "rejected"),
    ("received", "queued", "rejected") * 3,
)
"""What happened to requests that stand in no version, in turn."""
COMMITTED = ("received", "queued", "applied", "validated", "committed")
METRICS = {"efficacy_prob": 1.0, "generalization_prob": 0.9, "locality_prob": 0.8, "fluency": 5.1}
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
    import flows.cli.main, tasks.review.decisions, tasks.ledger.intake, torch
except ModuleNotFoundError:
    import flows.commands, flows.diagnosis
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
    started = time.perf_counter()
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    looks.append({{"seconds": time.perf_counter() - started, "code": code, **found}})
    sys.stdout.flush()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("\\n" + json.dumps({{"import": imported, "peak_mb": peak, "looks": looks}}))
"""


@dataclass(frozen=True)
class Cost:
    """Of one command in one process. `again` is a second look in the same process."""

    imported: float
    seconds: float
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
    return Cost(found["import"], first["seconds"], found["peak_mb"], first["reads"], first["opens"], last["reads"])


def generate(home: Path, requests: int) -> int:
    """Ledger and snapshots of a grown home; returns the number of events."""
    live = int(requests * LIVE_SHARE)
    each = live // VERSIONS
    members = [[f"r-{v * each + i:05d}" for i in range(each)] for v in range(VERSIONS)]
    snapshots, token = _write_store(home / "snapshots", members)
    DeltaTable.create(str(home / "ledger"), SCHEMA, configuration={"delta.appendOnly": "true"})
    count = 0
    for rows in _rows(requests, members, snapshots, token):
        write_deltalake(str(home / "ledger"), rows, mode="append")
        count += rows.num_rows
    return count


def _rows(requests: int, members: list[list[str]], snapshots: list[str], token: str) -> Iterator[pa.Table]:
    """One table a file, the requests of versions first."""
    rng = random.Random(0)
    words = ["city", "river", "mayor", "speaks", "founded", "north", "language", "bridge", "capital", "plays", "old"]
    texts = [" ".join(rng.choices(words, k=PAYLOAD_BYTES // 7))[:PAYLOAD_BYTES] for _ in range(2000)]
    standing = [(name, v) for v, names in enumerate(members) for name in names]
    rest = [(f"q-{i:06d}", None) for i in range(requests - len(standing))]
    records: list[dict[str, Any]] = []
    at = BEGAN
    for number, (name, v) in enumerate([*standing, *rest]):
        for event, extra in _life(name, v, number, snapshots, token):
            at += timedelta(milliseconds=1)
            if event == "received":
                extra["payload"] = _payload(name, texts[number % len(texts)])
            line = LINE if v is not None or number % 2 else OTHER
            records.append(
                {"event_id": f"{number:x}-{at.timestamp():.6f}", "time": at, "sequence": 0, "request_id": name}
                | {"event": event, "line": line, "actor": "ann"}
                | extra
            )
        if (number + 1) % REQUESTS_A_FILE == 0:
            yield pa.Table.from_pylist(records, schema=SCHEMA)
            records = []
    if records:
        yield pa.Table.from_pylist(records, schema=SCHEMA)


def _payload(name: str, text: str) -> str:
    edit = {"id": name, "subject": name, "prompt": "{} is in", "target_new": "Rome", "target_true": "Oslo"}
    return json.dumps(edit | {"paraphrases": [text]})


def _life(
    name: str, v: int | None, number: int, snapshots: list[str], token: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of one request, with what they carry beside the common columns."""
    if v is None:
        for event in LIVES[number % len(LIVES)]:
            yield (
                event,
                {"reason": "says the same as another request" if event in ("rejected", "quarantined") else None},
            )
        return
    version = {"version": v + 1, "batch": 1, "snapshot": snapshots[v], "flow_run_id": "flow", "mlflow_run_id": "run"}
    for event in COMMITTED:
        yield event, {} if event in ("received", "queued") else version | {"metrics": json.dumps(METRICS)}
    for event in ("approved", "promoted") if v < IN_SERVICE else ():
        # Release 0.1 finds the events of the latest move by these ids, and would write them again without.
        moved = {"event_id": _digest(f"{token} {v + 1} {name} {event}")[:32]} if v + 1 == IN_SERVICE else {}
        yield event, {"version": v + 1, "snapshot": snapshots[v]} | moved


def _write_store(root: Path, members: list[list[str]]) -> tuple[list[str], str]:
    """Manifests, versions and HEADs of the line; snapshots in order, and the token of HEAD."""
    blob = _put(root / "blobs", b"", ".safetensors")
    snapshots: list[str] = []
    line = root / "lines" / LINE
    for number, names in enumerate(members, start=1):
        manifest = {
            "format": 1, "line": LINE, "version": number, "parent": snapshots[-1] if snapshots else None,
            "base": "embedded", "base_digest": "b" * 64, "config": {"method": "memit"}, "request_ids": names,
            "files": {"update.safetensors": blob}, "tensor_digests": {"w": "d" * 64}, "metrics": METRICS,
            "request_metrics": dict.fromkeys(names, METRICS), "batch": 1, "flow_run_id": "flow",
            "mlflow_run_id": "run", "created": (BEGAN + timedelta(hours=number)).isoformat(),
        }  # fmt: skip
        snapshots.append(_put(root / "manifests", _json(manifest), ".json"))
        pointer = {"line": LINE, "version": number, "snapshot": snapshots[-1]}
        _write(line / "versions" / f"{number:08d}.json", _json(pointer))
    token = ""
    for number in range(1, IN_SERVICE + 1):
        token = _digest(f"token {number}")[:32]
        head = {
            "line": LINE, "sequence": number, "version": number, "snapshot": snapshots[number - 1],
            "previous": number - 1 or None, "action": "promote", "actor": "ann", "reason": "",
            "moved": (BEGAN + timedelta(hours=number)).isoformat().replace("+00:00", "Z"), "token": token,
        }  # fmt: skip
        data = _json(head)
        _write(line / "heads" / f"{number:08d}-{hashlib.sha256(data).hexdigest()[:12]}.json", data)
        _write(line / "HEAD", data)
    spec = {"line": LINE, "model": "embedded", "dtype": "float32", "config": {"method": "memit"}}
    _write(line / "line.json", _json(spec))
    return snapshots, token


def _put(folder: Path, data: bytes, ending: str) -> str:
    digest = hashlib.sha256(data).hexdigest()
    _write(folder / f"{digest}{ending}", data)
    return digest


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
        print(f"{'command':22} {'import s':>9} {'then s':>9} {'peak MB':>8} {'opens':>6} {'reads':>6} {'again':>6}")
        for name, arguments in COMMANDS.items():
            costs = [measure(code, home, _fresh(arguments, r), limit) for r in range(rounds)]
            if wrong := [cost for cost in costs if isinstance(cost, str)]:
                print(f"{name:22} {wrong[0]}", flush=True)
                continue
            rows = [
                (c.imported, c.seconds, c.peak_mb, c.opens, c.reads, c.again_reads)
                for c in costs
                if isinstance(c, Cost)
            ]
            imported, seconds, peak, opens, reads, again = (
                statistics.median(column) for column in zip(*rows, strict=True)
            )
            print(
                f"{name:22} {imported:9.2f} {seconds:9.2f} {peak:8.0f} {opens:6.0f} {reads:6.0f} {again:6.0f}",
                flush=True,
            )
    finally:
        if keep is None:
            shutil.rmtree(home, ignore_errors=True)


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
