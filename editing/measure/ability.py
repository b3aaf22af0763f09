"""General ability as lm-evaluation-harness measures it: which text of several the model finds most probable.

https://github.com/EleutherAI/lm-evaluation-harness, version 0.4.13; the same numbers for the same items
(`python -m tests.benchmarks.lm_eval_agreement`). With log p(c) the log-probability of choice c after the context, the
sum over its tokens:

    acc       share of questions whose right choice is argmax log p(c)
    acc_norm  the same of argmax log p(c) / |c|, |c| the number of characters of c without the space before it

and where there is one text to be said (LAMBADA):

    acc         share of texts of which every token is the most probable one
    perplexity  exp(-mean log p(c))

A standard error is that of a mean over n questions, s / sqrt(n) with s² of n - 1 degrees of freedom; that of a
difference is taken over each question's difference, since both models are asked the same. Of a perplexity P it is that
of P's linearisation, each text counting -P log p(c); lm-evaluation-harness draws samples instead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.errors import EditingError
from editing.measure.ability_sets import Question
from editing.measure.scoring import Query, encode_prompts, score_queries
from editing.progress import OnProgress, unheard
from editing.tokens import max_positions, pad_token


@dataclass(frozen=True)
class Answer:
    """What a model makes of the choices of a question."""

    logprobs: tuple[float, ...]
    """Log-probability of each choice, the sum over its tokens."""
    greedy: tuple[bool, ...]
    """Every token of the choice is the most probable one."""


@dataclass(frozen=True)
class Comparison:
    """A measure of two states of a model, on the same questions. No standard error where there is one question."""

    before: float
    after: float
    stderr_before: float | None
    stderr_after: float | None
    stderr_difference: float | None

    @property
    def difference(self) -> float:
        return self.after - self.before


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    batch_tokens: int | None = None,
    on_progress: OnProgress = unheard,
) -> list[Answer]:
    """Ask each question; the choices of one share its context.

    Args:
        batch_tokens, on_progress: as in `score`.

    Raises:
        EditingError: a choice has no tokens of its own, or more than the model reads.
    """
    pairs = [(question.context, choice) for question in questions for choice in question.choices]
    queries = encode_pairs(model, tokenizer, pairs)
    scores = iter(
        score_queries(model, queries, pad_token(tokenizer), batch_tokens=batch_tokens, on_progress=on_progress)
    )
    answers = []
    for question in questions:
        mine = [next(scores) for _ in question.choices]
        answers.append(Answer(tuple(one.logprob for one in mine), tuple(one.argmax for one in mine)))
    return answers


def encode_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[Query]:
    """Each context and what follows it after a space, as lm-evaluation-harness tokenises them.

    White space at the end of a context goes to what follows; both are tokenised as one text, with the special tokens
    that the tokenizer puts there, and what follows are the tokens beyond as many as the context alone has. Of a row
    that is longer than the model reads its beginning is left out. Special tokens that a question spells out are text,
    which they are not there.

    Raises:
        EditingError: a choice has no tokens of its own, or more than the model reads.
    """
    contexts = [context.rstrip() for context, _ in pairs]
    wholes = [f"{context} {choice}" for context, choice in pairs]
    encoded = encode_prompts(tokenizer, [*contexts, *wholes])
    limit = max_positions(model)
    queries = []
    for context, whole in zip(contexts, wholes, strict=True):
        ids, count = encoded[whole], len(encoded[whole]) - len(encoded[context])
        if count < 1 or (limit is not None and count > limit):
            raise EditingError(
                f"'{whole[len(context) :]:.80}' has {max(count, 0)} tokens after '{context[-80:]}', "
                f"the model takes {f'1 to {limit}' if limit else 'at least 1'}; leave the question out"
            )
        row = (ids if limit is None else ids[-(limit + 1) :])[:-1]
        queries.append(Query(tuple(row), len(row) - count, tuple(ids[-count:])))
    return queries


def compare(questions: Sequence[Question], before: Sequence[Answer], after: Sequence[Answer]) -> dict[str, Comparison]:
    """Each measure of the questions, by name; `before` and `after` answer them in their order."""
    values = [[values_of(*one) for one in zip(questions, answers, strict=True)] for answers in (before, after)]
    return {name: _compared(name, *([one[name] for one in state] for state in values)) for name in values[0][0]}


def values_of(question: Question, given: Answer) -> dict[str, float]:
    """What one answer adds to each measure: 1 where it is right, of `perplexity` the log-probability.

    A model that gives NaN is right nowhere.
    """
    if len(question.choices) == 1:
        [logprob], [said] = given.logprobs, given.greedy
        return {"acc": float(said and math.isfinite(logprob)), "perplexity": logprob}
    normed = [logprob / len(choice) for logprob, choice in zip(given.logprobs, question.choices, strict=True)]
    return {"acc": _right(given.logprobs, question.gold), "acc_norm": _right(normed, question.gold)}


def _right(values: Sequence[float], gold: int) -> float:
    return float(not any(map(math.isnan, values)) and values.index(max(values)) == gold)


def _compared(name: str, before: Sequence[float], after: Sequence[float]) -> Comparison:
    if name == "perplexity":
        value_before, value_after = _perplexity(before), _perplexity(after)
        # What each text adds to it, to first order: from here on it is a mean like others.
        before, after = [-value_before * one for one in before], [-value_after * one for one in after]
    else:
        value_before, value_after = fmean(before), fmean(after)
    changes = [b - a for a, b in zip(before, after, strict=True)]
    return Comparison(value_before, value_after, stderr(before), stderr(after), stderr(changes))


def _perplexity(logprobs: Sequence[float]) -> float:
    mean = fmean(logprobs)
    return math.exp(min(-mean, 700.0)) if math.isfinite(mean) else math.inf


def stderr(values: Sequence[float]) -> float | None:
    """Standard error of the mean of values, or None where it is not defined."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return stdev(values) / math.sqrt(len(values))
