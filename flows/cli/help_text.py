"""Docstrings as `--help` shows them: prose as wide as the terminal is, examples that can be copied from any width."""

import inspect
import itertools
import re

MARGIN = 2
"""Columns that the help leaves at its sides."""


def flowing(docstring: str, width: int) -> str:
    """A command's docstring for a terminal of so many columns: its own line breaks are those of the source.

    Paragraphs that are indented are examples: one a line, with nothing before and between them.
    """
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    shown = paragraphs[0]
    for before, after in itertools.pairwise(paragraphs):
        is_example = after.startswith(" ")
        shown += "\n" if is_example and before.startswith(" ") else "\n\n"
        shown += _broken(after.strip(), width - MARGIN) if is_example else " ".join(after.split())
    return shown


def _broken(example: str, width: int) -> str:
    """A command on as many lines as it takes, which a shell reads as one: each but the first begins with an option."""
    first, *options = re.split(r" (?=-)", example)
    lines = [first]
    for option in options:
        if len(f"{lines[-1]} {option} \\") > width:
            lines[-1] += " \\"
            lines.append(f"    {option}")
        else:
            lines[-1] += f" {option}"
    return "\n".join(lines)
