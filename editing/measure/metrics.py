"""What an edit did: efficacy, generalization, locality and portability, each a share between 0 and 1.

`_prob` compares probabilities, as CounterFact does (Meng et al. 2022, https://arxiv.org/abs/2202.05262), by the mean
log-probability of a target's tokens so that a long target has no handicap; `_argmax` asks that every token of the
answer is the most probable one. A share is None where there is nothing to measure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.edit import Edit, Probe
from editing.measure.scoring import Score, score
from editing.progress import OnProgress, unheard
from editing.weights import WeightUpdate, one_each

METRICS = (
    "efficacy_prob",
    "efficacy_argmax",
    "generalization_prob",
    "generalization_argmax",
    "locality_prob",
    "locality_argmax",
    "locality_kept",
    "locality_kept_tokens",
    "portability_prob",
    "portability_argmax",
)

Known = dict[tuple[str, str], Score]
"""What a model was found to say to (prompt, target)."""
_Scores = Mapping[tuple[str, str], Score]


@dataclass(frozen=True)
class EditScores:
    """The metrics of one edit."""

    edit_id: str
    efficacy_prob: float | None = None
    """The new target is more probable than the true one; where no true one is given, the same as efficacy_argmax."""
    efficacy_argmax: float | None = None
    generalization_prob: float | None = None
    """As efficacy, the mean over the paraphrases."""
    generalization_argmax: float | None = None
    locality_prob: float | None = None
    """At the neighborhood probes the answer (the probe's own, else the true target) is more probable than the new."""
    locality_argmax: float | None = None
    """Share of the neighborhood probes whose answer's tokens are all the most probable ones."""
    locality_kept: float | None = None
    """Share of the neighborhood probes where the most probable tokens are those of before editing."""
    locality_kept_tokens: float | None = None
    """The same by token: the share of an answer's tokens, the mean over the probes, as zsRE is measured."""
    portability_prob: float | None = None
    """As efficacy, of the portability probes' own answers against the true target."""
    portability_argmax: float | None = None
    neighborhood_preferred: tuple[float | None, ...] = ()
    """What locality_prob is the mean of, at each neighborhood probe: None where the answer is the new one, or none."""
    neighborhood_said: tuple[float | None, ...] = ()
    """What locality_argmax is the mean of: None where there is no right answer."""
    neighborhood_tokens: tuple[tuple[int, ...], ...] = ()
    """The most probable tokens at each neighborhood probe, for `locality_kept` of a later evaluation."""

    def numbers(self) -> dict[str, float]:
        """The metrics that this edit has, by name."""
        return {name: value for name in METRICS if (value := getattr(self, name)) is not None}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "EditScores":
        """What `to_json` gave. Raises KeyError when something is missing."""
        shares = {name: fields[name] for name in METRICS}
        tokens = tuple(tuple(probe) for probe in fields["neighborhood_tokens"])
        preferred, says = tuple(fields["neighborhood_preferred"]), tuple(fields["neighborhood_said"])
        return cls(
            fields["edit_id"],
            **shares,
            neighborhood_preferred=preferred,
            neighborhood_said=says,
            neighborhood_tokens=tokens,
        )


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    *,
    before: Mapping[str, EditScores] | None = None,
    max_neighborhood: int | None = None,
    updates: Sequence[WeightUpdate | None] | None = None,
    batch_tokens: int | None = None,
    known: Known | None = None,
    on_progress: OnProgress = unheard,
) -> list[EditScores]:
    """Every metric of every edit, from one pass over all different rows.

    Args:
        updates: one for each edit, which is measured as if this update alone were in force; left out, on the model as
            it stands.
        before: scores of the same edits, by id, on the model before editing; without them no `locality_kept`
            and no `locality_kept_tokens`.
        max_neighborhood: only so many neighborhood probes of an edit, the first ones.
        batch_tokens, on_progress: see `score`.
        known: what the model, as it stands, said before: it is not asked again, and what it says now is added. Not for
            `updates`.

    Raises:
        InvalidEdit: a prompt without tokens, or longer than the model reads.
        EditingError: there is not one update for each edit.
    """
    asked = [(edit, edit.neighborhood[:max_neighborhood]) for edit in edits]
    pairs = [list(dict.fromkeys(edit_pairs(edit, neighborhood))) for edit, neighborhood in asked]
    own = one_each(updates, len(edits), "edit")
    in_force = [update for update, some in zip(own, pairs, strict=True) for _ in some]
    flat = [pair for some in pairs for pair in some]
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "on_progress": on_progress}
    if known is None:
        found = iter(score(model, tokenizer, flat, updates=in_force, **options))
        scores: Sequence[_Scores] = [{pair: next(found) for pair in some} for some in pairs]
    else:
        missing = [pair for pair in dict.fromkeys(flat) if pair not in known]
        known.update(zip(missing, score(model, tokenizer, missing, **options), strict=True))
        scores = [known] * len(edits)
    earlier = before or {}
    return [
        _measure(edit, neighborhood, some, earlier.get(edit.id))
        for (edit, neighborhood), some in zip(asked, scores, strict=True)
    ]


