"""Other real models, from nothing to their facts in batches of ten: how well, how long, how much memory.

    python -m tests.benchmarks.models --data counterfact_dev.parquet --text wikitext2_valid.parquet \\
        gemma3-270m.gguf=50 qwen2-05b.gguf=50 qwen25-coder-15b.gguf=20

Each MODEL=FACTS runs in a process of its own, so that its peak of memory is its own. A line of the model is what a new
one would be: by the calibration of its base where there is one (`errata calibrate MODEL` before), else by the rule;
`--rule` asks for the rule. Its facts are written raw, or in the chat as well with `--chat` where the model has one.
Values come from the cache where they are there, and every batch's seconds are kept under --out: the command goes on
where it was stopped.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from editing.chat import chat_of
from editing.files import write_atomically
from editing.measure.metrics import evaluate, summarise
from editing.measure.said import said, summarise_said
from editing.methods import method_config
from flows.benchmark import edit_batch, read_benchmark
from flows.cli.app import method_options
from tasks.lines.specs import LineSpec
from tasks.parquet import read_text
from tasks.settings import load_settings
from tasks.update.session import Session, open_session
from tests.benchmarks.sequence import BATCH

NAMES = ("efficacy_prob", "efficacy_argmax", "generalization_prob", "generalization_argmax", "locality_prob")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL=FACTS")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="perplexity is taken on its beginning")
    parser.add_argument("--perplexity-tokens", type=int, default=4096)
    parser.add_argument("--neighbors", type=int, default=5, help="most neighbors asked of a fact")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--rule", action="store_true", help="whatever a calibration says")
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="option of the method")
    parser.add_argument("--out", type=Path, default=Path(".bench/models"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for one in asked.models:
        model, _, count = one.rpartition("=")
        path = asked.out / f"{Path(model).stem}-{count}{'-chat' * asked.chat}{'-rule' * asked.rule}.json"
        if not path.exists() and len(asked.models) > 1:
            own = [argument for argument in sys.argv[1:] if argument not in asked.models]
            subprocess.run([sys.executable, "-m", "tests.benchmarks.models", *own, one], check=True)
        elif not path.exists():
            write_atomically(path, json.dumps(measure(model, int(count), asked, path), indent=1).encode())
        rows.append((Path(model).stem, json.loads(path.read_text())))
    if len(rows) == len(asked.models):
        print(markdown(rows))


def measure(model: str, count: int, asked: argparse.Namespace, path: Path) -> dict[str, Any]:
    """All of one model."""
    started, used = time.perf_counter(), time.process_time()
    config = method_config("memit", method_options(asked.option))
    line = LineSpec(line="bench", model=model, template="chat" if asked.chat else "raw", config=config)
    session = open_session(line, load_settings(), new=not asked.rule)
    opened = {"seconds": time.perf_counter() - started, "processor": time.process_time() - used}
    edits = read_benchmark(asked.data, count, 0)
    texts = read_text(asked.text)
    before = session.base_scores(edits, asked.neighbors)
    base = session.base_perplexity(texts, asked.perplexity_tokens)
    batches = [
        write(session, edits, start, path.with_name(f"{path.stem}-{start}.json")) for start in range(0, count, BATCH)
    ]
    found = evaluate(
        session.loaded.model, session.loaded.tokenizer, edits, before=before, max_neighborhood=asked.neighbors
    )
    after, first = summarise(found), summarise(list(before.values()))
    chat = chat_of(session.loaded.tokenizer, "auto")
    says = summarise_said(said(session.loaded.model, session.loaded.tokenizer, edits, chat))
    return {
        "model": model,
        "parameters": sum(one.numel() for one in session.loaded.model.parameters()),
        "facts": count,
        "layers": session.method_input.layers,
        "calibrated": session.spec.calibrated,
        "opened": opened,
        "batches": batches,
        "before": first,
        "after": after,
        "said": says,
        "perplexity_ratio": session.perplexity(texts, asked.perplexity_tokens) / base,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20),
    }


def write(session: Session, edits: Any, start: int, path: Path) -> dict[str, float]:
    """A batch, and what it took the first time."""
    batch, started, used = edits[start : start + BATCH], time.perf_counter(), time.process_time()
    _, made = edit_batch(session, batch, edits[:start], session.values)
    session.remember([edit.id for edit in batch], made)
    took = {"seconds": time.perf_counter() - started, "processor": time.process_time() - used}
    if not path.exists():
        write_atomically(path, json.dumps(took).encode())
    known: dict[str, float] = json.loads(path.read_text())
    return known


def markdown(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """A table, a line a model."""
    lines = [
        "| model | facts | layers | efficacy | says it | paraphrases | say it | neighborhood | perplexity | said raw "
        "| in the chat | s of processor: opened, a fact | memory |",
        "|---" * 3 + "|---:" * 10 + "|",
    ]
    for name, one in rows:
        then, now, says = one["before"], one["after"], one["said"]
        pair = {metric: f"{100 * then[metric]:.0f} → {100 * now[metric]:.0f}" for metric in NAMES}
        fact = max(batch["processor"] for batch in one["batches"]) / BATCH  # of others the values may have been cached
        in_chat = f"{100 * says['said_chat']:.0f}" if "said_chat" in says else "no chat"
        lines.append(
            f"| {name} | {one['facts']} | {one['layers'][0]}-{one['layers'][-1]} | "
            + " | ".join(pair[metric] for metric in NAMES)
            + f" | x{one['perplexity_ratio']:.3f} | {100 * says['said_prompt']:.0f} | {in_chat}"
            f" | {one['opened']['processor']:.0f}, {fact:.1f} | {one['peak_gib']:.1f} GiB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
