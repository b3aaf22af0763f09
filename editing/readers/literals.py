"""Lists and objects that stand written out in the cells of a table, as JSON or as Python writes them."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping
from typing import Final

from editing.readers.probes import probe_from_text

PLAIN: Final = frozenset(
    {
        "id",
        "case_id",
        "subject",
        "prompt",
        "prompt_template",
        "src",
        "update",
        "question",
        "join",
        "source",
        "requested_by",
        "ticket",
    }
)
"""Columns whose texts may look like lists, and are none."""
_LISTS: Final = frozenset({"paraphrases", "aliases", "tags"})
_PROBES: Final = frozenset({"neighborhood", "portability"})
_BRACKETS: Final = (("[", "]"), ("{", "}"))
_ARRAY: Final = re.compile(r"\barray\((\[[^\[\]]*\])(?:, dtype=[\w.<>='\"]+)?\)")


def from_cells(row: Mapping[str, str]) -> dict[str, object]:
    """A row of texts, in which an empty cell is an absent field, as fields.

    In Errata's own columns lists may be written 'a | b' as well, and probes 'prompt => answer'.
    """
    return {name: _value(name, text) for name, text in row.items() if text and not text.isspace()}


def _value(name: str, text: str) -> object:
    if name in PLAIN:
        return text
    found = written_out(text)
    if found is not None:
        return found
    if name in _LISTS:
        return _parts(text)
    return [probe_from_text(part) for part in _parts(text)] if name in _PROBES else text


def written_out(text: str) -> object | None:
    """The list or object that a text writes out; None where it is a text."""
    text = text.strip()
    if (text[0], text[-1]) not in _BRACKETS:
        return None
    try:
        return json.loads(text)  # type: ignore[no-any-return]
    except (ValueError, RecursionError):
        pass
    for written in (_separated(text), _ARRAY.sub(r"\1", text)):
        try:
            found = ast.literal_eval(written)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
        return found if isinstance(found, (list, dict)) else None
    return None


def _separated(text: str) -> str:
    """With a comma between texts that stand side by side, as numpy writes arrays; Python would make one of them."""
    if not re.search(r"['\"]\s+['\"]", text):
        return text
    try:
        tokens = [one for one in tokenize.generate_tokens(io.StringIO(text).readline) if one.type != tokenize.NL]
    except (tokenize.TokenError, SyntaxError):
        return text
    parts = []
    for token, following in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        beside = token.type == tokenize.STRING == following.type and token is not following
        parts.append(f"{token.string}," if beside else token.string)
    return "".join(parts)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split("|") if part.strip()]
