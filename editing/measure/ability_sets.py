"""Sets of questions about general ability, each told by its columns, put as lm-evaluation-harness puts them.

Version 0.4.13, tasks `lambada_openai`, `piqa`, `hellaswag`, `arc_easy` and `arc_challenge`, without examples before the
question (https://github.com/EleutherAI/lm-evaluation-harness, lm_eval/tasks). One space stands between a context and
what is asked to follow it.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from editing.errors import ReadError

ANSWER = "Answer:"


@dataclass(frozen=True)
class Question:
    """A context and what may follow it after a space: one text (is it what the model says?) or several (which one?)."""

    context: str
    choices: tuple[str, ...]
    gold: int = 0
    """Number of the right choice."""


@dataclass(frozen=True)
class Form:
    """A set as it is published, or as it is prepared for these measures."""

    name: str
    columns: frozenset[str]
    """Those that tell it; a file may have more."""
    read: Callable[[Mapping[str, Any]], Question]


@dataclass(frozen=True)
class AbilitySet:
    name: str
    form: str
    rows: int
    """How many the file has."""
    questions: tuple[Question, ...]


def read_ability(
    rows: Iterable[Mapping[str, Any]], name: str, *, limit: int | None = None, seed: int = 0
) -> AbilitySet:
    """The questions of a file's rows, in the order of random.Random(seed).shuffle and cut to `limit`, if there is one.

    Raises:
        ReadError: there are no rows, no form has these columns, or a row cannot be asked.
    """
    found = list(rows)
    if not found:
        raise ReadError(f"'{name}' has no rows; give {_known()}")
    form = form_of(found[0], name)
    order = list(range(len(found)))
    if limit is not None:
        random.Random(seed).shuffle(order)
    questions = tuple(_question(form, found[number], number, name) for number in order[:limit])
    return AbilitySet(name, form.name, len(found), questions)


def form_of(row: Mapping[str, Any], name: str) -> Form:
    """The form of a file with such rows.

    Raises:
        ReadError: there is none that is known.
    """
    for form in FORMS:
        if form.columns <= row.keys():
            return form
    raise ReadError(f"'{name}' is no set of questions that is known: its columns are {', '.join(row)}; give {_known()}")


def _question(form: Form, row: Mapping[str, Any], number: int, name: str) -> Question:
    try:
        question = form.read(row)
        if not question.context.strip():
            raise ValueError("there is nothing before the answer")
        if not all(choice.strip() for choice in question.choices):
            raise ValueError("an answer is empty")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        raise ReadError(
            f"row {number + 1} of '{name}' is no question of {form.name}: {reason}; leave it out"
        ) from error
    return question


def _lambada(row: Mapping[str, Any]) -> Question:
    return Question(_text(row, "context"), (_text(row, "continuation").removeprefix(" "),))


def _lambada_published(row: Mapping[str, Any]) -> Question:
    context, space, last = _text(row, "text").rpartition(" ")
    if (
        not space or not last[-1:].isalnum()
    ):  # any file of texts has this column: what ends in a full stop is no LAMBADA
        raise ValueError("the text does not end with a word to be guessed")
    return Question(context, (last,))


def _prepared(row: Mapping[str, Any]) -> Question:
    query = _text(row, "query")
    return _choice(query if query.endswith("\n") else f"{query}\n", row["choices"], row["gold"], ANSWER)


def _piqa(row: Mapping[str, Any]) -> Question:
    choices = [_text(row, "sol1"), _text(row, "sol2")]
    return _choice(f"Question: {_text(row, 'goal')}\n", choices, row["label"], ANSWER)


def _arc(row: Mapping[str, Any]) -> Question:
    choices = row["choices"]
    gold = list(choices["label"]).index(row["answerKey"])
    return _choice(f"Question: {_text(row, 'question')}\n", choices["text"], gold, ANSWER)


def _hellaswag(row: Mapping[str, Any]) -> Question:
    said = f"{_text(row, 'activity_label')}: {_text(row, 'ctx_a')} {_text(row, 'ctx_b').capitalize()}"
    return _choice(_without_marks(said), [_without_marks(ending) for ending in row["endings"]], row["label"])


def _without_marks(text: str) -> str:
    """HellaSwag's text without what its second source, WikiHow, left in it: titles and other words in brackets."""
    unmarked = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return unmarked.replace("  ", " ")


def _choice(context: str, choices: Iterable[Any], gold: object, end: str = "") -> Question:
    texts = tuple(choices)
    if len(texts) < 2 or not all(isinstance(one, str) for one in texts):
        raise ValueError(f"its choices are {texts!r:.80}, not two texts or more")
    number = int(gold) if isinstance(gold, int) or (isinstance(gold, str) and gold.isdecimal()) else -1
    if not 0 <= number < len(texts):
        raise ValueError(f"its answer is {gold!r}, not a number from 0 to {len(texts) - 1}")
    return Question(context + end, texts, number)


def _text(row: Mapping[str, Any], column: str) -> str:
    if not isinstance(row[column], str):
        raise ValueError(f"'{column}' is {row[column]!r:.80}, no text")
    return str(row[column])


FORMS = (
    Form("LAMBADA", frozenset({"context", "continuation"}), _lambada),
    Form("HellaSwag", frozenset({"activity_label", "ctx_a", "ctx_b", "endings", "label"}), _hellaswag),
    Form("PIQA", frozenset({"goal", "sol1", "sol2", "label"}), _piqa),
    Form("ARC", frozenset({"question", "choices", "answerKey"}), _arc),
    Form("multiple choice", frozenset({"query", "choices", "gold"}), _prepared),
    Form("LAMBADA", frozenset({"text"}), _lambada_published),
)


def _known() -> str:
    return ", ".join(f"{form.name} ({', '.join(sorted(form.columns))})" for form in FORMS)
