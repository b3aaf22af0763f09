"""Answers of several tokens, written by a line of the chat and asked after the prompt and in the chat.

    python -m tests.benchmarks.long_answers --data ripple_wiki_recent_dev.parquet [--limit 20]

They are every third of those among a hundred records of the file. Batches are of ten, and all are asked at the end.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from editing.edit import Edit
from editing.measure.answer_kinds import answer_kind
from editing.measure.said import others_of_its_kind, said, summarise_said
from editing.methods import method_config
from editing.readers import read_all
from flows.benchmark import read_benchmark
from flows.cli.app import method_options
from tasks.lines.specs import LineSpec
from tasks.parquet import FOREIGN
from tasks.settings import load_settings
from tasks.update.session import Session, open_session
from tests.benchmarks.sequence import BATCH, write_batch

RECORDS, EVERY = 100, 3


def long_answers(session: Session, data: Path, limit: int, seed: int) -> list[Edit]:
    """In the order of the file."""
    chosen = {edit.id for edit in read_benchmark(data, RECORDS, seed)}
    edits = [edit for edit in read_all(data, foreign=FOREIGN) if edit.id in chosen]
    return [edit for edit in edits if answer_kind(session.loaded.tokenizer, edit) != "single"][::EVERY][:limit]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="option of the method")
    parser.add_argument("--cached", action="store_true", help="values from the cache; the seconds say nothing")
    asked = parser.parse_args()
    config = method_config("memit", method_options(asked.option))
    session = open_session(LineSpec(line="bench", model="embedded", template="chat", config=config), load_settings())
    edits = long_answers(session, asked.data, asked.limit, asked.seed)
    started = time.process_time()
    for start in range(0, len(edits), BATCH):
        write_batch(session, edits[start : start + BATCH], asked.cached, keep=True, live=edits[:start])
    seconds = (time.process_time() - started) / len(edits)
    show(session, edits, seconds)


def show(session: Session, edits: Sequence[Edit], seconds: float) -> None:
    model, tokenizer, others = session.loaded.model, session.loaded.tokenizer, others_of_its_kind(edits)
    found = said(model, tokenizer, edits, session.method_input.chat, others=others, paraphrases=False)
    for edit, one in zip(edits, found, strict=True):
        print(f"{edit.target_new!r}: {one.prompt.right} {one.prompt.text!r}, in the chat", end=" ")
        print(f"{one.chat.right} {one.chat.text!r}" if one.chat else "not asked")
    shares = {name: f"{100 * share:.0f}" for name, share in summarise_said(found).items()}
    print(f"{len(edits)} facts, {seconds:.1f} s of processor time a fact:", shares)


if __name__ == "__main__":
    main()
