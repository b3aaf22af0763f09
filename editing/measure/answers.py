"""What a model says when it is asked, judged as a reader would: the text of its own choice, up to its natural end.

Probabilities flatter: a target can be likelier than another and yet never be said (arXiv 2502.11177 finds 96.8 % of
edits by teacher forcing and 38.5 % by what is generated). Here the model writes greedily, and its text is judged by
words, without case, accents of Latin letters, punctuation, leading articles and a last plural s:

- after a prompt, the new answer or an alias must stand at the beginning;
- in a chat it must stand in the first sentence, and not after a negation;
- neither the old answer nor another one of its kind may stand there. Of answers that overlap the longest counts
  ("New York" is not said by "New York Times"), and what repeats the subject counts as nothing;
- words count whole: what goes on inside the prompt's last word is a part of it ("is" and "land" are no "land"), and a
  last word that the limit of the text may have cut is left out.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Where = Literal["start", "sentence"]
ARTICLES = frozenset({"the", "a", "an"})
NEGATIONS = frozenset({"not", "never", "neither", "nor", "cannot"})
ABBREVIATIONS = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "st", "mt", "ft", "jr", "sr", "vs", "no", "nr", "inc", "ltd"}
)

# Scripts that put no space between words count by the character, and Hangul, whose words end in particles.
_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{_ALONE}]|(?:(?![{_ALONE}])[\w\u0300-\u036f\u0900-\u0dff+#%°$€£])+")
_HALF_WORD = re.compile(rf"(?:(?![{_ALONE}])\w)+\Z")
_ENDS_SENTENCE = re.compile(r"\n|[.!?][\"'”’)\]*_]*(?:\s|$)|[。！？]")
_LATIN_MARKS = re.compile(r"(?<=[a-zA-Z])[\u0300-\u036f]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


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
    """Of the longest answer, after what comes first."""
    crossing: tuple[str, ...] = ()
    """Answers that may stand across the end of a sentence, since they hold a mark themselves."""
    fold: bool = True

    def __call__(self, text: str) -> bool:
        words = _words(text, self.fold)
        if self.where == "start":
            return len(words) > _first(words) + self.words
        names = [_name(one, self.fold) for one in self.crossing]
        # A number that begins a list or is an answer, which is not asked here: the later end is waited for.
        end = _first_sentence(words, list(_matches(words, {"other": names}, ())))
        return len(words) > end + max(map(len, names), default=0)


def enough_for(
    new: Sequence[str], old: Sequence[str], others: Sequence[str] = (), *, where: Where, echo: Sequence[str] = ()
) -> Enough:
    """How much of a text `judge_answer` needs, given the same."""
    fold = _folds(new, old)
    names = {one: _name(one, fold) for one in (*new, *old, *others, *echo)}
    longest = max(map(len, names.values()), default=1)
    if where == "start":
        return Enough(where, max(1, longest), fold=fold)
    crossing = {one for one, name in names.items() if any(word.after.strip() for word in name)}
    return Enough(where, 0, tuple(sorted(crossing)), fold)


class _Word(NamedTuple):
    text: str
    after: str
    """What stands between this word and the next."""


class _Match(NamedTuple):
    start: int
    stop: int
    kind: str


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
    fold = _folds(new, old)
    words = _words(text, fold)
    names = {kind: [_name(one, fold) for one in some] for kind, some in (("other", others), ("old", old), ("new", new))}
    matches = list(_matches(words, names, [_name(one, fold) for one in echo]))
    if where == "start":
        first = _first(words)
        kinds = {match.kind for match in matches if match.start <= first}
        return Answer(text, *(kind in kinds for kind in ("new", "old", "other")))
    end = _first_sentence(words, matches)
    here = [match for match in matches if match.stop <= end]
    denied = _denied(words, [(m.start, m.stop) for m in here if m.kind == "echo"])
    kinds = {m.kind for m in here if m.kind != "new" or not any(at < m.start for at in denied)}
    return Answer(text, *(kind in kinds for kind in ("new", "old", "other")))


def whole_words(text: str) -> str:
    """A text that was cut somewhere, without its last word, of which a part may be missing; a single one stays."""
    last = next((match for match in _WORD.finditer(text) if match.end() == len(text.rstrip("\ufffd"))), None)
    if last is None or re.fullmatch(f"[{_ALONE}]", last[0]) or not text[: last.start()].strip():
        return text
    return text[: last.start()].rstrip()


def half_word(prompt: str) -> str:
    """With which a prompt ends that a model may go on inside a word of; '' where its next letter begins another."""
    found = _HALF_WORD.search(prompt)
    return found[0] if found else ""


def _folds(new: Sequence[str], old: Sequence[str]) -> bool:
    """Whether case and accents count for nothing: they do where they are what is corrected."""
    return not {_plain(one) for one in new} & {_plain(one) for one in old}


def _first(words: Sequence[_Word]) -> int:
    """Where an answer begins that stands at the start: after articles."""
    return next((i for i, word in enumerate(words) if word.text not in ARTICLES), 0)


def _plain(text: str) -> str:
    """Without case and without accents of Latin letters; other scripts' marks are letters of their own."""
    return unicodedata.normalize("NFKC", _LATIN_MARKS.sub("", unicodedata.normalize("NFKD", text))).casefold()


