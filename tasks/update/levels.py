"""The rows of a verdict that hold a share or a size of a sample against a limit, beyond what chance would do to it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from editing.measure.said import Said
from tasks.report.data import Check
from tasks.update.evidence import FALSE_ALARMS, RESOLUTION, Evidence, share_of, shares, sizes
from tasks.update.families import holm, together
from tasks.update.gates import RELATIVE, Form, Level, Levels, Then, applies
from tasks.update.measured import Lost, Measured, Paired, questions_of

At = Literal["batch", "job"]
WORDS = {"worse_than_base": "the base", "worse_than_champion": "the version in service"}


@dataclass(frozen=True)
class Question:
    """One limit and the sample that is held against it; without a sample it was not measured."""

    measure: str
    field: str
    then: Then
    form: Form
    threshold: str
    limit: float
    paired: Paired | None
    family: str = ""
    """Of several readings of the same requests, the last being the sum of the others; empty: it is the only one."""

    @property
    def asked(self) -> bool:
        """Whether there was anything to ask."""
        return self.paired is None or len(self.paired.now) > 0


def level_rows(questions: Sequence[Question]) -> list[Check]:
    """A row for each question: breached, kept, or too few to tell. They are judged together, so that a clean job has a
    false alarm among all of them in at most one of twenty cases."""
    found = {place: evidence for place, one in enumerate(questions) if (evidence := _evidence(one)) is not None}
    families: dict[str, list[int]] = {}
    for place in found:
        families.setdefault(questions[place].family or str(place), []).append(place)
    for places in families.values():
        if len(places) > 1:
            found |= zip(places, together([found[place] for place in places]), strict=True)
    weights = [len(places) for places in families.values()]
    alphas = holm([min(found[place].breached for place in places) for places in families.values()], weights)
    breached = {
        place: found[place].breached <= alpha
        for places, alpha in zip(families.values(), alphas, strict=True)
        for place in places
    }
    shares_of_alpha = {
        place: FALSE_ALARMS * len(places) / sum(weights) for places in families.values() for place in places
    }
    return [
        _row(one, found[place], breached[place], shares_of_alpha[place]) if place in found else _without(one)
        for place, one in enumerate(questions)
    ]


def questions(measured: Measured, levels: Levels, at: At) -> Iterator[Question]:
    """All that the levels of a policy ask, in their order."""
    for name in Levels.model_fields:
        level: Level | None = getattr(levels, name)
        if level is not None and applies(level.when, at):
            yield from _asked(name, level, measured, levels, at)


def neighbor_questions(
    lost: Mapping[str, Lost], threshold: str, limit: float, field: str, then: Then, counts: Sequence[str]
) -> Iterator[Question]:
    """Some counts of neighbors against one limit, and where there are several of them their sum; of those that
    nobody was asked about none but the first."""
    found = {measure: paired for measure, paired in questions_of(lost).items() if measure in counts}
    asked = {measure: paired for measure, paired in found.items() if paired.now} or dict([*found.items()][:1])
    if len(asked) > 1:
        columns = [[*chain.from_iterable(column)] for column in zip(*map(_columns, asked.values()), strict=True)]
        asked["neighbors_together"] = Paired(columns[0], columns[1], of=columns[2])
    for measure, paired in asked.items():
        given = Paired(paired.now, paired.base, paired.base, paired.of)
        family = f"{field} of neighbors" if len(asked) > 1 else ""
        yield Question(measure, field, then, "share", threshold, limit, given, family)


def neighbor_counts(name: str, threshold: str, levels: Levels, at: At) -> tuple[str, ...]:
    """Those that a level of neighbors is about: what is still said where that has a level, and else all of them."""
    if name == "neighbors_said":
        return (name,)
    own = levels.neighbors_said
    apart = own is not None and threshold in own.thresholds and applies(own.when, at)
    return tuple(measure for measure, *_ in Lost().counts() if not (apart and measure == "neighbors_said"))


def _columns(paired: Paired) -> tuple[Sequence[Any], ...]:
    return paired.now, paired.base or (), paired.of


def _asked(name: str, level: Level, measured: Measured, levels: Levels, at: At) -> Iterator[Question]:
    form = Levels.form(name)
    for threshold, limit in level.thresholds.items():
        field = f"levels.{name}.{threshold}"
        if name in Levels.NEIGHBORS:
            counts = neighbor_counts(name, threshold, levels, at)
            lost = measured.lost_to_champion if threshold == "worse_than_champion" else measured.lost_once
            if lost or threshold == "worse_than_base":
                asked = neighbor_questions(lost, threshold, limit, field, level.then, counts)
                yield from (one for one in asked if one.asked or name == "neighbors" or levels.neighbors is None)
            continue
        some = {key: one for key, one in measured.paired.items() if key == name or key.startswith(f"{name}.")}
        own = counted(measured, name, "retained_efficacy_prob") if name == "retained" else _of_said(name, measured)
        if not some and own is not None:
            some = {name: own}
        for key, paired in some.items():
            if threshold == "worse_than_champion" and paired.champion is None:
                continue  # nothing is in service yet
            yield Question(key, field, level.then, form, threshold, limit, paired)
        if not some:
            yield Question(name, field, level.then, form, threshold, limit, None)


def counted(measured: Measured, measure: str, metric: str) -> Paired | None:
    """A share of so many as questions that are right or wrong; none where it was not measured."""
    sample, share = measured.samples.get(measure), measured.metrics.get(metric, math.nan)
    if sample == 0:
        return Paired(())
    if sample is None or not 0 <= share <= 1:
        return None
    right = round(share * sample)
    return Paired([1.0] * right + [0.0] * (sample - right))


def _of_said(name: str, measured: Measured) -> Paired | None:
    """What was said as questions that are right or wrong, now and on the base; none where nobody asked."""
    if name not in ("said", "said_paraphrases", "said_chat", "old_chat") or not measured.said:
        return None
    now, base = _answers(name, measured.said), _answers(name, measured.base_said)
    champion = None if measured.champion_said is None else _answers(name, measured.champion_said)
    keys = [key for key, _ in now]
    return Paired(
        [one for _, one in now],
        [one for _, one in base] if [key for key, _ in base] == keys else None,
        None if champion is None else [one for _, one in champion] if [key for key, _ in champion] == keys else (),
        keys,
    )


def _answers(name: str, said: Mapping[str, Said]) -> list[tuple[str, float]]:
    """(request, whether its answer is right, or the old one there) of each question."""
    found: list[tuple[str, float]] = []
    for key, one in said.items():
        answers = {"said": (one.prompt,), "said_paraphrases": one.paraphrases}.get(name, (one.chat,))
        given = [answer for answer in answers if answer is not None]
        found += [(key, float(answer.old if name == "old_chat" else answer.right)) for answer in given]
    return found


def _evidence(question: Question) -> Evidence | None:
    paired, limit = question.paired, question.limit
    if paired is None or not question.asked:
        return None
    before = paired.champion if question.threshold == "worse_than_champion" else paired.base
    if question.threshold in RELATIVE and (before is None or len(before) != len(paired.now)):
        return None
    if question.form == "loss":
        if question.threshold == "max":
            return sizes(paired.now, None, math.log(limit) if limit else -math.inf, math.log1p(RESOLUTION))
        return sizes(paired.now, before, math.log1p(limit), math.log1p(RESOLUTION))
    if question.form == "number":
        return sizes(paired.now, None, limit, max(limit, 1e-12))
    if question.form == "bad share":
        now = [1 - one for one in paired.now]
        before = None if before is None else [1 - one for one in before]
    else:
        now = list(paired.now)
    if question.threshold in RELATIVE and before is not None:
        return shares(now, before, limit, paired.of)
    return share_of(now, limit if question.threshold == "min" else 1 - limit, paired.of)


def _row(question: Question, evidence: Evidence, breached: bool, alpha: float) -> Check:
    value, limit = _shown(question, evidence)
    told = breached or evidence.is_kept
    return Check(
        measure=question.measure,
        value=value,
        limit=limit,
        field=question.field,
        sample=evidence.sample,
        holds=not breached,
        reason=_reason(question, value, limit, evidence) if breached else "",
        kind="level",
        then=question.then,
        p=evidence.breached,
        told=told,
        needs=None if told else _needed(evidence, alpha),
    )


def _needed(evidence: Evidence, alpha: float) -> int | None:
    needs = evidence.needs.questions(alpha)
    return None if needs is None else max(needs, evidence.sample + 1)


def _shown(question: Question, evidence: Evidence) -> tuple[float, float]:
    """Value and limit in the unit that the measure is shown in."""
    paired, of = question.paired, evidence.sample
    assert paired is not None  # there is evidence
    if question.measure.startswith("neighbors_"):
        return float(round(evidence.value * of)), evidence.limit * of
    mean = math.fsum(paired.now) / of if all(map(math.isfinite, paired.now)) else math.nan
    if question.form == "number":
        return mean, evidence.limit
    if question.form == "loss":
        size = math.exp(min(mean, 700.0)) if question.threshold == "max" else math.exp(min(evidence.value, 700.0))
        return size, math.exp(evidence.limit)
    before = paired.champion if question.threshold == "worse_than_champion" else paired.base
    if question.threshold in RELATIVE and before is not None:
        then = math.fsum(before) / of
        return mean, then + question.limit if question.form == "bad share" else then - question.limit
    return mean, question.limit


def _reason(question: Question, value: float, limit: float, evidence: Evidence) -> str:
    chance = f"by chance in {_percent(evidence.breached)} of such samples"
    if question.measure.startswith("neighbors_"):
        words = {measure: words for measure, _, _, words in Lost().counts()}
        what = words.get(question.measure, "answers of neighbors lost, all counts together")
        since = "" if question.threshold != "worse_than_champion" else " since the version in service"
        found = f"{value:.0f} of {evidence.sample} {what}{since}"
    elif question.form in ("loss", "number"):
        found = f"{question.measure} is {value:.4g}"
    else:
        found = f"{question.measure} is {value:.1%} of {evidence.sample}"
    against = f" against {WORDS[question.threshold]}" if question.threshold in RELATIVE else ""
    return f"{found}{against}, {question.field} is {question.limit:g}: {chance}"


def _percent(p: float) -> str:
    return "less than 0.1 %" if p < 0.001 else f"{100 * p:.1f} %"


def _without(question: Question) -> Check:
    """What should have been measured and was not fails; what had nothing to ask cannot."""
    shared = {"measure": question.measure, "field": question.field, "kind": "level", "then": question.then}
    if not question.asked:
        return Check.model_validate(shared | {"sample": 0, "holds": True})
    reason = f"{question.measure} was not measured, {question.field} is {question.limit:g}"
    return Check.model_validate(shared | {"value": math.nan, "holds": False, "reason": reason})
