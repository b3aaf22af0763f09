"""The pages and what is in them: blocks of code with their marks, code in a line, links and the anchors they lead to.

A block of shell or Python stands behind a comment, which no reader sees, that says what becomes of it:

    <!-- run -->            run by the tests, page by page, in one home
    <!-- long -->           run by `python -m tests.docs`, with those of the first kind, in the page's order
    <!-- hours: what it needs -->   run by `python -m tests.docs --hours`
    <!-- shown: why -->     parsed, and not run
"""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("README*.md"), ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
MARKS = ("run", "long", "hours", "shown")
MARKED = ("bash", "python")
"""Languages of blocks that somebody could run."""

_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<mark>\w+)(?:: (?P<why>[^>]+))? -->\n *)?```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<title>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    """One of MARKS, or empty."""
    why: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in its order."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(
            page,
            line,
            found["language"],
            textwrap.dedent(found["text"]),
            found["mark"] or "",
            (found["why"] or "").strip(),
        )


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks(page)]


def prose(page: Path) -> str:
    """The page without its blocks and comments."""
    return re.sub(r"<!--.*?-->", "", _BLOCK.sub("", page.read_text()), flags=re.DOTALL)


def inline_code(page: Path) -> list[str]:
    """What stands in backticks within the text, each on one line."""
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose(page))]


def rows(page: Path) -> list[tuple[list[str], list[str]]]:
    """Of each row of a table what stands in backticks, in order, and where its links lead: the same in any language."""
    found = (line for line in prose(page).splitlines() if line.startswith("|"))
    return [(re.findall(r"`([^`]+)`", line), [link["target"] for link in _LINK.finditer(line)]) for line in found]


def links(page: Path) -> list[str]:
    """The targets of links and pictures."""
    return [found["target"] for found in _LINK.finditer(re.sub(r"`[^`]+`", "", prose(page)))]


def anchors(page: Path) -> set[str]:
    """What headings can be linked to by, as GitHub and mkdocs make it."""
    return {_slug(found["title"]) for found in _HEADING.finditer(_BLOCK.sub("", page.read_text()))}


def _slug(title: str) -> str:
    plain = re.sub(r"[^\w\- ]", "", title.strip().lower())
    return plain.replace(" ", "-")
