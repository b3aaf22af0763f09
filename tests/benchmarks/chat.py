"""Facts asked in the model's chat, by a line of bare prompts and by one of the chat, in one run.

    python -m tests.benchmarks.chat --data counterfact_dev.parquet --text wikitext2_valid.parquet --limit 30

The facts are written in batches of ten and asked at the end: as they were searched, and in ways that no search saw. The
answer counts where it contains the target, `old` where it contains the old one. Two neighborhood prompts of each fact
are asked as sentences to complete, too: of those whose known answer the base says in its first sentence, `kept` is the
share that the edited model says there, and `taken` that of all whose first sentence has the new answer instead.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from editing.chat import ASKED, ChatTemplate
from editing.edit import SLOT, Edit
from editing.measure.answers import judge_answer
from editing.measure.fluency import generate
from editing.measure.metrics import evaluate, summarise
from editing.methods import method_config
from flows.benchmark import read_benchmark
from flows.cli.app import method_options
from tasks.lines.specs import LineSpec, Template
from tasks.parquet import read_text
from tasks.settings import load_settings
from tasks.update.session import Session, open_session
from tests.benchmarks.live import root
from tests.benchmarks.sequence import BATCH, PERPLEXITY_TOKENS, write_batch

WAYS = {
    "as searched": ASKED,
    "in other words": f"Finish the sentence with the right word: {SLOT}",
    "what comes next": f'What comes next? "{SLOT}"',
    "the prompt alone": SLOT,
}
ANSWER_TOKENS = 24
NEIGHBORS = 2
"""Of each fact that are asked in the chat."""


def said(session: Session, edits: Sequence[Edit], way: str) -> tuple[float, float]:
    """The shares of facts whose new answer is in what is said, and whose old one is."""
    chat = ChatTemplate(session.loaded.tokenizer)
    asked = [chat.prompt(WAYS[way].replace(SLOT, edit.text)) for edit in edits]
    answers = generate(session.loaded.model, session.loaded.tokenizer, asked, ANSWER_TOKENS)
    found = [(edit, answer.casefold()) for edit, answer in zip(edits, answers, strict=True)]
    new = sum(edit.target_new.casefold() in answer for edit, answer in found)
    old = sum((edit.target_true or "\0").casefold() in answer for edit, answer in found)
    return new / len(edits), old / len(edits)


def neighbors(session: Session, edits: Sequence[Edit]) -> list[tuple[bool, bool]]:
    """Whether the answer to each neighbor is its known one, and whether it is the edit's new one."""
    chat = ChatTemplate(session.loaded.tokenizer)
    found = [(edit, probe) for edit in edits for probe in edit.neighborhood[:NEIGHBORS] if probe.answer]
    asked = [chat.prompt(ASKED.replace(SLOT, probe.prompt)) for _, probe in found]
    answers = generate(session.loaded.model, session.loaded.tokenizer, asked, ANSWER_TOKENS)
    judged = [
        judge_answer(answer, [str(probe.answer)], edit.answers, where="sentence")
        for (edit, probe), answer in zip(found, answers, strict=True)
    ]
    return [(one.right, one.old) for one in judged]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="perplexity is taken on its beginning")
    parser.add_argument("--limit", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="option of the method")
    parser.add_argument("--only", choices=["raw", "chat"])
    parser.add_argument("--cached", action="store_true", help="values from the cache; the seconds say nothing")
    parser.add_argument("--together", action="store_true", help="all facts in one solve from the base, as a rebase")
    asked = parser.parse_args()
    edits, texts = read_benchmark(asked.data, asked.limit, asked.seed), read_text(asked.text)
    for template in ("raw", "chat") if asked.only is None else (asked.only,):
        config = method_config("memit", method_options(asked.option))
        measure(template, edits, texts, config, asked.cached, together=asked.together)


def measure(
    template: Template, edits: Sequence[Edit], texts: Sequence[str], config: object, cached: bool, *, together: bool
) -> None:
    line = LineSpec(line="bench", model="embedded", template=template, config=config)
    session = open_session(line, load_settings())
    base, before = session.base_perplexity(texts, PERPLEXITY_TOKENS), session.base_scores(edits, None)
    known = neighbors(session, edits)
    started = time.process_time()
    if together:
        root(session, edits)
    else:
        for start in range(0, len(edits), BATCH):
            write_batch(session, edits[start : start + BATCH], cached, keep=True, live=edits[:start])
    seconds = (time.process_time() - started) / len(edits)
    print(f"\n{template}, {len(edits)} facts, {seconds:.2f} s of processor time a fact")
    for way in WAYS:
        new, old = said(session, edits, way)
        print(f"  {way:18} {100 * new:5.1f} % said, old {100 * old:5.1f} %", flush=True)
    now = neighbors(session, edits)
    kept = [after for (right, _), (after, _) in zip(known, now, strict=True) if right]
    taken = sum(new for _, new in now) / max(1, len(now))
    print(f"  neighbors in the chat: kept {100 * sum(kept) / max(1, len(kept)):.1f} % of {len(kept)}", end=", ")
    print(f"taken {100 * taken:.1f} % of {len(now)}", flush=True)
    scores = summarise(evaluate(session.loaded.model, session.loaded.tokenizer, edits, before=before))
    first = summarise(list(before.values()))
    names = ("efficacy_prob", "efficacy_argmax", "generalization_argmax")
    print("  " + ", ".join(f"{name} {100 * scores[name]:.1f}" for name in names), flush=True)
    print(f"  neighborhood {100 * first['locality_prob']:.1f} → {100 * scores['locality_prob']:.1f}", end=", ")
    print(f"kept {100 * scores['locality_kept']:.1f}, ", end="")
    print(f"perplexity x{session.perplexity(texts, PERPLEXITY_TOKENS) / base:.4f}", flush=True)


if __name__ == "__main__":
    main()
