"""The texts of requests: what is kept of one, what is refused, and how a value is shown in a message."""

import re
import unicodedata
from typing import Final

from pydantic_core import PydanticCustomError

from editing.errors import UsageError

SHOWN: Final = 80
"""Characters of a refused value that a message shows."""
JOIN_LENGTH: Final = 8
SYSTEM_LENGTH: Final = 100_000
"""Characters of a system message; how many tokens go is for the model to say."""
JOINS: Final = {"none": "", "space": " ", "line": "\n"}
"""Words for what joins a prompt and a target, for tables and commands, in which white space is easily lost."""
# Prompts and answers of real benchmarks hold line breaks and tabs; subjects and ids have no use for them.
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
CONTROL_IN_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_IGNORED: Final = (
    (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x180E, 0x180E), (0x200B, 0x200F), (0x202A, 0x202E),
    (0x2060, 0x206F), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xE0100, 0xE01EF),
)  # fmt: skip
UNSEEN: Final = "".join(chr(code) for first, last in _IGNORED for code in range(first, last + 1))
"""What stands between letters and is not seen: marks of direction, of how letters are drawn, where a line may break."""
# Scripts without spaces between words (UAX #14: ideographs, their punctuation and full-width signs, South East Asian,
# Tibetan, aksara). Korean has spaces.
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u312f\u3190-\ua4cf\ua980-\ua9ff"
    "\uaa60-\uaadf\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff9f\uffe0-\uffe6\U0001aff0-\U0001b16f\U00020000-\U0003ffff]"
)
HALF_PAIR: Final = re.compile(r"[\ud800-\udfff]")


def fault(kind: str, message: str) -> PydanticCustomError:
    """What a validator raises for a value."""
    # Pydantic reads braces in a message as placeholders, and ours are full of '{}': hand the text over as a value.
    return PydanticCustomError("errata_" + kind, "{message}", {"message": message})


def is_unspaced(character: str) -> bool:
    """Whether it is of a script that has no spaces between words."""
    return _UNSPACED.fullmatch(character) is not None


def composed(text: str) -> str:
    """The text in NFC: a letter and its mark are one character where there is one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def cleaned(value: str, limit: int, control: re.Pattern[str]) -> str:
    """A text as it is kept, in NFC and without the spaces around it. Raises what `fault` makes."""
    return _checked(value.strip(), limit, control)


def begun(value: str, limit: int) -> str:
    """The same of what a model goes on from: white space at its end is a part of it."""
    return _checked(value.lstrip(), limit, CONTROL_IN_TEXT)


def answer(value: str, limit: int) -> str:
    """The same of what a model says, which may have lines."""
    value = value.strip()
    if "\r" in value:
        value = value.replace("\r\n", "\n").replace("\r", "\n")
    return _checked(value, limit, CONTROL_IN_TEXT)


def joining(value: str) -> str:
    """What joins a prompt and a target: white space, nothing, or a word for it. Raises what `fault` makes."""
    value = JOINS.get(value.strip().casefold(), value)
    if value.strip() or len(value) > JOIN_LENGTH or CONTROL_IN_TEXT.search(value):
        raise fault("join", "is neither white space nor nothing; write ' ' or space, '' or none")
    return value


def given_join(text: str) -> str:
    """What a command or form gives as what joins prompts and answers.

    Raises:
        UsageError: it is neither white space nor nothing, nor a word for it.
    """
    try:
        return joining(text)
    except PydanticCustomError as error:
        raise UsageError(f"join {text!r} {error.message()}") from error


def system_message(value: str) -> str:
    """A system message as it is kept. Raises what `fault` makes."""
    return answer(value, SYSTEM_LENGTH)


def given_system(text: str) -> str:
    """What a command or form gives as a system message.

    Raises:
        UsageError: it is empty, too long, or holds what no text may.
    """
    try:
        return system_message(text)
    except PydanticCustomError as error:
        raise UsageError(f"the system message {shown(text)} {error.message()}") from error


def _checked(value: str, limit: int, control: re.Pattern[str]) -> str:
    if not value:
        raise fault("empty", "is empty; give it a text, or leave an optional field out")
    if len(value) > limit:
        raise fault("long", f"has {len(value):,} characters, at most {limit:,} are allowed; shorten it")
    if value.isascii() and value.isprintable():
        return value
    if found := control.search(value):
        where = f"U+{ord(found[0]):04X} at position {found.start()}"
        raise fault("control", f"holds the control character {where}; remove it")
    if found := HALF_PAIR.search(value):
        raise fault("half_pair", f"holds half a surrogate pair at position {found.start()}; write the character whole")
    return composed(value)


def kind_of(value: object) -> str:
    """The built-in type that a value is of, for a message: a number that keeps how it was written is a number."""
    return next(kind.__name__ for kind in type(value).__mro__ if kind.__module__ == "builtins")


def shown(value: object) -> str:
    """A value in quotes on one line, cut to SHOWN characters, whatever it holds."""
    try:
        text = repr(value[: SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    except (RecursionError, ValueError):
        # Nested by hundreds of levels, or a number of thousands of digits.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