def summarise(scores: Sequence[EditScores]) -> dict[str, float]:
    """The mean of each metric over the edits that have it; a metric that none has is left out."""
    means = {name: _mean([getattr(one, name) for one in scores]) for name in METRICS}
    return {name: value for name, value in means.items() if value is not None}


def edit_pairs(edit: Edit, neighborhood: Sequence[Probe]) -> Iterator[tuple[str, str]]:
    for prompt in (edit.text, *edit.paraphrases):
        yield from prompt_pairs(edit, prompt)
    for probe in neighborhood:
        yield from neighbor_pairs(edit, probe)
    for probe in edit.portability:
        yield from portability_pairs(edit, probe)


def prompt_pairs(edit: Edit, prompt: str) -> Iterator[tuple[str, str]]:
    """What is scored at the edit's own prompt or at a paraphrase, as (prompt, target)."""
    yield prompt, edit.target_new
    if edit.target_true is not None:
        yield prompt, edit.target_true


def neighbor_pairs(edit: Edit, probe: Probe) -> Iterator[tuple[str, str]]:
    """What is scored at a neighborhood probe."""
    yield probe.prompt, edit.target_new
    if (answer := right_answer(edit, probe)) is not None:
        yield probe.prompt, answer


def portability_pairs(edit: Edit, probe: Probe) -> Iterator[tuple[str, str]]:
    """What is scored at a portability probe; nothing where its answer is not known."""
    if probe.answer is not None:
        yield probe.prompt, probe.answer
        if edit.target_true is not None:
            yield probe.prompt, edit.target_true


def _measure(edit: Edit, neighborhood: Sequence[Probe], scores: _Scores, before: EditScores | None) -> EditScores:
    prompts = edit.paraphrases
    answered = [probe for probe in edit.portability if probe.answer is not None]
    tokens = tuple(_tokens(edit, probe, scores) for probe in neighborhood)
    preferred = tuple(_keeps(edit, probe, scores) for probe in neighborhood)
    says = tuple(_answers(edit, probe, scores) for probe in neighborhood)
    # One side may have measured fewer probes.
    both = [] if before is None else list(zip(tokens, before.neighborhood_tokens, strict=False))
    return EditScores(
        edit_id=edit.id,
        efficacy_prob=_wins(scores, edit.text, edit.target_new, edit.target_true),
        efficacy_argmax=float(scores[edit.text, edit.target_new].argmax),
        generalization_prob=_mean([_wins(scores, p, edit.target_new, edit.target_true) for p in prompts]),
        generalization_argmax=_mean([float(scores[p, edit.target_new].argmax) for p in prompts]),
        locality_prob=_mean(preferred),
        locality_argmax=_mean(says),
        locality_kept=_mean([float(now == then) for now, then in both]),
        locality_kept_tokens=_mean([_same(now, then) for now, then in both]),
        portability_prob=_mean(
            [_wins(scores, p.prompt, p.answer, edit.target_true) for p in answered if p.answer is not None]
        ),
        portability_argmax=_mean([float(scores[p.prompt, p.answer].argmax) for p in answered if p.answer is not None]),
        neighborhood_preferred=preferred,
        neighborhood_said=says,
        neighborhood_tokens=tokens,
    )


def right_answer(edit: Edit, probe: Probe) -> str | None:
    """Of a neighborhood probe: its own, else the edit's true target; None where neither is known."""
    return probe.answer if probe.answer is not None else edit.target_true


def _wins(scores: _Scores, prompt: str, wanted: str, other: str | None) -> float:
    """1 if `wanted` is more probable than `other`; with no other, if it is the most probable of all."""
    if other is None or other == wanted:
        return float(scores[prompt, wanted].argmax)
    return float(scores[prompt, wanted].mean_logprob > scores[prompt, other].mean_logprob)


def _keeps(edit: Edit, probe: Probe, scores: _Scores) -> float | None:
    answer = right_answer(edit, probe)
    if answer is None or answer == edit.target_new:
        return None
    return _wins(scores, probe.prompt, answer, edit.target_new)


def _answers(edit: Edit, probe: Probe, scores: _Scores) -> float | None:
    answer = right_answer(edit, probe)
    return None if answer is None else float(scores[probe.prompt, answer].argmax)


def _tokens(edit: Edit, probe: Probe, scores: _Scores) -> tuple[int, ...]:
    """The most probable tokens where the answer stands; without an answer, the one that follows the prompt."""
    answer = right_answer(edit, probe)
    if answer is None:  # the first prediction does not depend on the target that was scored
        return scores[probe.prompt, edit.target_new].predicted[:1]
    return scores[probe.prompt, answer].predicted


def _same(now: tuple[int, ...], then: tuple[int, ...]) -> float:
    return sum(a == b for a, b in zip(now, then, strict=True)) / len(now)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
