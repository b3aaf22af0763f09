"""Every method on the same facts: 1, 10, 50 and 100 edits in sequence, in batches of ten, all asked again each time.

    python -m tests.benchmarks.quality --data counterfact_dev.parquet --text wikitext2_valid.parquet

Key statistics are of text that the model samples itself; in one row they are of the text given, behind the part that
perplexity is taken on. Each method's result is kept under --out as soon as it is there; the command goes on where it
was stopped.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path(".bench/quality"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    data, table = Data(asked.data, asked.text, 0, POINTS[-1]), []
    for name in asked.methods:
        path = asked.out / f"{name}.json"
        if not path.exists():
            session = open_method(*METHODS[name], data.further_texts if name == REAL_TEXT else None)
            points = []
            for point in follow(session, data, POINTS, cached=False):
                print(name, asdict(point), flush=True)
                points.append(asdict(point))
            about = {"config": session.config.model_dump(mode="json"), "layers": session.method_input.layers}
            write_atomically(path, json.dumps(about | {"points": points}, indent=1).encode())
        table += [(name, Point(**point)) for point in json.loads(path.read_text())["points"]]
    print(markdown(table))


if __name__ == "__main__":
    main()
