"""What facts in sequence cost of general ability: questions asked before and after, and the divergence from the base.

    python -m tests.benchmarks.ability --data counterfact_dev.parquet --text wikitext2_valid.parquet --limit 100 \
        --ability ability_lambada_openai_dev.parquet --ability ability_piqa_dev.parquet

Values and what the base answers come from the cache where they are there, so a run that was stopped goes on.
"""

import argparse
import json
from pathlib import Path

from editing.methods import method_config
from flows.benchmark import read_benchmark
from flows.benchmark_ability import measure_ability, read_sets
from flows.cli.app import method_options
from flows.cli.benchmark_tables import show_ability
from flows.cli.console import shown_progress
from tasks.lines.specs import LineSpec
from tasks.parquet import read_text
from tasks.settings import load_settings
from tasks.update.session import open_session
from tests.benchmarks.sequence import BATCH, PERPLEXITY_TOKENS, write_batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="perplexity and divergence are taken on its beginning")
    parser.add_argument("--ability", type=Path, action="append", required=True, help="a file of questions; repeatable")
    parser.add_argument("--ability-limit", type=int, default=500, help="questions of each file")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="memit")
    parser.add_argument("--template", choices=["raw", "chat"], default="raw")
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="option of the method")
    parser.add_argument("--perplexity", action="store_true", help="take it, too")
    asked = parser.parse_args()
    sets = read_sets(asked.ability, "sequential", asked.ability_limit, asked.seed)
    edits, texts = read_benchmark(asked.data, asked.limit, asked.seed), read_text(asked.text)
    config = method_config(asked.method, method_options(asked.option))
    line = LineSpec(line="bench", model="embedded", template=asked.template, config=config)
    with shown_progress(False):
        session = open_session(line, load_settings())
        for start in range(0, len(edits), BATCH):
            write_batch(session, edits[start : start + BATCH], cached=True, keep=True)
        found = measure_ability(session, sets, texts)
    print(json.dumps(found))
    show_ability(found["ability"], found["kl"])
    if asked.perplexity:
        ratio = session.perplexity(texts, PERPLEXITY_TOKENS) / session.base_perplexity(texts, PERPLEXITY_TOKENS)
        print(f"perplexity x{ratio:.4f}")


if __name__ == "__main__":
    main()
