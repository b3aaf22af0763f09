"""Values out of records of any form, or one line that says what is wrong with them."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

from editing.edit import InvalidField, shown
from editing.texts import kind_of

Fields = Mapping[str, object]
# Sets that do not know an answer write a token of some model in its place.
_PLACEHOLDER: Final = re.compile(
    r"<\|[^<>|]+\|>|<｜[^<>｜]+｜>|</?s>|<(?:bos|eos|eod|unk|pad|mask|start_of_turn|end_of_turn)>"
    r"|\[(?:BOS|EOS|UNK|PAD|MASK|SEP|CLS)\]"
)


_FAR: Final = re.compile(r"[eE][+-]?0*[1-9][0-9]{3}")
"""Of an exponent that leaves a number zero or infinite, or a line of thousands."""


class Written(float):
    """A number with what was written for it: 1.10 is no 1.1, and 3e2 is 300."""

    text: str

    def __new__(cls, text: str) -> "Written":
        made = super().__new__(cls, text)
        made.text = repr(float(made)) if _FAR.search(text) else text
        return made


def object_of(value: object, name: str) -> Fields:
    if not isinstance(value, Mapping):
        raise wrong(name, "an object", value)
    return value


def list_of(value: object, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(name, "a list", value)
    return value


class Unusable(InvalidField):
    """A value of a kind that nothing can be made of."""


def wrong(name: str, wanted: str, value: object) -> Unusable:
    return Unusable(f"field '{name}' must be {wanted}, and is {kind_of(value)} {shown(value)}", field=name)


def is_none(value: object) -> bool:
    """Whether it is how a file says that there is nothing: null, NaN, an empty text or list."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and math.isnan(value)) or (is_list(value) and not value)


def is_placeholder(text: str) -> bool:
    """Whether it stands for an answer that nobody knows."""
    return _PLACEHOLDER.fullmatch(text.strip()) is not None


def is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def text_of(value: object, name: str) -> str | None:
    """A text, or a number, a date or a truth value as it is written; None where there is none.

    Raises:
        InvalidField: it is nothing of that.
    """
    if isinstance(value, str):
        return value
    if is_none(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        if isinstance(value, int):
            return str(value)
        if isinstance(value, (float, Decimal)) and math.isfinite(value):
            plain = value.text if isinstance(value, Written) else repr(value)
            return format(Decimal(plain) if isinstance(value, float) else value, "f")
    except ValueError as error:  # an integer of thousands of digits
        raise wrong(name, "a text", value) from error
    if isinstance(value, datetime):
        alone = value.time() == time() and value.tzinfo is None
        return value.date().isoformat() if alone else value.isoformat(" ")
    if isinstance(value, (date, time)):
        return value.isoformat()
    raise wrong(name, "a text", value)


def name_of(value: object, name: str) -> str:
    """An id, which may be a number; '' where there is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as tables write whole numbers where one of them is missing
    return (text_of(value, name) or "").strip()


def all_texts(value: Any, name: str) -> list[str]:
    """One text, a list, or lists in lists, as one list without the absent ones."""
    if isinstance(value, str):
        return [value] if value and not value.isspace() else []
    members = flat(value)
    found = [text_of(member, name) for member in members]
    return [text for text in found if text is not None and not text.isspace() and text]


def flat(value: Any) -> Iterator[Any] | list[Any]:
    if not is_list(value):
        return [value]
    return [inner for member in value for inner in flat(member)]


def first(value: Any, name: str) -> str | None:
    """A text, or the first of a list (of lists) of texts; None where there is none."""
    return next(iter(all_texts(value, name)), None)


def further(value: Any, name: str) -> list[str]:
    """What stands beside the first in a list, and is another spelling of it; where lists stand in it, in the first."""
    while is_list(value):
        members = [member for member in value if not is_none(member)]
        if not members or not is_list(members[0]):
            return all_texts(members[1:], name)
        value = members[0]
    return []


def paired(prompts: Any, answers: Any, names: tuple[str, str]) -> list[tuple[Any, Any]]:
    """Prompts with their answers: one with all it is given, or lists of equal length.

    Raises:
        InvalidField: which answer is of which prompt cannot be told.
    """
    if is_none(prompts):
        if not is_none(answers) and any(not is_none(one) for one in flat(answers)):
            raise InvalidField(f"field '{names[1]}' has answers and '{names[0]}' no prompt; give both", names[1])
        return []
    if not is_list(prompts):
        return [(prompts, answers)]
    if is_none(answers):
        return [(prompt, None) for prompt in prompts]
    if not is_list(answers) and len(prompts) == 1:
        return [(prompts[0], answers)]
    count = len(answers) if isinstance(answers, Sequence) and is_list(answers) else 1
    if count != len(prompts):
        raise InvalidField(
            f"field '{names[0]}' has {len(prompts)} and '{names[1]}' {count}: which belong together cannot be told; "
            "give as many of one as of the other",
            names[0],
        )
    return list(zip(prompts, answers, strict=True))
