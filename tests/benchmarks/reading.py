"""How long reading takes: 100,000 records as JSON Lines, JSON, CSV and Parquet, and the memory that it takes.

    python -m tests.benchmarks reading
    python -m tests.benchmarks.reading [--records 100000]

Each kind in a process of its own; on a machine that does other work, read the processor time.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from editing.edit import Edit
from editing.models import LoadedModel
from tasks.ledger.reading import Read, judged, read_requests

RECORDS = 100_000
KINDS = ("a.jsonl", "a.json", "a.csv", "a.parquet")


def records(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        who = f"Person {number}"
        yield {
            "id": f"r-{number}",
            "subject": who,
            "prompt": f"{who} lives in",
            "target_new": f"Rome {number}",
            "target_true": "Oslo",
            "paraphrases": [f"The home of {who} is in"],
            "neighborhood": [{"prompt": f"Another {number} lives in", "answer": "Lima"}],
        }


def written(folder: Path, kind: str, count: int) -> Path:
    path = folder / kind
    if kind == "a.parquet":
        pq.write_table(pa.Table.from_pylist([*records(count)]), path)
    elif kind == "a.csv":
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(next(records(1)))
            rows.writerows(
                [json.dumps(v) if isinstance(v, list) else v for v in one.values()] for one in records(count)
            )
    else:
        lines = (json.dumps(one) for one in records(count))
        path.write_text("\n".join(lines) if kind == "a.jsonl" else f"[{','.join(lines)}]")
    return path


def measure(path: Path) -> None:
    began, processor = time.perf_counter(), time.process_time()
    count = sum(1 for _ in judged(read_requests([path], read=Read())))
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    size = path.stat().st_size / 1e6
    print(
        f"{path.name}: {count:,} records, {size:.0f} MB: {processor:.1f} s of processor, {seconds:.1f} s, {megabytes:.0f} MiB"
    )


def bench_reading(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """All kinds, each in a process of its own."""
    run(RECORDS)


def run(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = written(Path(folder), kind, count)
            subprocess.run([sys.executable, "-m", "tests.benchmarks.reading", "--measure", path], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
    else:
        run(arguments.records)
