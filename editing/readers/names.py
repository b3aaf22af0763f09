"""The names of a record's fields: which are read, which have no place, and which look misspelled."""

import difflib
import re
from functools import lru_cache
from typing import Final

from editing.edit import InvalidField, called_edit, shown
from editing.readers.told import Told
from editing.readers.values import Fields
from editing.request import CARRIED
from editing.texts import SHOWN

ALIKE: Final = 0.75
"""How alike two names are, by difflib, for one to be taken for a misspelling of the other."""
SHORTEST: Final = 4
"""Letters of a name that can be misspelled: of two or three, every other name would be one."""


Tiers = tuple[frozenset[str], ...]


def check_names(given: Fields, tiers: Tiers, unused: frozenset[str], told: Told) -> None:
    """Refuse a name that looks like one that the form reads; any other that it does not read is told.

    Args:
        tiers: what the form reads, what it is most probably meant to be first; the last is not read, but meant by it.
        unused: what sets in this form hold besides, so that none of it is a misspelling.

    Raises:
        InvalidField: the name, and the nearest one.
    """
    names = tuple(name for name, value in given.items() if value is not None)  # null: the field is absent
    unread, misspelled = _others(names, tiers, unused)
    for name in unread:
        told.not_used(name)
    if misspelled is not None:
        name, near = misspelled
        plain = name if name.isprintable() and len(name) <= SHOWN else shown(name)
        raise InvalidField(f"{called_edit(given)}: unknown field {shown(name)}; did you mean '{near}'?", plain)


@lru_cache(1024)
def _others(
    given: tuple[object, ...], tiers: Tiers, unused: frozenset[str]
) -> tuple[list[str], tuple[str, str] | None]:
    """Of these names those that nobody reads, up to the first that looks misspelled; and it, with the nearest."""
    found: list[str] = []
    for name in given:
        if not isinstance(name, str) or name in CARRIED or any(name in names for names in tiers[:-1]):
            continue
        near = None if name in unused else _nearest(name, tiers)
        # Of two names that are both there, the longer by a word is a field of its own: no_question beside question.
        if near is not None and not (near in given and _words(near) < _words(name)):
            return found, (name, near)
        found.append(name)
    return found, None


def _words(name: str) -> set[str]:
    """Of a name, one or several alike."""
    return {re.sub("ies$", "y", word).removesuffix("s") for word in name.casefold().split("_")}


@lru_cache(4096)
def _nearest(name: str, tiers: Tiers) -> str | None:
    """What the name may have been meant to be: of this form, of any request, or of another form."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in name.casefold()).strip("_")
    for names in (tiers[0] | {*CARRIED}, *tiers[1:]):
        if plain in names:
            return plain if plain != name else None
        long = sorted(known_name for known_name in names if len(known_name) >= SHORTEST)
        if same := [known_name for known_name in long if _words(known_name) == _words(plain)]:
            return same[0]
        if near := difflib.get_close_matches(plain[:100], long, n=1, cutoff=ALIKE):
            return near[0]
    return None
