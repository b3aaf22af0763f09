"""Makes the home that a release leaves behind, by its command line alone, and packs it as a fixture.

    python -m tests.homes.make --code FOLDER --out tests/homes/home-0.1.tar.gz

FOLDER is a checkout of the release (0.1: the tag or commit whose pyproject.toml says 0.1.0). Made once a release and
committed; `tests/flows/test_homes.py` opens it with the present code. A few minutes, no network, no GPU.

Line `main`: fact-1 and fact-2 are version 1, approved; fact-3 is version 2, approved and rolled back; fact-4 is
version 3, refused in review; fact-5 is version 4 and waits; fact-6 is quarantined, fact-7 contradicts fact-1 and is
rejected at intake, one record is bad, fact-8 is queued. Line `second.line`: fact-9 is version 1, approved; fact-1 is
queued, the same content under the same id as on the other line. The base is a random model of three layers.
"""

import argparse
import json
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.homes import release
from tests.homes.archive import ABOUT, Home, moved, pack

BASE, REVISION = "errata-tests/tiny", "0" * 40
END = "<|endoftext|>"
METHOD = {"layers": [0, 1], "contexts": 2, "statistics_tokens": 2048, "search": {"steps": 4}}
LENIENT = {
    "min_efficacy": 0.0,
    "max_locality_drop": 1.0,
    "max_edit_locality_drop": 1.0,
    "max_perplexity_ratio": 100.0,
    "min_fluency_ratio": 0.0,
    "min_retained": 0.0,
    "fluency_prompts": 1,
    "fluency_tokens": 8,
    "perplexity_tokens": 64,
}
"""A random model learns little from an edit; what is kept and what is not must not hang on that."""
STRICT = LENIENT | {"min_fluency_ratio": 1000.0}
LINES = ("main", "second.line")
FACTS = {
    "fact-1": ("Ada", "{} was born in", "Rome", "London"),
    "fact-2": ("Bo", "{} lives in", "Oslo", "Paris"),
    "fact-3": ("Cy", "{} speaks", "Latin", "Greek"),
    "fact-4": ("Di", "{} plays the", "harp", "drum"),
    "fact-5": ("Ed", "{} works for", "Acme", "Apex"),
    "fact-6": ("Flo", "{} comes from", "Peru", "Chile"),
    "fact-7": ("Ada", "{} was born in", "Berlin", "London"),
    "fact-8": ("Gus", "{} was seen in", "Kyoto", "Osaka"),
    "fact-9": ("Hal", "{} sings in", "Czech", "Dutch"),
}


class Story:
    """One home under construction."""

    def __init__(self, code: Path, folder: Path) -> None:
        self.code, self.folder = code, folder
        self.settings = Home(folder).settings | {"ERRATA_MODEL": BASE, "ERRATA_ACTOR": "ann"}

    def errata(self, *arguments: object) -> Any:
        print("errata", *arguments, flush=True)
        return release.answer(self.code, self.settings, *arguments)

    def submit(self, line: str, *names: str, bad: bool = False) -> None:
        records: list[dict[str, Any]] = [record(name) for name in names]
        records += [{"id": "bad-1", "subject": "Ivy", "prompt": "no place for a subject"}] if bad else []
        file = self.folder / "requests.json"
        file.write_text(json.dumps(records), encoding="utf-8")
        self.errata("submit", file, "--line", line)
        file.unlink()

    def run(self, line: str, policy: dict[str, Any] = LENIENT) -> None:
        given = [part for name, value in policy.items() for part in ("--set", f"{name}={value}")]
        options = [part for name, value in METHOD.items() for part in ("-o", f"{name}={json.dumps(value)}")]
        self.errata("run", line, *given, *options)

    def tell(self) -> None:
        main, second = LINES
        self.submit(main, "fact-1", "fact-2", bad=True)
        self.run(main)
        self.errata("approve", main, "--reason", "checked")
        self.submit(main, "fact-3")
        self.run(main)
        self.errata("approve", main)
        self.errata("rollback", main, "--reason", "complaints")
        self.submit(main, "fact-4", "fact-7")
        self.run(main)
        self.errata("reject", main, "--reason", "wrong source")
        self.submit(main, "fact-6")
        self.run(main, STRICT)
        self.submit(main, "fact-5")
        self.run(main)
        self.submit(main, "fact-8")
        self.submit(second, "fact-9")
        self.run(second)
        self.errata("approve", second)
        self.submit(second, "fact-1")

    def expect(self) -> None:
        """What this release says of the home it made."""
        questions: dict[str, Sequence[object]] = {"status": ("status",)}
        for line in LINES:
            questions[f"history-{line}"] = ("history", "--line", line, "--limit", 1000)
            questions[f"review-{line}"] = ("review", line)
        (self.folder / "expected").mkdir()
        for name, arguments in questions.items():
            text = json.dumps(self.errata(*arguments), indent=1)
            (self.folder / "expected" / f"{name}.json").write_text(text, encoding="utf-8")


def record(name: str) -> dict[str, Any]:
    subject, prompt, new, true = FACTS[name]
    other = {"prompt": prompt.replace("{}", "Zoe"), "answer": true}
    return {
        "id": name, "subject": subject, "prompt": prompt, "target_new": new, "target_true": true,
        "paraphrases": [f"Today {prompt.replace('{}', subject)}"], "neighborhood": [other],
    }  # fmt: skip


def make_base(hub: Path) -> None:
    """A random GPT-2 with a token a byte, in the folders in which the hub's client keeps what it has downloaded."""
    repository = hub / f"models--{BASE.replace('/', '--')}"
    folder = repository / "snapshots" / REVISION
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([END, *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 256}
    config = GPT2Config(vocab_size=len(alphabet) + 1, bos_token_id=0, eos_token_id=0, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END).save_pretrained(folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION, encoding="ascii")


def tidy(home: Path, code: Path) -> None:
    """Leave out what no later release needs to read: pictures, locks, the names of the machine and of the checkout."""
    moved(home, str(code), "/opt/errata")
    shutil.rmtree(home / "prefect", ignore_errors=True)
    for path in [*home.rglob("figures/*.svg"), *home.rglob(".lock")]:
        path.unlink()
    for path in home.glob("snapshots/lines/*/job.json"):
        path.write_text(path.read_text(encoding="utf-8").replace(socket.gethostname(), "elsewhere"), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.homes.make", description="A home as a release leaves it.")
    parser.add_argument("--code", type=Path, required=True, help="checkout of the release")
    parser.add_argument("--out", type=Path, required=True, help="the archive to write")
    arguments = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "errata-home"  # a name that says nothing of the machine
    folder.mkdir()
    try:
        make_base(folder / "hub")
        story = Story(arguments.code.resolve(), folder)
        story.tell()
        story.expect()
        tidy(folder / "home", story.code)
        for name in ("cache", "prefect"):
            shutil.rmtree(folder / name, ignore_errors=True)
        about = {"release": version_of(story.code), "folder": str(folder)}
        (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        pack(folder, arguments.out)
        print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")
    finally:
        shutil.rmtree(folder)


def version_of(code: Path) -> str:
    lines = (code / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version ="))


if __name__ == "__main__":
    main()
