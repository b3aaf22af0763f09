"""What a model says when it is asked, judged as a reader would: the text of its own choice, up to its natural end.

Probabilities flatter: a target can be likelier than another and yet never be said (arXiv 2502.11177 finds 96.8 % of
edits by teacher forcing and 38.5 % by what is generated). Here the model writes greedily, and its text is judged by
words, without case, accents of Latin letters, punctuation, leading articles and a last plural s, but for those of which
one tells the new answer from the old one ("The Band" from "Band", "Cats" from "Cat"), and for the sign of a number:

- after a prompt, the new answer or an alias must stand at the beginning;
- in a chat it must stand in the first sentence, and not after a negation;
- neither the old answer nor another one of its kind may stand there. Of answers that overlap the longest counts
  ("New York" is not said by "New York Times"), and what repeats the subject counts as nothing;
- words count whole: what goes on inside the prompt's last word is a part of it ("is" and "land" are no "land"), and a
  last word that the limit of the text may have cut is left out;
- an answer without any word ("🙂") is looked for as it is written.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from editing.measure.words import (
    ALONE,
    ARTICLES,
    LETTER,
    WORD,
    Name,
    Reading,
    Word,
    end_between,
    name_of,
    reading_of,
    room_for,
    texts_of,
    words_of,
)

Where = Literal["start", "sentence"]
NEGATIONS = frozenset({"not", "never", "neither", "nor", "cannot"}) | frozenset(
    f"{verb}nt"
    for verb in ("is", "was", "are", "were", "do", "does", "did", "has", "have", "had", "ca", "could", "would")
)
# "No" denies what follows it ("no longer in", "no home in"), but for what is meant as a yes.
AFFIRMED = frozenset(
    {"debate", "denying", "dispute", "doubt", "fewer", "later", "less", "matter", "mistake", "mistaking", "other"}
    | {"problem", "question", "secret", "sooner", "stranger", "surprise", "wonder"}
)
ANYTHING = frozenset(some + kind for some in ("any", "every") for kind in ("where", "thing", "one", "body"))
ABBREVIATIONS = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "st", "mt", "ft", "jr", "sr", "vs", "no", "nr", "inc", "ltd"}
)

_HALF_WORD = re.compile(rf"(?:{LETTER})+\Z")


@dataclass(frozen=True)
class Answer:
    """One text of a model, and what is said in it."""

    text: str
    new: bool = False
    old: bool = False
    other: bool = False
    """Something else of the kind, where others of the kind are known."""

    @property
    def right(self) -> bool:
        """The new answer, and no other one."""
        return self.new and not self.old and not self.other


@dataclass(frozen=True)
class Enough:
    """How much of a text decides what is said in it: told a text, whether nothing that comes after can change that.

    Made by `enough_for`. Equal ones end the same text at the same place.
    """

    where: Where
    words: int
    """Of the longest answer, after what comes first; in a sentence of the longest one that counts as it is written."""
    reading: Reading
    crossing: tuple[Name, ...] = ()
    """Answers that may stand across the end of a sentence, since they hold a mark themselves."""

    def __call__(self, text: str) -> bool:
        words = words_of(text, self.reading)
        if self.where == "start":
            return len(words) > _first(words) + self.words
        # A number that begins a list or is an answer, and dots before or after the answer, which is not asked here: the
        # later end is waited for.
        end = _first_sentence(words, list(_matches(words, {}, self.crossing)))
        return len(words) > end + max(self.words, *map(len, self.crossing), 0)


def enough_for(
    new: Sequence[str], old: Sequence[str], others: Sequence[str] = (), *, where: Where, echo: Sequence[str] = ()
) -> Enough:
    """How much of a text `judge_answer` needs, given the same."""
    reading = reading_of(new, old, others)
    names = {name_of(one, reading) for one in (*new, *old, *others, *echo)}
    room = max(map(room_for, reading.whole), default=0)
    if where == "start":
        return Enough(where, max(1, room, *map(len, names)), reading)
    crossing = {name for name in names if any(word.after.strip() for word in name)}
    return Enough(where, room, reading, tuple(sorted(crossing)))


class _Match(NamedTuple):
    start: int
    stop: int
    kind: str
    exact: bool
    """No plural of the name."""


def judge_answer(
    text: str,
    new: Sequence[str],
    old: Sequence[str],
    others: Sequence[str] = (),
    *,
    where: Where,
    echo: Sequence[str] = (),
) -> Answer:
    """What is said in a text.

    Args:
        new, old: an answer in its spellings.
        others: further answers of the kind; those that are a spelling of the new or old one count as that.
        where: at the start of the text, or in its first sentence.
        echo: what an answer may repeat of the question, the subject say: nothing inside it counts.
    """
    reading = reading_of(new, old, others)
    words = words_of(text, reading)
    by_kind = {"other": others, "old": old, "new": new}
    names = {kind: [name_of(one, reading) for one in some] for kind, some in by_kind.items()}
    matches = list(_matches(words, names, [name_of(one, reading) for one in echo]))
    if where == "start":
        first = _first(words)
        kinds = {match.kind for match in matches if match.start <= first}
        return Answer(text, *(kind in kinds for kind in ("new", "old", "other")))
    end = _first_sentence(words, matches)
    here = [match for match in matches if match.stop <= end]
    denied = _denied(words, [(m.start, m.stop) for m in here if m.kind == "echo"])
    kinds = {m.kind for m in here if m.kind != "new" or not any(at < m.start < until for at, until in denied)}
    return Answer(text, *(kind in kinds for kind in ("new", "old", "other")))


def whole_words(text: str) -> str:
    """A text that was cut somewhere, without its last word, of which a part may be missing; a single one stays."""
    last = next((match for match in WORD.finditer(text) if match.end() == len(text.rstrip("\ufffd"))), None)
    if last is None or re.fullmatch(f"[{ALONE}]", last[0]) or not text[: last.start()].strip():
        return text
    return text[: last.start()].rstrip()


def half_word(prompt: str) -> str:
    """With which a prompt ends that a model may go on inside a word of; '' where its next letter begins another."""
    found = _HALF_WORD.search(prompt)
    return found[0] if found else ""


def _first(words: Sequence[Word]) -> int:
    """Where an answer begins that stands at the start: after articles."""
    return next((i for i, word in enumerate(words) if word.text not in ARTICLES), 0)


def _matches(words: Sequence[Word], names: Mapping[str, Sequence[Name]], echo: Sequence[Name]) -> Iterator[_Match]:
    """Where each name stands, but for what lies inside a longer one or inside what repeats the question.

    Of two that stand in the same words, one of them in the plural, the other one counts.
    """
    kinds = {texts_of(name): kind for kind, some in names.items() for name in some}  # the last kind of a name counts
    asked = [(name, kinds[texts_of(name)]) for some in names.values() for name in some]
    found = [
        _Match(i, i + len(name), kind, words[i + len(name) - 1].text == name[-1].text)
        for name, kind in dict.fromkeys([*asked, *((name, "echo") for name in echo)])
        if name
        for i in range(len(words) - len(name) + 1)
        if _stands(words[i : i + len(name)], name)
    ]
    for match in found:
        around = (m for m in found if m.start <= match.start and match.stop <= m.stop)
        if not any((m.stop - m.start, m.exact) > (match.stop - match.start, match.exact) for m in around):
            yield match


def _stands(words: Sequence[Word], name: Sequence[Word]) -> bool:
    """Whether these words are the name's, in one sentence unless it has a full stop itself."""
    *first, last = zip(words, name, strict=True)
    if any(word.text != own.text for word, own in first) or not _same_word(last[0].text, last[1].text):
        return False
    return all(
        own.after.strip() or not end_between(word.after) for word, own in zip(words[:-1], name[:-1], strict=True)
    )


