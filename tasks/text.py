"""Text that comes from outside, made fit for every file and database.

A command's argument with a byte that is no UTF-8 reaches Python as half of a surrogate pair, which no UTF-8 file and
no database takes. It is stored as the text of its escape: `\\udcff`.
"""

import unicodedata
from typing import Annotated, Any

from pydantic import BeforeValidator

from editing.errors import UsageError


def storable(value: Any) -> Any:
    """The value with every text in it storable, in lists and mappings too."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


Text = Annotated[str, BeforeValidator(storable)]
"""A field that holds whatever a user wrote, as it can be stored."""

REASON_LENGTH = 2_000
"""Characters of a reason, as of a prompt: it is shown wherever the decision is, on one line."""


def check_length(reason: str) -> str:
    """A reason as it was given. Raises UsageError where it is longer than REASON_LENGTH."""
    if (length := len(reason.strip())) > REASON_LENGTH:
        raise UsageError(
            f"the reason has {length:,} characters, at most {REASON_LENGTH:,} are allowed: shorten it, or name the "
            "page that tells the rest"
        )
    return reason


def visible(text: str) -> str:
    """`text` with control and direction-changing characters spelled out, so that no answer can disguise itself."""

    def spell(char: str) -> str:
        hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in "\n\t\u200c\u200d"
        return f"⟨U+{ord(char):04X}⟩" if hidden else char

    return text if text.isascii() and text.isprintable() else "".join(spell(char) for char in text)
