"""Make the demo's request file: ask the embedded model every candidate, and keep what it gets wrong.

    python -m deployments.demo.make_requests

Reads candidates.json, writes requests.jsonl beside it; the same model gives the same file.
"""

import argparse
from pathlib import Path

from deployments.demo import REQUESTS
from deployments.demo.facts import GOOD, dump_requests, make_requests, read_table
from editing.files import write_atomically
from editing.models import EMBEDDED, load_model
from flows.cli.console import say
from tasks.settings import load_settings


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.demo.make_requests", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--to", type=Path, default=REQUESTS, help="file to write; default: %(default)s")
    parser.add_argument("--good", type=int, default=GOOD, help="most true corrections; default: %(default)s")
    arguments = parser.parse_args()
    settings = load_settings()
    loaded = load_model(EMBEDDED, dtype=settings.dtype, device=settings.device, cache=settings.cache_folder)
    requests = make_requests(loaded, read_table(), arguments.good)
    write_atomically(arguments.to, dump_requests(requests).encode())
    say(f"{len(requests)} requests written to {arguments.to}")


if __name__ == "__main__":
    main()