def _same_word(word: str, name: str) -> bool:
    """Whether a word is that of a name, or its plural: "euros" are the euro."""
    return word == name or (len(name) > 2 and name.isalpha() and word in (f"{name}s", f"{name}es"))


def _first_sentence(words: Sequence[Word], matches: Sequence[_Match]) -> int:
    """How many words it has.

    It ends in no answer and after no initial, a number alone is that of a list, and dots before an answer are a pause.
    """
    inside = {i for match in matches for i in range(match.start, match.stop - 1)}
    answered = min((match.stop for match in matches if match.kind != "echo"), default=len(words))
    for i, word in enumerate(words):
        if i in inside or not (end := end_between(word.after)):
            continue
        initial = len(word.text) == 1 and word.text.isalpha()
        if end == "." and (initial or word.text in ABBREVIATIONS) and i + 1 < len(words):
            continue
        if len(end) > 1 and not end.strip(".") and i + 1 < answered:
            continue
        if i == 0 and word.text.isdecimal() and not any(match.start == 0 for match in matches):
            continue
        return i + 1
    return len(words)


def _denied(words: Sequence[Word], repeated: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """From where to where words deny what comes after the first of them, outside what repeats the question."""
    found = []
    for i, word in enumerate(words):
        if any(start <= i < stop for start, stop in repeated):
            continue
        contracted = word.text == "t" and i > 0 and words[i - 1].text.endswith("n") and words[i - 1].after in "'’"
        only = i + 1 < len(words) and words[i + 1].text in ("only", "just")
        if (contracted or word.text in NEGATIONS) and not only:
            found.append((i, len(words)))
        elif _leaves_out(words, i):
            found.append((i, _clause(words, i)))
    return found


def _leaves_out(words: Sequence[Word], i: int) -> bool:
    """Whether a word is a "no" that belongs to the next one ("no home"), or the "but" of "anywhere but"."""
    if words[i].text == "no" and words[i].after.isspace() and i + 1 < len(words):
        return words[i + 1].text not in AFFIRMED and not words[i + 1].text[0].isdigit()
    return words[i].text in ("but", "except") and i > 0 and words[i - 1].text in ANYTHING and words[i - 1].after == " "


def _clause(words: Sequence[Word], start: int) -> int:
    """Where the clause ends that a word stands in: at a mark, or before another one that is joined to it."""
    for i in range(start + 1, len(words)):
        if words[i].text in ("and", "but") or set(words[i - 1].after) & set(",;:–—"):
            return i
    return len(words)
