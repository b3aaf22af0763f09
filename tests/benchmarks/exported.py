"""Whether an exported folder says what the version says: its facts and other prompts, in any transformers, and by PEFT.

    python -m tests.benchmarks.exported LINE [--version champion] [--merged FOLDER] [--adapter FOLDER --base FOLDER]
        [--python PYTHON ...]

The version is loaded as Errata loads it. The folders are read in processes that import nothing of Errata, by the
interpreter of this environment or by those of others, into which `pip install torch 'transformers<5' peft` has gone.
Everything is greedy, prompt by prompt, as text to go on from and in the model's chat.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OTHERS = 50
REQUESTS = Path(__file__).parents[2] / "deployments/demo/requests.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.exported")
    parser.add_argument("line")
    parser.add_argument("--version", default="champion")
    parser.add_argument("--merged", type=Path)
    parser.add_argument("--adapter", type=Path, help="with --base: the plain folder that it is put on")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters that read the folders")
    parser.add_argument("--tokens", type=int, default=16, help="of each text")
    given = parser.parse_args()
    prompts, version = of_version(given.line, given.version, given.tokens)
    facts = len(prompts) - OTHERS
    print(f"{facts} facts and {OTHERS} other prompts, each as text and in the chat, {given.tokens} tokens", flush=True)
    asked = [("merged", given.merged, None)] if given.merged else []
    asked += [("adapter, by PEFT", given.base, given.adapter)] if given.adapter else []
    for name, folder, adapter in asked:
        for python in given.python:
            found, release = in_a_process(python, folder, adapter, prompts, given.tokens)
            same = [one == other for one, other in zip(found, version, strict=True)]
            print(f"{name}, transformers {release}: {sum(same)} of {len(same)} texts are the version's own", flush=True)


def of_version(line: str, version: str, tokens: int) -> tuple[list[str], list[str]]:
    """The prompts, those of its facts first, and what the version writes."""
    from editing.edit import Edit
    from editing.readers import read_edits
    from tasks.carrying.chosen import choose, facts_of, opened
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    chosen = choose(workplace, line, version)
    loaded = opened(workplace, chosen).loaded
    facts = [str(edit.text) for edit in facts_of(workplace, chosen).values()]
    edits = [one for one in read_edits(REQUESTS) if isinstance(one, Edit)]
    others = [str(text) for one in edits for text in (*(p.prompt for p in one.neighborhood), *one.paraphrases)]
    prompts = [*facts, *[text for text in dict.fromkeys(others) if text not in facts][:OTHERS]]
    return prompts, written(loaded.model, loaded.tokenizer, prompts, tokens)


def in_a_process(
    python: str, folder: Path, adapter: Path | None, prompts: Sequence[str], tokens: int
) -> tuple[list[str], str]:
    """What the folder writes, and by which release."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(list(prompts), file)
        file.flush()
        read = ["--read", str(folder.resolve()), str(adapter.resolve()) if adapter else "", file.name, str(tokens)]
        command = [python, "-P", __file__, *read]  # beside it lies a module called statistics
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tempfile.gettempdir())
    if ran.returncode:
        sys.exit(f"{folder} is not read: {ran.stderr.strip()[-500:]}")
    said = json.loads(ran.stdout.splitlines()[-1])
    return said["texts"], said["release"]


def read(folder: str, adapter: str, prompts: str, tokens: str) -> None:
    """In that process."""
    import torch
    import transformers

    named: dict[str, Any] = {"dtype" if transformers.__version__ >= "5" else "torch_dtype": torch.float32}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **named)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = written(model.eval(), tokenizer, json.loads(Path(prompts).read_text()), int(tokens))
    print(json.dumps({"texts": texts, "release": transformers.__version__}))


def written(model: Any, tokenizer: Any, prompts: Sequence[str], tokens: int) -> list[str]:
    """What `generate` of transformers writes after each prompt, as text and in the chat."""
    found = []
    for prompt in prompts:
        for text, special in ((prompt, True), (in_chat(tokenizer, prompt), False)):
            given = tokenizer(text, return_tensors="pt", add_special_tokens=special)
            ids = model.generate(
                **given, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id
            )[0]  # fmt: skip
            found.append(text + tokenizer.decode(ids[given["input_ids"].shape[1] :]))
    return found


def in_chat(tokenizer: Any, prompt: str) -> str:
    said = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))


if __name__ == "__main__":
    read(*sys.argv[2:]) if sys.argv[1:2] == ["--read"] else main()
