"""Text from outside as the text of a Markdown page: models and users write what they like, and none of it is markup."""

import re
from collections.abc import Iterable, Sequence

from tasks.text import visible


def cell(text: str) -> str:
    """A string from outside as the text of one Markdown cell: no markup of it survives."""
    flat = " ".join(visible(text).split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]#!|~$])", r"\\\1", flat)


def row(cells: Iterable[str]) -> str:
    """A line of a table; each cell is Markdown already."""
    return "| " + " | ".join(cells) + " |"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table of texts from outside; none where there are no rows."""
    lines = [row(cell(str(value)) for value in one) for one in rows]
    return [row(columns), row("---" for _ in columns), *lines] if lines else []
