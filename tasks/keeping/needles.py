"""What is looked for when a request is forgotten: the texts that are its own, in every spelling that files have.

A text that another request says as well is that one's too, and stays. An answer that is an ordinary word ("red", "12")
is taken only where something stands beside it that tells of the request.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from tasks.markdown import literal

GONE = "[forgotten]"
_LEAST = 3
_SHORTEST_CUT = 30
"""Pages cut long texts, to no fewer characters than that, and end them with an ellipsis."""
_CUT = r"[^\n\"|<…]*?(?:…|\\u2026)"
_CONSTANTS = frozenset({"true", "false", "null", "none", "nan"})
"""Words that JSON and SQL know."""
_ANSWERS = ("target_new", "target_true", "aliases")
_TEXTS = ("subject", "paraphrases", "question", "source", "requested_by", "ticket", "tags", "raw", *_ANSWERS)
_PROBES = ("neighborhood", "portability")


@dataclass(frozen=True)
class Needles:
    """Texts to be found and replaced."""

    telling: tuple[str, ...] = ()
    """Wherever they stand."""
    beside: tuple[str, ...] = ()
    """Only beside one that tells."""

    def found(self, text: str) -> bool:
        return self._telling is not None and self._telling.search(text) is not None

    def found_in(self, data: bytes) -> bool:
        """In a file, whatever else is in it."""
        return self.found(data.decode("utf-8", "replace"))

    def replaced(self, text: str) -> str:
        """The text without them; as it is where nothing tells."""
        if self._telling is None or not self.found(text):
            return text
        text = self._telling.sub(GONE, text)
        return self._beside.sub(GONE, text) if self._beside else text

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """How all that tell begin, as files may spell them."""
        return tuple(dict.fromkeys(one for text in self.telling for one in spelled(text[:_SHORTEST_CUT])))

    @cached_property
    def _telling(self) -> re.Pattern[str] | None:
        return _pattern(self.telling)

    @cached_property
    def _beside(self) -> re.Pattern[str] | None:
        return _pattern(self.beside)


def needles_of(payloads: Sequence[Mapping[str, Any]], others: Iterable[Mapping[str, Any]]) -> tuple[Needles, list[str]]:
    """What to look for of these requests, and the ids of others that say the same, beside an answer alone.

    `others`: what all other requests say.
    """
    wanted = {text for payload in payloads for text in _own_texts(payload) if len(text) >= _LEAST}
    answers = {text for payload in payloads for name in _ANSWERS for text in _strings(payload.get(name))}
    pattern, shared, by = _pattern(wanted), set[str](), list[str]()
    for other in others if pattern else ():
        said = [text for text in _strings(other) if pattern and pattern.search(text)]
        common = {one for one in wanted for text in said if re.search(_whole(one), text)}
        shared |= common
        if common - answers:
            by.append(str(other.get("id", "?")))
    own = sorted(wanted - shared, key=len, reverse=True)
    ordinary = {one for one in own if one in answers and _is_ordinary(one)}
    telling = tuple(one for one in own if one not in ordinary)
    return Needles(telling, tuple(one for one in own if one in ordinary and one.lower() not in _CONSTANTS)), by


def spelled(text: str) -> list[str]:
    """A text as it is, in JSON, in JSON within JSON, in HTML, in Markdown, in an address."""
    in_json = json.dumps(text)[1:-1]
    spellings = [text, in_json, json.dumps(in_json)[1:-1], html.escape(text), literal(text), quote(text)]
    return list(dict.fromkeys(spellings))


def _own_texts(payload: Mapping[str, Any]) -> Iterator[str]:
    for name in _TEXTS:
        yield from _strings(payload.get(name))
    subject = str(payload.get("subject") or "")
    for name in ("prompt", "question"):
        if subject and payload.get(name):
            yield str(payload[name]).replace("{}", subject)
    for name in _PROBES:
        for text in _strings(payload.get(name)):
            if " " in text:
                yield text.replace("{}", subject)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _is_ordinary(text: str) -> bool:
    """A word that many texts have: of lower case, a number, or short."""
    return len(text) < 5 or (" " not in text and (text.isdecimal() or (text.isascii() and text.islower())))


def _pattern(texts: Iterable[str]) -> re.Pattern[str] | None:
    every = sorted({one for text in texts for one in spelled(text)}, key=len, reverse=True)
    begun = {one for text in texts if len(text) > _SHORTEST_CUT for one in spelled(text[:_SHORTEST_CUT])}
    patterns = [*map(_whole, every), *(re.escape(one) + _CUT for one in sorted(begun))]
    return re.compile("|".join(patterns)) if patterns else None


def _whole(text: str) -> str:
    """The text as words of their own."""
    before = r"(?<!\w)" if re.match(r"\w", text) else ""
    return before + re.escape(text) + (r"(?!\w)" if re.search(r"\w$", text) else "")
