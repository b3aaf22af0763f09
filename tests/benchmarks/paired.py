"""Two configurations on the same facts in one run, each measure compared fact by fact.

    python -m tests.benchmarks.paired --data counterfact_dev.parquet --text wikitext2_valid.parquet --limit 200

The facts are written in batches of ten, all are asked again at the end, with all their neighborhood prompts. Values are
searched once where both configurations search them alike. By default key statistics as they were (98,304 tokens, not
shrunk) stand against the default; `-b` and `-a` set options of the method before and after.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editing.config import BEFORE_SHRINKAGE
from editing.measure.metrics import EditScores, evaluate
from flows.cli.app import METHOD_EXAMPLE, pairs
from tests.benchmarks.sequence import BATCH, Data, open_method, perplexity_of, write_batch

MEASURES = {
    "efficacy_prob": "efficacy",
    "efficacy_argmax": "says it",
    "generalization_prob": "paraphrases",
    "generalization_argmax": "paraphrases, says it",
    "locality_prob": "neighborhood",
    "locality_kept": "neighbors keep their answer",
}
MOST_WORSE = 1.5
"""Points that a measure may lose."""
MOST_PERPLEXITY = 1.003
NORMAL_95 = 1.96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="perplexity is taken on its beginning")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="memit")
    parser.add_argument("-b", "--before", action="append", metavar="NAME=VALUE", help="option of the first")
    parser.add_argument("-a", "--after", action="append", metavar="NAME=VALUE", help="option of the second")
    asked = parser.parse_args()
    before = pairs(asked.before, "--before", METHOD_EXAMPLE) if asked.before else BEFORE_SHRINKAGE
    data = Data(asked.data, asked.text, 0, asked.limit, asked.seed)
    first, ratio = measured(asked.method, dict(before), data)
    second, other = measured(asked.method, pairs(asked.after, "--after", METHOD_EXAMPLE), data)
    print(f"\n{len(data.edits)} facts, {asked.method}: before {before}, after {asked.after or 'the default'}")
    print(f"{'':30}{'before':>8}{'after':>8}{'change':>9}{'95 %':>17}")
    held = [compared(label, name, first, second) for name, label in MEASURES.items()]
    print(f"{'perplexity':30}{ratio:8.4f}{other:8.4f}{other / ratio:9.4f}")
    if not all(held) or other / ratio > MOST_PERPLEXITY:
        raise SystemExit(f"surely worse by {MOST_WORSE} points, or x{MOST_PERPLEXITY} in perplexity")
    print(f"no measure is surely (95 %) worse by {MOST_WORSE} points, nor perplexity by x{MOST_PERPLEXITY}")


def measured(method: str, options: dict[str, Any], data: Data) -> tuple[list[EditScores], float]:
    """The scores of all facts after the last of them is written, and the perplexity against the base."""
    session = open_method(method, options)
    before, base = session.base_scores(data.edits, None), perplexity_of(session, data)
    for start in range(0, len(data.edits), BATCH):
        write_batch(session, data.edits[start : start + BATCH], cached=True, keep=True)
        print(f"{method} {options}: {start + BATCH} facts", flush=True)
    scores = evaluate(session.loaded.model, session.loaded.tokenizer, data.edits, before=before)
    return scores, perplexity_of(session, data) / base


def compared(label: str, name: str, first: Sequence[EditScores], second: Sequence[EditScores]) -> bool:
    """Print a measure's means in per cent, the mean change and its interval; whether it is not surely worse."""
    found = [(getattr(a, name), getattr(b, name)) for a, b in zip(first, second, strict=True)]
    both = [(100 * a, 100 * b) for a, b in found if a is not None and b is not None]
    changes = [b - a for a, b in both]
    mean = statistics.fmean(changes)
    half = NORMAL_95 * statistics.stdev(changes) / math.sqrt(len(changes))
    means = [statistics.fmean(column) for column in zip(*both, strict=True)]
    print(f"{label:30}{means[0]:8.2f}{means[1]:8.2f}{mean:+9.2f}   [{mean - half:+.2f}, {mean + half:+.2f}]")
    return mean + half >= -MOST_WORSE


if __name__ == "__main__":
    main()
