"""Text from outside as the text of a Markdown page: models and users write what they like, and none of it is markup.

Every character that Markdown, HTML or a link could be made of is written as a numeric reference, which each renderer
shows as the character and none takes for markup.
"""

import re
from collections.abc import Iterable, Sequence

from tasks.text import visible

MARKUP = frozenset("&<>|*_`[](){}!#~$\\\"'@:^=+")


def literal(text: str, most: int | None = None) -> str:
    """A string from outside as nothing but text on one line, shortened to `most` characters where that is given."""
    flat = " ".join(visible(text).split())
    flat = flat if most is None or len(flat) <= most else flat[: most - 1].rstrip() + "…"
    written = "".join(f"&#{ord(char)};" if char in MARKUP else char for char in flat)
    return re.sub(r"(?i)\b(www)\.", r"\1&#46;", written)  # a link by itself


def row(cells: Iterable[str]) -> str:
    """A line of a table; each cell is Markdown already."""
    return "| " + " | ".join(cells) + " |"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table of texts from outside; none where there are no rows."""
    lines = [row(literal(str(value)) for value in one) for one in rows]
    return [row(columns), row("---" for _ in columns), *lines] if lines else []
