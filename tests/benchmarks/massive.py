"""Subjects whose hidden state is massive, as single tokens near a text's beginning have it, and what is written there.

    python -m tests.benchmarks.massive --data counterfact_dev.parquet --text wikitext2_valid.parquet --limit 300

Each such fact is searched anew and written alone: how long its subject's hidden state is where others have the middle
one's length, how long δ is, what is said then after the prompt and after its paraphrases, and perplexity.
"""

import argparse
from pathlib import Path

import torch

from editing.measure.fluency import generate
from editing.methods import method_config
from editing.search.values import SINK, ordinary
from flows.benchmark import edit_batch, read_benchmark, searched
from tasks.lines.specs import LineSpec
from tasks.parquet import read_text
from tasks.settings import load_settings
from tasks.update.session import open_session
from tasks.update.values import base_states

ANSWER_TOKENS, TEXT_TOKENS = 6, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="perplexity is taken on its beginning")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--limit", type=int, default=300)
    asked = parser.parse_args()
    line = LineSpec(line="bench", model=asked.model, template="raw", config=method_config("memit", {}))
    session = open_session(line, load_settings())
    edits, texts = read_benchmark(asked.data, asked.limit, 0), read_text(asked.text)
    base, z_base = session.base_perplexity(texts, TEXT_TOKENS), base_states(session, edits)
    massive = (~ordinary(z_base, SINK).all(dim=1)).nonzero().flatten().tolist()
    print(f"{len(massive)} of {len(edits)}; |z| of the middle one {z_base.norm(dim=1).median():.1f}", flush=True)
    for number in massive:
        edit, found = edits[number], dict[str, torch.Tensor]()
        undo, _ = edit_batch(session, [edit], [], searched(session, found=found))
        asked_texts = [edit.text, *edit.paraphrases]
        answers = generate(session.loaded.model, session.loaded.tokenizer, asked_texts, ANSWER_TOKENS)
        said = [answer.strip().startswith(edit.target_new) for answer in answers]
        print(
            f"{edit.subject}: |z| {z_base[number].norm():.1f}, |δ| {(found[edit.id] - z_base[number]).norm():.1f}; "
            f"said after the prompt: {said[0]}, after {sum(said[1:])} of {len(said) - 1} paraphrases; "
            f"perplexity x{session.perplexity(texts, TEXT_TOKENS) / base:.3f}",
            flush=True,
        )
        session.weights.revert(undo)


if __name__ == "__main__":
    main()
