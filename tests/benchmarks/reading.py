"""How long reading takes: 100,000 records as JSON Lines, JSON, columns, CSV and Parquet, and the memory that it takes.

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
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.ledger.reading import Read, judged, read_requests

if TYPE_CHECKING:
    from editing.edit import Edit
    from editing.models import LoadedModel

RECORDS = 100_000
KINDS = ("a.jsonl", "a.json", "columns.json", "a.csv", "a.parquet")


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


def cells(record: dict[str, Any]) -> list[str]:
    return [json.dumps(value) if isinstance(value, list) else value for value in record.values()]


def write(path: Path, count: int) -> None:
    kind = path.name
    if kind == "a.parquet":
        pq.write_table(pa.Table.from_pylist([*records(count)]), path)
    elif kind == "a.csv":
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(next(records(1)))
            rows.writerows(map(cells, records(count)))
    elif kind == "columns.json":
        path.write_text(json.dumps({name: [one[name] for one in records(count)] for name in next(records(1))}))
    else:
        lines = (json.dumps(one) for one in records(count))
        path.write_text("\n".join(lines) if kind == "a.jsonl" else f"[{','.join(lines)}]")


def measure(path: Path) -> None:
    began, processor = time.perf_counter(), time.process_time()
    count = sum(1 for _ in judged(read_requests([path], read=Read())))
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    told = f"{count:,} records, {path.stat().st_size / 1e6:.0f} MB"
    print(f"{path.name}: {told}: {processor:.1f} s of processor, {seconds:.1f} s, {megabytes:.0f} MiB")


def bench_reading(loaded: "LoadedModel", edits: "list[Edit]", rounds: int) -> None:
    """All kinds, each in a process of its own."""
    run(RECORDS)


def run(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder, kind)
            for step in ("--write", "--measure"):  # each in a process of its own, since a peak is a process's
                command = [sys.executable, "-m", "tests.benchmarks.reading", "--records", str(count), step, path]
                subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.reading", description="What reading files takes.")
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write, arguments.records)
    elif arguments.measure:
        measure(arguments.measure)
    else:
        run(arguments.records)


if __name__ == "__main__":
    main()
