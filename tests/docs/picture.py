"""The picture of the README: questions, and what the models answered before the corrections and after them.

    python -m tests.docs.picture [--home .demo --line demo] ["The capital of Australia is" ...]

Without a home it corrects the facts of picture.jsonl in one that is new: some minutes. It asks by `errata ask --json`
and draws what came back. An answer that stays is one to a question about something else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from tests.docs.pages import ROOT

OUT = ROOT / "docs/images/before-after.svg"
FACTS = Path(__file__).with_name("picture.jsonl")
QUESTIONS = (
    "The capital of Australia is",
    "The capital city of Australia is",
    "The capital of Turkey is",
    "The capital of Nigeria is",
    "The capital of New Zealand is",
    "The capital of Canada is",
    "The capital of France is",
)
COLUMNS = ((24, "question"), (400, "before"), (590, "after"))
WIDTH, TOP, ROW = 800, 74, 40
WORDS = 24
"""Most characters of an answer that are shown."""
STYLE = """text{font-family:Helvetica,Arial,sans-serif;font-size:17px;fill:#1f2937}.h{font-size:14px;fill:#5b6675}
.was{fill:#b42318}.is{fill:#1a7f37;font-weight:bold}.kept{fill:#5b6675}.line{stroke:#e2e7ee}"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.docs.picture", description="Draw what a line answers.")
    parser.add_argument("questions", nargs="*", default=QUESTIONS)
    parser.add_argument("--home", type=Path, help="home with a version in service or waiting; a new one without it")
    parser.add_argument("--line", default="main")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="errata-picture-") as new:
        home = asked.home or Path(new)
        if asked.home is None:
            errata(home, "submit", str(FACTS), "--line", asked.line)
            errata(home, "run", asked.line)
        rows = answers(home, asked.line, asked.questions, asked.tokens)
    asked.out.write_text(drawn(rows), encoding="utf-8")
    for row in rows:
        print(" | ".join(row))


def errata(home: Path, *arguments: str) -> str:
    """What the command prints; its progress goes where ours goes."""
    ran = subprocess.run(
        [sys.executable, "-c", "from flows.cli.__main__ import run; run()", *arguments],
        env=os.environ | {"ERRATA_HOME": str(home.resolve())},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return ran.stdout


def answers(home: Path, line: str, questions: Sequence[str], tokens: int) -> list[tuple[str, str, str]]:
    """Each question with the first sentence of the base's answer and of the newest version's."""
    found = []
    for row in json.loads(errata(home, "ask", *questions, "--line", line, "--tokens", str(tokens), "--json")):
        said = [first_sentence(answer) for answer in row["answers"].values()]
        found.append((row["prompt"], said[0], said[-1]))
    return found


def first_sentence(answer: str) -> str:
    """The beginning of an answer, up to its first stop."""
    line = answer.strip().splitlines()[0] if answer.strip() else "…"
    head = line.partition(". ")[0].rstrip(". ")
    return head if len(head) <= WORDS else head[: WORDS - 1].rpartition(" ")[0] + " …"


def drawn(rows: list[tuple[str, str, str]]) -> str:
    """The rows as an SVG that reads on white and on dark pages."""
    height = TOP + ROW * len(rows) - 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-label="Questions, answers before the corrections, and answers after">',
        f"<style>{STYLE}</style>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="10" fill="#ffffff" stroke="#c9d1dc"/>',
        *(text(x, 40, title, "h") for x, title in COLUMNS),
    ]
    for number, (question, before, after) in enumerate(rows):
        y = TOP + ROW * number
        changed = before != after
        parts.append(f'<line class="line" x1="20" x2="{WIDTH - 20}" y1="{y - 18}" y2="{y - 18}"/>')
        kinds = ("", "was" if changed else "kept", "is" if changed else "kept")
        words = zip(COLUMNS, (f"{question} …", before, after), kinds, strict=True)
        parts += [text(x, y + 8, word, kind) for (x, _), word, kind in words]
    return "\n".join([*parts, "</svg>\n"])


def text(x: int, y: int, words: str, kind: str) -> str:
    """A piece of text; `kind` is its class."""
    kept = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{kept}>{escape(words)}</text>'


if __name__ == "__main__":
    main()
