"""A home that has grown: a ledger of a million events and a line of three hundred versions, written as raw files."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from tasks.ledger import opening, scanning
from tasks.ledger.appending import table_of

LINE, OTHER = "main", "archive"
VERSIONS, IN_SERVICE = 300, 290
LIVE_SHARE = 0.1
"""Share of the requests that stand in versions; the others were refused or quarantined, twice and more."""
PAYLOAD_BYTES, REQUESTS_A_FILE = 500, 2500
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = pa.schema([column for column in pa.schema(opening.SCHEMA.to_arrow()) if column.name not in scanning.ADDED])
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


def generate(home: Path, requests: int, runs: Sequence[str] = ()) -> int:
    """Ledger and snapshots of a grown home; returns the number of events.

    Args:
        home: A new folder.
        requests: Ten events each.
        runs: Runs of MLflow that the versions are of, so many versions each in a row; none: as release 0.1 writes it,
            of a run that no MLflow knows.
    """
    live = int(requests * LIVE_SHARE)
    each = live // VERSIONS
    members = [[f"r-{v * each + i:05d}" for i in range(each)] for v in range(VERSIONS)]
    snapshots, token = _write_store(home / "snapshots", members, runs)
    uri = str(home / "ledger")
    if runs:
        opening.created(uri, {})
    else:
        DeltaTable.create(uri, SCHEMA, configuration={"delta.appendOnly": "true"})
    count = 0
    for commit, records in enumerate(_records(requests, members, snapshots, token), start=1):
        rows = _present(records, commit) if runs else pa.Table.from_pylist(records, schema=SCHEMA)
        write_deltalake(uri, rows, mode="append")
        count += len(records)
    return count


def _present(records: list[dict[str, Any]], commit: int) -> Any:
    """Rows as this release writes them."""
    empty = dict.fromkeys(scanning.COLUMNS)
    own = [
        {"commit": commit, "sequence": place, "time": int(record["time"].timestamp() * 1e6)}
        for place, record in enumerate(records)
    ]
    return table_of([empty | record | more for record, more in zip(records, own, strict=True)])


def _records(
    requests: int, members: list[list[str]], snapshots: list[str], token: str
) -> Iterator[list[dict[str, Any]]]:
    """The events of one file each, the requests of versions first."""
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
            yield records
            records = []
    if records:
        yield records


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


def _write_store(root: Path, members: list[list[str]], runs: Sequence[str]) -> tuple[list[str], str]:
    """Manifests, versions and HEADs of the line; snapshots in order, and the token of HEAD."""
    blob = _put(root / "blobs", b"", ".safetensors")
    began = datetime.now(UTC) - timedelta(hours=VERSIONS) if runs else BEGAN  # what waits too long is refused
    snapshots: list[str] = []
    line = root / "lines" / LINE
    for number, names in enumerate(members, start=1):
        run = runs[(number - 1) * len(runs) // VERSIONS] if runs else "run"
        manifest = {
            "format": 1, "line": LINE, "version": number, "parent": snapshots[-1] if snapshots else None,
            "base": "embedded", "base_digest": "b" * 64, "config": {"method": "memit"}, "request_ids": names,
            "files": {"update.safetensors": blob}, "tensor_digests": {"w": "d" * 64}, "metrics": METRICS,
            "request_metrics": dict.fromkeys(names, METRICS), "batch": 1, "flow_run_id": "flow",
            "mlflow_run_id": run, "created": (began + timedelta(hours=number)).isoformat(),
        }  # fmt: skip
        if runs:  # a job saw the HEAD that its first version was made for
            of_a_job = VERSIONS // len(runs)
            manifest |= {"format": 2, "based_on": (number - 1) // of_a_job * of_a_job}
        snapshots.append(_put(root / "manifests", _json(manifest), ".json"))
        pointer = {"line": LINE, "version": number, "snapshot": snapshots[-1]}
        _write(line / "versions" / f"{number:08d}.json", _json(pointer))
    token = ""
    for number in range(1, IN_SERVICE + 1):
        token = _digest(f"token {number}")[:32]
        head = {
            "line": LINE, "sequence": number, "version": number, "snapshot": snapshots[number - 1],
            "previous": number - 1 or None, "action": "promote", "actor": "ann", "reason": "",
            "moved": (began + timedelta(hours=number)).isoformat().replace("+00:00", "Z"), "token": token,
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
