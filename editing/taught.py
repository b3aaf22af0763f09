"""What joins a prompt and a target, decided here and nowhere else: a space, or nothing where none is written.

Nothing after Chinese, Japanese, Thai and their kin, after an open quote or bracket, a slash or white space; nothing
before a target that begins with white space or %, or with closing punctuation that stands alone or before a space
(`, Inc.`, but not `.NET`); nor between a word that holds letters of a script without spaces and an answer that begins
in one (`他生于1957`, `年`). What is not seen is looked through. A space elsewhere. A prompt may say otherwise (`Filled`
and `Said` of editing.filled).
"""

import unicodedata
from typing import Final

from editing.texts import UNSEEN, is_unspaced

CLOSING: Final = frozenset(".,;:!?…‽。、，；：！？．｡､،؛؟۔।॥։།༎။၊។៕៖።፣፤፥፦፧፨᠂᠃꧈꧉")
"""Punctuation that stands at the end of what comes before it; closing quotes and brackets are known by their kind."""
_OPEN_KINDS: Final = ("Ps", "Pi", "Pf")  # Pf: » opens where it is written the other way round
_CLOSED_KINDS: Final = ("Pe", "Pf", "Pi")


def taught(prompt: str, target: str) -> str:
    """The whole text that a model is taught: a prompt with its subject, what joins it to the target, the target."""
    return f"{prompt}{join_of(prompt, target)}{target}"


def join_of(prompt: str, target: str) -> str:
    """What stands between a prompt and a target that goes on from it."""
    said: str | None = getattr(prompt, "joined_by", None)
    if said is not None:
        return said
    before, after = prompt.rstrip(UNSEEN), target.lstrip(UNSEEN)
    if not before or not after or _ends_open(before) or _begins_close(after, before):
        return ""
    if is_unspaced(after[0]) and any(map(is_unspaced, before.split()[-1])):
        return ""
    # What a conversation ends with is no word: an answer of a script without spaces begins by itself.
    return "" if getattr(prompt, "rendered", False) and is_unspaced(after[0]) else " "


def _ends_open(prompt: str) -> bool:
    last = prompt[-1]
    if last.isalnum() and last.isascii():
        return False
    if last.isspace() or last in "/\\" or is_unspaced(last):
        return True
    if last in "\"'`״" or unicodedata.category(last) in _OPEN_KINDS:
        return _opens(prompt[:-1], last)
    return False


def _opens(before: str, mark: str) -> bool:
    """Whether a bracket or quote opens after this text: one that touches a word or an end mark closes."""
    if unicodedata.category(mark) == "Ps" or not before or before[-1].isspace() or is_unspaced(before[-1]):
        return True
    previous, kind = before[-1], unicodedata.category(before[-1])
    if kind == "Ps":
        return True
    if previous.isalnum() or kind in _CLOSED_KINDS or previous in CLOSING:
        return False
    return mark != '"' or before.count(mark) % 2 == 0


def _begins_close(target: str, prompt: str) -> bool:
    first = target[0]
    if first.isalnum():
        return False
    if first.isspace() or first in "%‰％":
        return True
    rest = target.lstrip("".join(_closing_in(target)) + ('"' if prompt.count('"') % 2 else ""))
    return len(rest) < len(target) and (not rest or rest[0].isspace())


def _closing_in(target: str) -> set[str]:
    return {one for one in target if one in CLOSING or unicodedata.category(one) in _CLOSED_KINDS}
