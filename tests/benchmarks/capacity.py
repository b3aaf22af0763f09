"""The room of a line as it was foretold at a third of the way, against where its policy was in truth breached.

    python -m tests.benchmarks.capacity --edits 300

Lines of different configurations on the small model of tests/fact_model.py, in batches of ten, perplexity on text that
it never saw. With `--data` they are on the embedded model, values from the cache.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from editing.edit import Edit
from editing.methods import method_config
from flows.benchmark import read_benchmark
from tasks.lines.specs import LineSpec
from tasks.parquet import read_text
from tasks.settings import load_settings
from tasks.update.capacity import room
from tasks.update.session import Session, open_session
from tests.benchmarks.sequence import BATCH, open_method, write_batch
from tests.fact_model import FACT_TEXT, fact_edits, fact_model

SMALL = {
    "layers": [0, 1],
    "contexts": 2,
    "statistics_tokens": 4096,
    "search": {"clamp": 4.0, "steps": 40, "weight_decay": 0.0, "kl_weight": 0.0},
}
LINES: dict[str, dict[str, object]] = {
    "light general text": {"statistics_weight": 100.0},
    "heavy general text": {"statistics_weight": 1000.0},
    "no history": {"statistics_weight": 100.0, "history": False},
}
TEXT_TOKENS = 2048


def follow(name: str, session: Session, edits: Sequence[Edit], texts: Sequence[str], limits: Sequence[float]) -> None:
    """Write until the highest limit is breached, or there are no more facts; a row a limit."""
    base, points = session.base_perplexity(texts, TEXT_TOKENS), list[tuple[int, float]]()
    for start in range(0, len(edits), BATCH):
        write_batch(session, edits[start : start + BATCH], cached=True, keep=True, live=edits[:start])
        points.append((min(start + BATCH, len(edits)), session.perplexity(texts, TEXT_TOKENS) / base))
        if points[-1][1] > max(limits):
            break
    for limit in limits:
        full = next((count for count, ratio in points if ratio > limit), None)
        if full is None:
            print(f"{name}: {points[-1][0]} facts reach x{points[-1][1]:.3f}, not {limit:g}", flush=True)
            continue
        seen = [(count, ratio) for count, ratio in points if count <= full / 3]
        found = room(seen, limit)
        told = "nothing is foretold" if not found else f"{seen[-1][0] + found['room']} foretold, {found['by']}"
        print(f"{name}, limit {limit:g}: breached at {full} facts; at {seen[-1][0] if seen else 0} {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.capacity", description="Room foretold.")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--limits", type=float, nargs="+", default=[1.1, 1.3])
    asked = parser.parse_args()
    settings = load_settings()
    for name, options in LINES.items():
        if asked.data is not None:
            session, edits = open_method("memit", options), read_benchmark(asked.data, asked.edits, 0)
            texts = read_text(asked.text)
        else:
            model = str(fact_model())
            session = open_session(
                LineSpec(line="bench", model=model, config=method_config("memit", SMALL | options)), settings
            )
            edits, texts = fact_edits(asked.edits), FACT_TEXT
        follow(name, session, edits, texts, asked.limits)


if __name__ == "__main__":
    main()
