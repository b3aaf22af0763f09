"""The one judge of a batch and of a candidate: what was measured, against the policy, as rows of data.

The job keeps or undoes by these rows, and report, summary and command line print them: nobody else compares.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.report.data import Check
from tasks.update.levels import Question, counted, level_rows, neighbor_counts, neighbor_questions, questions
from tasks.update.measured import Lost, Measured, Paired, allowed_losses
from tasks.update.policy import Policy
from tasks.update.tripwires import tripwire_rows

__all__ = ["MEASURES", "Lost", "Measured", "Paired", "allowed_losses", "judge", "judge_neighbors"]


@dataclass(frozen=True)
class _Rule:
    """A metric against one field of the policy; `reason` is why it fails."""

    measure: str
    metric: str
    field: str
    reason: str
    digits: int = 2
    where_asked: bool = False
    """A row only where it was asked; of the others what should have been measured and was not fails."""


RULES = (
    _Rule("efficacy", "efficacy_prob", "min_efficacy", "efficacy {value} is below min_efficacy {limit}"),
    _Rule(
        "fluency",
        "fluency_ratio",
        "min_fluency_ratio",
        "fluency is {value} of the base's, min_fluency_ratio is {limit}",
    ),
    _Rule(
        "perplexity",
        "perplexity_ratio",
        "max_perplexity_ratio",
        "perplexity is {value} times the base's, max_perplexity_ratio is {limit}",
        digits=3,
    ),
    _Rule(
        "retained",
        "retained_efficacy_prob",
        "min_retained",
        "only {value} of earlier facts hold, min_retained is {limit}",
    ),
    _Rule(
        "retained_said",
        "retained_said",
        "min_retained",
        "only {value} of the earlier facts that hold are still said, min_retained is {limit}",
        where_asked=True,  # not of a job, whose facts themselves are read
    ),
)


MEASURES = tuple(rule.measure for rule in RULES)


def judge(
    measured: Measured,
    policy: Policy,
    measures: Sequence[str] = MEASURES,
    at: Literal["batch", "job"] = "batch",
) -> tuple[Check, ...]:
    """The rows of the verdict, or those of some measures, of the neighbors and of what was said.

    What should have been measured and was not fails; what had nothing to ask cannot. Of a batch the shares are counts;
    of a job they are levels, which are breached beyond what chance would do to their sample.
    """
    asked = list(questions(measured, policy.levels, at)) if at == "job" or set(measures) >= set(MEASURES) else []
    if at == "batch":
        plain: Sequence[_Rule] = RULES
        neighbors = [*judge_neighbors(measured.lost, measured.lost_once, policy)]
    else:
        tested = {rule.measure: one for rule in RULES if (one := _tested(rule, measured, policy)) is not None}
        if policy.levels.neighbors is None or not _against_base(asked):
            counts = neighbor_counts("neighbors", "worse_than_base", policy.levels, at)
            asked[:0] = neighbor_questions(
                measured.lost_once, "worse_than_base", policy.max_locality_drop, "max_locality_drop", "stop", counts
            )
        asked = [*tested.values(), *asked]
        plain = tuple(rule for rule in RULES if rule.measure not in tested)
        neighbors = [*_alone(measured.lost, policy)]
    wanted = [one for one in plain if not one.where_asked or one.measure in measured.samples]
    rows = [_compared(rule, measured, policy) for rule in wanted if rule.measure in measures]
    first = [row for row in rows if row.measure == "efficacy"]
    rest = [row for row in rows if row.measure != "efficacy"]
    wires = tripwire_rows(measured, policy.tripwires, at)
    return (*first, *_beside(measured.beside), *wires, *neighbors, *rest, *level_rows(asked))


def _against_base(asked: Sequence[Question]) -> bool:
    return any(one.field == "levels.neighbors.worse_than_base" for one in asked)


def _tested(rule: _Rule, measured: Measured, policy: Policy) -> Question | None:
    """The same rule as a level of the whole job; none where every single one counts, or where no sample is known."""
    limit = getattr(policy, rule.field)
    if rule.measure == "perplexity":
        paired = measured.paired.get("perplexity")
        known = paired is not None and paired.base is not None
        return (
            Question("perplexity", rule.field, "stop", "loss", "worse_than_base", limit - 1, paired) if known else None
        )
    if rule.measure == "fluency" or limit == 1:
        return None
    paired = counted(measured, rule.measure, rule.metric)
    return Question(rule.measure, rule.field, "stop", "share", "min", limit, paired) if paired else None


def _beside(beside: Mapping[str, float]) -> Iterator[Check]:
    """What was said where the new facts are written, too, must still be said: all of it, whatever the policy."""
    lost = [name for name, holds in beside.items() if not holds]
    if beside:
        named = ", ".join(f"'{name}'" for name in lost)
        yield Check(
            measure="same_subject",
            value=len(lost),
            limit=0,
            sample=len(beside),
            holds=not lost,
            reason=f"earlier facts of the same subject, or one nearly alike, no longer hold: {named}" if lost else "",
        )


def _compared(rule: _Rule, measured: Measured, policy: Policy) -> Check:
    limit, sample = getattr(policy, rule.field), measured.samples.get(rule.measure)
    if sample == 0:
        return Check(measure=rule.measure, limit=limit, field=rule.field, sample=0, holds=True)
    value = measured.metrics.get(rule.metric, math.nan)
    holds = value <= limit if rule.field.startswith("max_") else value >= limit
    shown, against = _apart(value, limit, rule.digits)
    return Check(
        measure=rule.measure,
        value=value,
        limit=limit,
        field=rule.field,
        sample=sample,
        holds=holds,
        reason="" if holds else rule.reason.format(value=shown, limit=against),
    )


def _apart(value: float, limit: float, digits: int) -> tuple[str, str]:
    """Both with so many digits, or with as many more as it takes to tell them apart."""
    while digits < 9 and value != limit and f"{value:.{digits}f}" == f"{limit:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}", f"{limit:.{digits}f}"


def judge_neighbors(lost: Mapping[str, Lost], once: Mapping[str, Lost], policy: Policy) -> Iterator[Check]:
    """Each count over all requests, where a neighbor of several counts `once`; then at single ones."""
    yield from _losses(sum(once.values(), Lost()), "max_locality_drop", policy)
    yield from _alone(lost, policy)


def _alone(lost: Mapping[str, Lost], policy: Policy) -> Iterator[Check]:
    """Of each count the requests that lost too much, or else the one that lost most."""
    rows = [row for name, here in lost.items() for row in _losses(here, "max_edit_locality_drop", policy, name)]
    alone = [row for row in rows if row.sample]
    failing = [row for row in alone if not row.holds]
    yield from failing
    for measure in dict.fromkeys(row.measure for row in alone):
        if measure not in {row.measure for row in failing}:
            yield max((row for row in alone if row.measure == measure), key=lambda row: row.value or 0)


def _losses(lost: Lost, field: str, policy: Policy, request_id: str | None = None) -> Iterator[Check]:
    most = getattr(policy, field)
    for measure, count, asked, what in lost.counts():
        limit = allowed_losses(most, asked)
        holds = count <= limit
        named = "" if request_id is None else f"request '{request_id}': "
        yield Check(
            measure=measure,
            value=count if asked else None,
            limit=limit,
            field=field,
            sample=asked,
            holds=holds,
            reason="" if holds else f"{named}{count} of {asked} {what}, {field} is {most:.2f}",
            request_id=request_id,
        )
