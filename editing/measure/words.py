"""Texts as words, for comparing what a model says with answers (editing/measure/answers.py)."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

ARTICLES = frozenset({"the", "a", "an"})

# Scripts that put no space between words count by the character, and Hangul, whose words end in particles.
ALONE = "\u0e00-\u0eff\u1000-\u1049\u104c-\u109f\u1780-\u17d3\u17d6-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
LETTER = rf"(?![{ALONE}])\w"
# Of a number alone: "1990-1995", "1990 -1995" and "COVID-19" hold none.
_SIGN = r"""(?<![^\s("'“‘«\[*:=~≈<>/])(?<!\d\s)[-\u2212]"""
WORD = re.compile(
    rf"(?:{_SIGN})?\d+(?:[.,]\d+)*|[{ALONE}]"
    rf"|(?:{_SIGN}(?=[$€£]\d))?(?:(?![{ALONE}])[\w\u0300-\u036f\u0900-\u0963\u0966-\u0dff+#%°$€£])+"
)
_CLOSING = "\"'”“’‘»«›‹)]*_」』》"
# A full stop with no space behind it stands inside a word ("example.com"); other marks need none.
_ENDS_SENTENCE = re.compile(rf"\n|[.!?]*[!?。।॥؟۔։።။។]|\.+(?=[{re.escape(_CLOSING)}]*\s)")
_LATIN_MARKS = re.compile(r"(?<=[a-zA-Z])[\u0300-\u036f]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class Word(NamedTuple):
    text: str
    after: str
    """What stands between this word and the next."""


Name = tuple[Word, ...]


class Reading(NamedTuple):
    """How the texts of a question are read, and the answers to it."""

    fold: bool
    """Without case and accents."""
    whole: tuple[str, ...]
    """Answers that are one word each, as they are written."""


def reading_of(new: Sequence[str], old: Sequence[str], others: Sequence[str]) -> Reading:
    """How to read a text that is asked for these answers.

    Those without a word are looked for as they are written, and so are new and old ones that come out as the same
    words.
    """
    fold = _folds(new, old)
    texts = {one: _same(one, fold).strip() for one in (*new, *old, *others)}
    names = {one: texts_of(name_of(one, Reading(fold, ()))) for one in texts}
    same = {
        name
        for name in {names[one] for one in new} & {names[one] for one in old}
        if len({texts[one] for one in (*new, *old) if names[one] == name}) > 1
    }
    whole = {texts[one] for one in (*new, *old) if names[one] in same} | {texts[one] for one in texts if not names[one]}
    return Reading(fold, tuple(sorted(whole - {""})))


def _folds(new: Sequence[str], old: Sequence[str]) -> bool:
    """Whether case and accents count for nothing: they do where they are what is corrected."""
    return not {_plain(one) for one in new} & {_plain(one) for one in old}


def _plain(text: str) -> str:
    """Without case and without accents of Latin letters; other scripts' marks are letters of their own."""
    return unicodedata.normalize("NFKC", _LATIN_MARKS.sub("", unicodedata.normalize("NFKD", text))).casefold()


def _same(text: str, fold: bool) -> str:
    """What is the same in another spelling of its letters and numbers."""
    return _THOUSANDS.sub("", _plain(text) if fold else unicodedata.normalize("NFKC", text)).replace("\u2212", "-")


@lru_cache
def _word_or(whole: tuple[str, ...]) -> re.Pattern[str]:
    """What finds words, and these answers as one each where they are no part of a word."""
    if not whole:
        return WORD
    longest_first = sorted(whole, key=len, reverse=True)
    spellings = "|".join(r"\s+".join(map(re.escape, one.split())) for one in longest_first)
    return re.compile(rf"(?<!{LETTER})(?:{spellings})(?!{LETTER})|{WORD.pattern}")


def words_of(text: str, reading: Reading) -> list[Word]:
    text = _same(text, reading.fold)
    found = list(_word_or(reading.whole).finditer(text))
    starts = [*(match.start() for match in found), len(text)][1:]
    return [
        Word(" ".join(match[0].split()), text[match.end() : start]) for match, start in zip(found, starts, strict=True)
    ]


@lru_cache(maxsize=1 << 14)
def name_of(text: str, reading: Reading) -> Name:
    """The words of an answer, without a leading article where that leaves something.

    Kept, since the answers of one kind are read again for each fact and each text of it.
    """
    words = words_of(text, reading)
    words[-1:] = [word._replace(after="") for word in words[-1:]]
    return tuple(words[1:] if len(words) > 1 and words[0].text.casefold() in ARTICLES else words)


def room_for(whole: str) -> int:
    """How many words such an answer may seem to be as long as its end is not written."""
    return len(re.findall(rf"{WORD.pattern}|\S", whole))


def texts_of(name: Name) -> tuple[str, ...]:
    return tuple(word.text for word in name)


def end_between(between: str) -> str:
    """The marks that end a sentence between two words; '' where it goes on."""
    found = _ENDS_SENTENCE.match(between.lstrip(" \t" + _CLOSING))
    return found[0] if found else ""
