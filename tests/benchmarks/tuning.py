"""The search that the default method's parameters come from: a hundred facts that the quality table does not use.

    python -m tests.benchmarks.tuning --data counterfact_dev.parquet --text wikitext2_valid.parquet

Values are searched once for each place and search, and read from the cache by everything else; results are kept under
--out, and the command goes on where it was stopped.
"""

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from editing.files import write_atomically
from tests.benchmarks.sequence import Data, Point, follow, markdown, open_method

FIRST, COUNT = 200, 100
CANDIDATES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("memit", {"statistics_weight": weight}) for weight in (1000.0, 2000.0, 2500.0, 3000.0)),
    *(("memit", {"statistics_tokens": tokens}) for tokens in (65536, 131072)),
    *(("memit", {"bare_apart": False, "contexts": contexts}) for contexts in (3, 5)),
    *(("memit", {"context_tokens": tokens}) for tokens in (8, 24)),
    *(("memit", {"protect": share, "statistics_weight": 2500.0}) for share in (0.1, 0.2)),
    *(("memit", {"ridge": ridge}) for ridge in (20, 200)),
    *(("memit", {"layers": layers}) for layers in ([3, 4, 5], [1, 2, 3, 4, 5], [2, 3, 4, 5, 6])),
    *(("memit", {"search": {"step_length": length}}) for length in (0.15, 0.35)),
    ("memit", {"search": {"stop_loss": 0.02}}),
    *(("alphaedit", {"nullspace_threshold": threshold}) for threshold in (0.3, 1.0)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--try", dest="extra", action="append", default=[], help="one more: 'memit {\"protect\": 0.2}'")
    parser.add_argument("--only", action="store_true", help="those of --try alone")
    parser.add_argument("--out", type=Path, default=Path(".bench/tuning"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    extra = [(text.split()[0], json.loads(text.split(maxsplit=1)[1])) for text in asked.extra]
    data, table = Data(asked.data, asked.text, FIRST, COUNT), []
    for method, options in [*(() if asked.only else CANDIDATES), *extra]:
        name = f"{method} {json.dumps(options)}"
        path = asked.out / f"{hashlib.sha256(name.encode()).hexdigest()[:12]}.json"
        if not path.exists():
            [point] = follow(open_method(method, options), data, (COUNT,), cached=True)
            write_atomically(path, json.dumps({"name": name, **asdict(point)}, indent=1).encode())
        found = json.loads(path.read_text())
        table.append((found.pop("name"), Point(**found)))
        print(markdown(table[-1:]).splitlines()[-1], flush=True)
    print(markdown(table))


if __name__ == "__main__":
    main()
