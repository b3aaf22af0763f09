"""Lists and objects that stand written out in the cells of a table, as JSON or as Python writes them."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping
from typing import Final

from editing.edit import InvalidField, shown
from editing.readers.forms import COMMON, FORMS
from editing.readers.probes import probe_from_text
from editing.readers.values import Written

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
_BEGUN: Final = re.compile(r"\s*(\[\s*['\"{\[]|\{\s*['\"])")
_CALLED: Final = re.compile(r"array\(|\(\s*['\"]")
"""How an array, or a list in round brackets, begins; a text in round brackets does not."""
_NAMES: Final = {"nan": None, "NaN": None, "NaT": None, "null": None, "true": True, "false": False}
_CALLS: Final = frozenset({"array", "str_", "int64", "int32", "float64", "float32", "bool_", "Decimal"})
"""What numpy and Python write around a value."""
_MISSING: Final = frozenset({"nan", "NaN", "NaT", "<NA>"})
_NONE: Final = frozenset({"None", "null", "NULL"})
"""How programs write that there is nothing. A new answer may well be None."""
_JSON: Final = json.JSONDecoder(parse_float=Written)
_HOLDING: Final = frozenset({"requested_rewrite", "questions", "new_answer_alias", "new_single_hops"})
"""Fields in which others stand."""
_TARGETS: Final = frozenset(
    name for form in FORMS for name in (*form.names.get("target_new", ()), *COMMON["target_new"])
)


def from_cells(row: Mapping[str, str]) -> dict[str, object]:
    """A row of texts, in which an empty cell, or what programs write into one, is an absent field, as fields.

    In Errata's own columns lists may be written 'a | b' as well, and probes 'prompt => answer'.

    Raises:
        InvalidField: a cell begins as a list or an object, and is none.
    """
    return {name: _value(name, text) for name, text in row.items() if text and not _is_nothing(name, text.strip())}


def _is_nothing(name: str, text: str) -> bool:
    if not text:
        return name != "join"  # of which white space says something
    return text in _MISSING or (text in _NONE and name not in _TARGETS)


def _value(name: str, text: str) -> object:
    if name in PLAIN:
        return text
    found = written_out(text)
    if found is not None:
        return found
    if _BEGUN.match(text):
        raise InvalidField(f"column '{name}' begins to write out a list, and is none: {shown(text)}; check it", name)
    if name in _LISTS:
        return _parts(text)
    return [probe_from_text(part) for part in _parts(text)] if name in _PROBES else text


def not_written_out(fields: Mapping[str, object]) -> Mapping[str, object]:
    """The same, in which what holds others is no text: whoever makes another file of a table keeps its cells."""
    if _HOLDING.isdisjoint(fields):
        return fields
    return {name: _list_or_text(value) if name in _HOLDING else value for name, value in fields.items()}


def _list_or_text(value: object) -> object:
    return value if not isinstance(value, str) or (found := written_out(value)) is None else found


def written_out(text: str) -> object | None:
    """The list or object that a text writes out; None where it is a text."""
    text = text.strip()
    if not text or ((text[0], text[-1]) not in _BRACKETS and not (text[-1] == ")" and _CALLED.match(text))):
        return None
    try:
        return _JSON.decode(text)  # type: ignore[no-any-return]
    except (ValueError, RecursionError):
        pass
    try:
        found = ast.literal_eval(_Plain().visit(ast.parse(_separated(text), mode="eval")))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return list(found) if isinstance(found, tuple) else found if isinstance(found, (list, dict)) else None


class _Plain(ast.NodeTransformer):
    """Nothing but values, of what programs write out: np.str_('a') is a text, nan is nothing."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Constant(_NAMES[node.id]), node) if node.id in _NAMES else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        return self.visit(node.args[0]) if name in _CALLS and len(node.args) == 1 else node


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
