"""Benchmarks: two ways in the same run, medians of several rounds, ratios. `make bench`, or

    python -m tests.benchmarks [name ...] [--rounds 3] [--edits 4] [--data edits.parquet]

Machines are shared and noisy: read the ratios, not the seconds.
"""

import argparse
from itertools import islice
from pathlib import Path

import torch

from editing.edit import Edit
from editing.layout import layout_of
from editing.measure.metrics import evaluate
from editing.models import LoadedModel, load_model
from editing.readers import read_edits
from editing.weights import EditedWeights, Factors, overlay
from tasks.parquet import FOREIGN
from tasks.settings import load_settings
from tests.benchmarks.commands import bench_commands
from tests.benchmarks.independent import bench_independent
from tests.benchmarks.looking import bench_looking
from tests.benchmarks.mend import bench_mend
from tests.benchmarks.reading import bench_reading
from tests.benchmarks.rebase import bench_rebase
from tests.benchmarks.solve import bench_accumulation, bench_batch, bench_large
from tests.benchmarks.statistics import bench_statistics
from tests.benchmarks.timing import ratio, timed
from tests.benchmarks.values import bench_as_used, bench_equal_steps, product_rate

REQUESTS = Path(__file__).parents[2] / "deployments/demo/requests.jsonl"
LAYER = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Two ways in the same run.")
    parser.add_argument("names", nargs="*", help=f"{', '.join(KNOWN)}; all without a name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--edits", type=int, default=4)
    parser.add_argument("--data", type=Path, default=REQUESTS, help="where edits come from; those of the demo")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - KNOWN.keys():
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; choose from {', '.join(KNOWN)}")
    loaded = load_model("embedded", cache=load_settings().cache_folder)
    records = read_edits(arguments.data, foreign=FOREIGN)
    edits = list(islice((r for r in records if isinstance(r, Edit)), arguments.edits))
    print(f"{torch.get_num_threads()} threads, {len(edits)} edits, median of {arguments.rounds} rounds")
    print(f"float32 products reach {product_rate(loaded, torch.float32):.0f} GFLOP/s here")
    for name in arguments.names or KNOWN:
        KNOWN[name](loaded, edits, arguments.rounds)


def bench_overlay(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """Evaluating single edits as overlays against writing and reverting each."""
    layout = layout_of(loaded.model)
    name = layout.weight_name(LAYER)
    m, d = loaded.model.get_parameter(name).shape
    updates = [{name: Factors(torch.randn(m, 1) * 1e-3, torch.randn(1, d) * 1e-3)} for _ in edits]

    def overlaid() -> None:
        for edit, update in zip(edits, updates, strict=True):
            with overlay(loaded.model, layout, update):
                evaluate(loaded.model, loaded.tokenizer, [edit])

    def written() -> None:
        weights = EditedWeights(loaded.model, layout)
        for edit, update in zip(edits, updates, strict=True):
            undo = weights.apply(update)
            evaluate(loaded.model, loaded.tokenizer, [edit])
            weights.revert(undo)

    times = [(timed(overlaid)[0], timed(written)[0]) for _ in range(rounds)]
    print("single edits evaluated as overlays, against written and reverted:",
          ratio([slow for _, slow in times], [fast for fast, _ in times]))  # fmt: skip


KNOWN = {
    "value-search": bench_equal_steps,
    "value-search-as-used": bench_as_used,
    "overlay": bench_overlay,
    "independent": bench_independent,
    "statistics": bench_statistics,
    "rebase": bench_rebase,
    "batch": bench_batch,
    "mend": bench_mend,
    "accumulation": bench_accumulation,
    "large": bench_large,
    "looking": bench_looking,
    "commands": bench_commands,
    "reading": bench_reading,
}

if __name__ == "__main__":
    main()
