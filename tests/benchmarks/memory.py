"""The memory of a job's stages, foretold from the model's configuration and measured; and a table of larger models.

    python -m tests.benchmarks.memory --model embedded --data counterfact_dev.parquet [--edits 10]
    python -m tests.benchmarks.memory --table

Measured is the most that the process held in each stage, by the system's own account (Linux).
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig

from editing.memory import Shape, bytes_a_fact, peak, shape_of, stages
from editing.methods import compute_update, layers_of
from editing.methods.memit import MemitConfig
from editing.products import wants_bfloat16
from flows.benchmark import read_benchmark
from tasks.lines.specs import LineSpec
from tasks.settings import load_settings
from tasks.update.session import open_session
from tests.held import most_held

LARGER = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "30B": {"hidden_size": 6656, "intermediate_size": 17920, "num_hidden_layers": 60, "num_attention_heads": 52},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
"""Of Llama's shape, with eight heads of keys (30B: as many as of queries) and a vocabulary of 128,256."""


def measure(model: str, data: Path, count: int) -> None:
    method = MemitConfig()
    most_held()
    session = open_session(LineSpec(line="bench", model=model, config=method), load_settings())
    held = {"key statistics": most_held()}
    edits = read_benchmark(data, count, 0)
    z_star = session.search(edits)
    held["search of values"] = most_held()
    made = compute_update(session.method_input, edits, z_star, session.config)
    held["solve"] = most_held()
    session.weights.apply(made.update)
    before = session.weights.apply(made.update)  # as a second batch, which may be taken back
    held["weights as written"] = most_held()
    session.weights.revert(before)
    shape = shape_of(session.loaded.model.config, session.method_input.layers)
    narrow = wants_bfloat16(method.search.products, torch.float32, torch.device("cpu"))
    standing = 0
    for part in stages(shape, 4, method, narrow=narrow):
        if part.name in held:
            told, found = standing + part.bytes, held[part.name]
            print(f"{part.name:20} foretold {told / 2**20:7,.0f} MiB, measured {found / 2**20:7,.0f}", flush=True)
        standing += part.stands
    told, found = peak(stages(shape, 4, method, narrow=narrow)) / 2**20, max(held.values()) / 2**20
    print(f"{'most at once':20} foretold {told:7,.0f} MiB, measured {found:7,.0f}: {told / found - 1:+.0%}")


def larger(name: str) -> Shape:
    heads = 52 if name == "30B" else 8
    config = AutoConfig.for_model("llama", **LARGER[name], num_key_value_heads=heads, vocab_size=128_256)
    return shape_of(config, layers_of(MemitConfig(), config))


def table() -> None:
    """Rows of Markdown: each model in bfloat16, as the docs show them; GiB."""
    method = MemitConfig()
    print("| model | weights | key statistics | search | solve | as written | most at once | MiB a fact |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in LARGER:
        shape = larger(name)
        parts = list(stages(shape, 2, method))
        cells = [f"{one.bytes / 2**30:.1f}" for one in parts[1:]] + [f"{peak(parts) / 2**30:.1f}"]
        print(f"| {name} | {' | '.join(cells)} | {bytes_a_fact(shape) / 2**20:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--table", action="store_true", help="of larger models, foretold alone")
    asked = parser.parse_args()
    if asked.table:
        table()
    else:
        measure(asked.model, asked.data, asked.edits)


if __name__ == "__main__":
    main()