def _words(text: str, fold: bool) -> list[_Word]:
    text = _THOUSANDS.sub("", _plain(text) if fold else unicodedata.normalize("NFKC", text))
    found = list(_WORD.finditer(text))
    starts = [*(match.start() for match in found), len(text)][1:]
    return [_Word(match[0], text[match.end() : start]) for match, start in zip(found, starts, strict=True)]


def _name(text: str, fold: bool) -> tuple[_Word, ...]:
    """The words of an answer, without a leading article where that leaves something."""
    words = _words(text, fold)
    words[-1:] = [word._replace(after="") for word in words[-1:]]
    return tuple(words[1:] if len(words) > 1 and words[0].text.casefold() in ARTICLES else words)


def _matches(
    words: Sequence[_Word], names: Mapping[str, Sequence[tuple[_Word, ...]]], echo: Sequence[tuple[_Word, ...]]
) -> Iterator[_Match]:
    """Where each name stands, but for what lies inside a longer one or inside what repeats the question."""
    kinds = {name: kind for kind, some in names.items() for name in some if name}  # the last kind of a name counts
    found = [
        _Match(i, i + len(name), kind)
        for name, kind in [*kinds.items(), *((name, "echo") for name in echo if name)]
        for i in range(len(words) - len(name) + 1)
        if _stands(words[i : i + len(name)], name)
    ]
    for match in found:
        wider = (m for m in found if m.start <= match.start and match.stop <= m.stop)
        if not any(m.stop - m.start > match.stop - match.start for m in wider):
            yield match


def _stands(words: Sequence[_Word], name: Sequence[_Word]) -> bool:
    """Whether these words are the name's, in one sentence unless it has a full stop itself."""
    *first, last = zip(words, name, strict=True)
    if any(word.text != own.text for word, own in first) or not _same_word(last[0].text, last[1].text):
        return False
    return all(own.after.strip() or not _ends(word.after) for word, own in zip(words[:-1], name[:-1], strict=True))


def _same_word(word: str, name: str) -> bool:
    """Whether a word is that of a name, or its plural: "euros" are the euro."""
    return word == name or (len(name) > 2 and name.isalpha() and word in (f"{name}s", f"{name}es"))


def _ends(between: str) -> str:
    """The mark that ends a sentence between two words; '' where it goes on."""
    found = _ENDS_SENTENCE.match(between.lstrip(" \t*_\"'”’)]"))
    return found[0] if found else ""


def _first_sentence(words: Sequence[_Word], matches: Sequence[_Match]) -> int:
    """How many words it has. It ends in no answer and after no initial, and a number alone is that of a list."""
    inside = {i for match in matches for i in range(match.start, match.stop - 1)}
    for i, word in enumerate(words):
        if i in inside or not (end := _ends(word.after)):
            continue
        initial = len(word.text) == 1 and word.text.isalpha()
        if end.startswith(".") and (initial or word.text in ABBREVIATIONS) and i + 1 < len(words):
            continue
        if i == 0 and word.text.isdecimal() and not any(match.start == 0 for match in matches):
            continue
        return i + 1
    return len(words)


def _denied(words: Sequence[_Word], repeated: Sequence[tuple[int, int]]) -> list[int]:
    """Where words deny what comes after them, outside what repeats the question."""
    found = []
    for i, word in enumerate(words):
        contracted = word.text == "t" and i > 0 and words[i - 1].text.endswith("n") and words[i - 1].after in "'’"
        only = i + 1 < len(words) and words[i + 1].text in ("only", "just")
        inside = any(start <= i < stop for start, stop in repeated)
        if (contracted or word.text in NEGATIONS) and not only and not inside:
            found.append(i)
    return found
