"""Where a subject stands in its prompt."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from editing.texts import UNSEEN, fault, is_unspaced, shown

SLOT: Final = "{}"
_ALIKE: Final = str.maketrans(
    dict.fromkeys(
        "\u2018\u2019\u201b\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u0060\u00b4\u2032\u055a\u05f3\ua78c\uff07", "'"
    )
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\u05f4\uff02", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u05be\u2043\ufe58\ufe63\uff0d", "-")
    | dict.fromkeys([*map(chr, range(0x2000, 0x200B)), *"\u00a0\u1680\u202f\u205f\u3000\t\n\r"], " ")
    | dict.fromkeys("\u0130\u0131", "i")
)
"""Characters of which people write one for another: apostrophes, quotes, dashes, spaces; Turkish has two letters i."""
_UNSEEN: Final = frozenset(UNSEEN)


def template(prompt: str, subject: str) -> str:
    """The prompt with one '{}' in the subject's place.

    A prompt that has the subject filled in is taken where the subject stands in it exactly once: as a whole word,
    or, where it is nowhere a whole word (Chinese has no spaces), as a part of the text.
    """
    slots = prompt.count(SLOT)
    if slots == 1:
        return prompt
    if slots > 1:
        raise fault("slots", f"{_must(subject)}, and holds {slots}; keep one of them")
    start, end = place_of(prompt, subject)
    return prompt[:start] + SLOT + prompt[end:]


Asked = TypeVar("Asked", str, dict[str, Any])


def has_slot(asked: str | Mapping[str, Any]) -> bool:
    """Whether a sentence, or a text of a probe, holds '{}'."""
    if isinstance(asked, str):
        return SLOT in asked
    return SLOT in str(asked.get("prompt")) or ("wordings" in asked and SLOT in str(asked["wordings"]))


def whole(asked: Asked, subject: str) -> Asked:
    """A sentence, or a probe, that has '{}' where the subject is meant, with the subject in it; others as they are."""
    if isinstance(asked, dict):
        return asked | {
            name: [whole(one, subject) for one in value] if isinstance(value, list) else whole(value, subject)
            for name, value in asked.items()
            if name in ("prompt", "wordings")
        }
    if not isinstance(asked, str) or asked.count(SLOT) != 1 or not subject.strip() or is_named_in(asked, subject):
        return asked
    return asked.replace(SLOT, subject)


def as_written(prompt: str, subject: str) -> str:
    """The subject as its prompt writes it, where it stands there once; another apostrophe or case is the prompt's."""
    if SLOT in prompt or not subject:
        return subject
    places = _places(prompt, subject)
    return prompt[places[0][0] : places[0][1]] if len(places) == 1 else subject


def is_named_in(text: str, subject: str) -> bool:
    """Whether a text names the subject in a word of its own; scripts without spaces have no other."""
    if len(text) < len(subject) and text.isascii() and subject.isascii() and "  " not in subject:
        return False  # at once: answers are short
    return any(is_unspaced(text[start]) or _is_whole(text, start, end) for start, end in _places(text, subject))


def place_of(prompt: str, subject: str) -> tuple[int, int]:
    """Where the subject begins and ends: as it is, else but for case, apostrophes, quotes, dashes and kinds of spaces.

    Raises:
        PydanticCustomError: it stands there not once.
    """
    places = _places(prompt, subject)
    if len(places) != 1:
        why = "which does not stand in it" if not places else f"which stands in it {len(places)} times"
        raise fault("slots", f"{_must(subject)}, {why}; for example '{{}} plays the sport of'")
    return places[0]


Place = tuple[int, int]


def _places(prompt: str, subject: str) -> list[Place]:
    """Where it stands as a whole word, as it is or else folded; where it is nowhere one, as a part of the text."""
    starts = _starts(prompt, subject)
    exact = [(start, start + len(subject)) for start in starts]
    if words := [place for place in exact if _is_whole(prompt, *place)]:
        return words
    alike = _alike(prompt, subject)
    return [place for place in alike if _is_whole(prompt, *place)] or exact or alike


def _starts(text: str, sought: str) -> list[int]:
    found, start = [], text.find(sought)
    while start >= 0:
        found.append(start)
        start = text.find(sought, start + 1)  # overlapping ones too: 'aa' stands in 'aaa' twice, not in one place
    return found


def _alike(prompt: str, subject: str) -> list[Place]:
    text, at = _folded(prompt)
    sought, _ = _folded(subject)
    if not sought:
        return []
    ends = [(start, start + len(sought)) for start in _starts(text, sought)]
    # A letter may fold to several, of which a match takes all or none.
    return [(at[a], at[b - 1] + 1) for a, b in ends if (a == 0 or at[a] > at[a - 1]) and at[b] > at[b - 1]]


def _folded(text: str) -> tuple[str, list[int]]:
    """A text but for case, apostrophes, quotes, dashes, kinds and numbers of spaces, and what is not seen.

    And where each of its characters, and its end, stands in the text itself.
    """
    plain = text.translate(_ALIKE)
    if plain.isascii() and "  " not in plain:  # nothing is left out, and no letter folds to several
        return plain.lower(), list(range(len(plain) + 1))
    found: list[str] = []
    at: list[int] = []
    for place, character in enumerate(plain):
        before = found[-1] if found else ""
        # The dot is what lower case leaves of the Turkish capital with one.
        if character in _UNSEEN or (character == before == " ") or (character == "\u0307" and before == "i"):
            continue
        letters = character.casefold()
        found += letters
        at += [place] * len(letters)
    return "".join(found), [*at, len(text)]


def _is_whole(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    return not (before.isalnum() and text[start].isalnum()) and not (after.isalnum() and text[end - 1].isalnum())


def _must(subject: str) -> str:
    return f"must hold exactly one '{{}}' for the subject {shown(subject)}"
