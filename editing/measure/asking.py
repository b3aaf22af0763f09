"""Measures beyond the metrics: what each asks about a fact, all of it asked in one batched pass, and what came of it.

A measure says which (prompt, target) it wants scored for an edit, and reads its numbers from the scores: of the model
as it is, and where there are some of the model before. Everything is a greedy or teacher-forced reading of the same
pass: a target whose tokens are all the most probable ones is what the model begins to say.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.edit import Edit
from editing.errors import InvalidEdit
from editing.measure.scoring import Score, encode_queries, score
from editing.progress import OnProgress, unheard
from editing.weights import WeightUpdate, one_each

Pair = tuple[str, str]
Scores = Mapping[Pair, Score]
Numbers = dict[str, float]
Found = dict[str, Numbers]
"""Numbers of one edit, by measure or group."""


class Measure(Protocol):
    def pairs(self, edit: Edit) -> Sequence[Pair]:
        """What is to be scored; nothing where it cannot be asked of this edit."""

    def read(self, edit: Edit, now: Scores, then: Scores | None) -> Found:
        """Its numbers, where `pairs` gave something; those that compare only with what was `then`, before editing."""


Questions = Sequence[Mapping[str, Sequence[Pair]]]
"""For each edit what each measure asks."""


def questions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], measures: Mapping[str, Measure]
) -> Questions:
    """What is asked of each edit; a measure leaves out an edit for which it asks what the model cannot read."""
    asked = [{name: pairs for name, one in measures.items() if (pairs := _pairs(one, edit))} for edit in edits]
    if _readable(model, tokenizer, [pair for some in asked for pairs in some.values() for pair in pairs]):
        return asked
    return [{name: pairs for name, pairs in some.items() if _readable(model, tokenizer, pairs)} for some in asked]


def unasked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    measures: Mapping[str, Measure],
    asked: Questions,
) -> dict[str, str]:
    """Which measures ask nothing of any edit, and why, as of the first edit that says so."""
    heard = set().union(*asked)
    return {name: _reason(model, tokenizer, edits, one) for name, one in measures.items() if name not in heard}


def _reason(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], measure: Measure) -> str:
    for edit in edits:
        try:
            if pairs := measure.pairs(edit):
                encode_queries(model, tokenizer, pairs)
        except InvalidEdit as error:
            return str(error)
    return "no fact has what it asks by, as an old answer (target_true) or a prompt that is no conversation already"


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Questions,
    *,
    updates: Sequence[WeightUpdate | None] | None = None,
    batch_tokens: int | None = None,
    on_progress: OnProgress = unheard,
) -> list[Scores]:
    """The scores of all that is asked, by edit, from one pass over all different rows; `updates` as in `evaluate`.

    Raises:
        EditingError: there is not one update for each edit.
    """
    pairs = [list(dict.fromkeys(pair for some in one.values() for pair in some)) for one in asked]
    own = one_each(updates, len(asked), "edit")
    in_force = [update for update, some in zip(own, pairs, strict=True) for _ in some]
    flat = [pair for some in pairs for pair in some]
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "on_progress": on_progress}
    found = iter(score(model, tokenizer, flat, updates=in_force, **options))
    return [{pair: next(found) for pair in some} for some in pairs]


def read(
    measures: Mapping[str, Measure],
    edits: Sequence[Edit],
    asked: Questions,
    now: Sequence[Scores],
    then: Sequence[Scores] | None = None,
) -> list[Found]:
    """The numbers of each edit."""
    before = then if then is not None else [None] * len(edits)
    return [
        {name: numbers for one in some for name, numbers in measures[one].read(edit, new, old).items()}
        for edit, some, new, old in zip(edits, asked, now, before, strict=True)
    ]


def summary(found: Iterable[Found]) -> dict[str, Numbers]:
    """For each measure the mean of each number over the edits that have it, and `edits`, how many it was asked of."""
    some = list(found)
    names = dict.fromkeys(name for one in some for name in one)
    return {name: _means([one[name] for one in some if name in one]) for name in names}


def _means(numbers: Sequence[Numbers]) -> Numbers:
    means = {"edits": float(len(numbers))}
    for name in dict.fromkeys(name for one in numbers for name in one):
        values = [one[name] for one in numbers if name in one]
        means[name] = sum(values) / len(values)
    return means


def prefers(scores: Scores, prompt: str, one: str, other: str) -> float:
    """log p(one) - log p(other) after the prompt, a token: in nats, as the metrics compare."""
    return scores[prompt, one].mean_logprob - scores[prompt, other].mean_logprob


def _pairs(measure: Measure, edit: Edit) -> Sequence[Pair]:
    try:
        return measure.pairs(edit)
    except InvalidEdit:  # a chat template that changes what is said
        return []


def _readable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> bool:
    try:
        encode_queries(model, tokenizer, pairs)
    except InvalidEdit:
        return False
    return True
