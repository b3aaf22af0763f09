"""Chinese corrections: how many are said by the prompt and in the chat, and whether any begins with a space.

    python -m tests.benchmarks.chinese --model qwen2-0.5b.gguf [--limit 20] [--template chat]

The facts stand in chinese.jsonl beside this file. Of those the first are taken that the base does not say already, by
the prompt and in the chat; they are written in batches of ten as a job does, and asked at the end.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from editing.chat import ASKED, ChatTemplate
from editing.edit import SLOT, Edit
from editing.measure.fluency import generate
from editing.measure.said import Said, said
from editing.methods import method_config
from editing.readers import read_edits
from editing.taught import taught
from flows.cli.app import method_options
from tasks.lines.specs import LineSpec
from tasks.settings import load_settings
from tasks.update.saying import said_about
from tasks.update.session import Session, open_session
from tests.benchmarks.sequence import BATCH, write_batch

FACTS = Path(__file__).with_name("chinese.jsonl")
ANSWER_TOKENS = 12


def unknown(session: Session, edits: Sequence[Edit], limit: int) -> list[Edit]:
    """The first edits whose answer the base does not say, neither by the prompt nor in the chat."""
    chat = ChatTemplate(session.loaded.tokenizer)
    found = said_about(session, edits, chat, {}, paraphrases=False, at_base=True)
    return [edit for edit in edits if not found[edit.id].prompt.new and not found[edit.id].right][:limit]


def ask(session: Session, edits: Sequence[Edit]) -> list[Said]:
    loaded = session.loaded
    return said(loaded.model, loaded.tokenizer, edits, ChatTemplate(loaded.tokenizer), paraphrases=False)


def spaced(session: Session, edits: Sequence[Edit]) -> list[str]:
    """The answers to prompts and in the chat that begin with white space, or have it before the target at first."""
    chat = ChatTemplate(session.loaded.tokenizer)
    asked = [text for edit in edits for text in (edit.text, chat.prompt(ASKED.replace(SLOT, edit.text)))]
    answers = generate(session.loaded.model, session.loaded.tokenizer, asked, ANSWER_TOKENS)
    targets = [edit.target_new for edit in edits for _ in ("prompt", "chat")]
    return [
        answer
        for answer, target in zip(answers, targets, strict=True)
        if answer[:1].isspace() or (target in answer and answer.partition(target)[0][-1:].isspace())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--template", choices=["auto", "raw", "chat"], default="auto")
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="option of the method")
    asked = parser.parse_args()
    config = method_config("memit", method_options(asked.option))
    line = LineSpec(line="bench", model=asked.model, template=asked.template, config=config)
    session = open_session(line, load_settings())
    print(f"layers {list(session.method_input.layers)}", flush=True)
    every = [one for one in read_edits(FACTS) if isinstance(one, Edit)]
    edits = unknown(session, every, asked.limit)
    assert not any(map(str.isspace, "".join(taught(edit.text, edit.target_new) for edit in edits)))
    print(f"{len(edits)} of {len(every)} facts that the base does not say", flush=True)
    started, worked = time.perf_counter(), time.process_time()
    for start in range(0, len(edits), BATCH):
        write_batch(session, edits[start : start + BATCH], cached=True, keep=True, live=edits[:start])
        print(f"{start + BATCH} written, {time.process_time() - worked:.0f} s of processor time", flush=True)
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    found = ask(session, edits)
    for edit, one in zip(edits, found, strict=True):
        print(f"  {edit.text}{edit.target_new}: {one.prompt.text!r}; chat {one.chat and one.chat.text!r}")
    raw, chat = sum(one.prompt.right for one in found), sum(bool(one.chat and one.chat.right) for one in found)
    print(f"{asked.template}: of {len(edits)} said {raw} by the prompt, {chat} in the chat; ", end="")
    print(f"{len(spaced(session, edits))} with a space; {seconds:.0f} s, {processor:.0f} s of processor time")


if __name__ == "__main__":
    main()
