"""Every method on the same facts: 1, 10, 50 and 100 edits in sequence, in batches of ten, all asked again each time.

    python -m tests.benchmarks.quality --data counterfact_dev.parquet --text wikitext2_valid.parquet

Key statistics are of text that the model samples itself; in one row they are of the text given, behind the part that
perplexity is taken on. Each method's result is kept under --out as soon as it is there; the command goes on where it
was stopped. At the end each method's CounterFact score is held against that of the first one, on the same facts drawn
anew again and again (bootstrap), which gives 95 % of the differences.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import hmean  # type: ignore[import-untyped]  # scipy ships no types

from editing.files import write_atomically
from tests.benchmarks.sequence import Data, Point, follow, markdown, open_method

REAL_TEXT = "MEMIT with history, statistics of real text"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MEMIT with history (default)": ("memit", {}),
    REAL_TEXT: ("memit", {}),
    "MEMIT without history": ("memit", {"history": False}),
    "AlphaEdit": ("alphaedit", {}),
    "EMMET": ("emmet", {}),
    "R-ROME": ("rome", {}),
    "ROME as published": ("rome", {"mean_key": False}),
    "UltraEdit": ("ultraedit", {}),
    "FT-M": ("finetune", {}),
    "FT-L": ("finetune", {"objective": "last"}),
    "LocFT": ("finetune", {"minibatch": 2, "append_eos": True}),
    "LoRA": ("lora", {}),
}
POINTS = (1, 10, 50, 100)
FEW, DRAWS = 50, 10_000
"""Facts below which scores are not compared; samples that are drawn of them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--points", nargs="*", type=int, default=POINTS, metavar="N", help="numbers of edits")
    parser.add_argument("--cached", action="store_true", help="values from the cache; the seconds then say nothing")
    parser.add_argument("--out", type=Path, default=Path(".bench/quality"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    data, table = Data(asked.data, asked.text, 0, max(asked.points)), []
    for name in asked.methods:
        path = asked.out / f"{name}.json"
        if not path.exists():
            session = open_method(*METHODS[name], data.further_texts if name == REAL_TEXT else None)
            points = []
            for point in follow(session, data, asked.points, cached=asked.cached):
                print(markdown([(name, point)]).splitlines()[-1], flush=True)
                points.append(asdict(point))
            about = {"config": session.config.model_dump(mode="json"), "layers": session.method_input.layers}
            write_atomically(path, json.dumps(about | {"points": points}, indent=1).encode())
        table += [(name, Point(**point)) for point in json.loads(path.read_text())["points"]]
    print(markdown(table))
    print(compared(table))


def compared(table: list[tuple[str, Point]]) -> str:
    """CounterFact's score of each method beside what the first one's is above it."""
    lines = ["| | edits | score | the first one's less this | 95 % |", "|---" + "|---:" * 4 + "|"]
    first = {point.edits: np.array(point.facts) for name, point in table if name == table[0][0]}
    for name, point in table:
        if point.edits < FEW or not point.facts:
            continue
        mine, theirs = np.array(point.facts), first[point.edits]
        drawn = np.random.default_rng(0).integers(len(mine), size=(DRAWS, len(mine)))
        apart = 100 * (hmean(theirs[drawn].mean(1), axis=-1) - hmean(mine[drawn].mean(1), axis=-1))
        score, best = (100 * hmean(some.mean(0)) for some in (mine, theirs))
        low, high = np.quantile(apart, [0.025, 0.975])
        lines.append(f"| {name} | {point.edits} | {score:.1f} | {best - score:+.1f} | {low:+.1f} to {high:+.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
