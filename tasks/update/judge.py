"""The one judge of a batch and of a candidate: what was measured, against the policy, as rows of data.

The job keeps or undoes by these rows, and report, summary and command line print them: nobody else compares.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field

from editing.measure.metrics import EditScores
from tasks.report.data import Check
from tasks.update.policy import Policy

ROUNDING = 1e-9
"""0.29 of 100 answers are 29, though 0.29 * 100 is less."""


@dataclass(frozen=True)
class Lost:
    """Neighborhood answers lost against the base, and how many probes could lose one.

    Preferring its own answer to the new target says nothing of a neighbor that now gives the target of another request;
    what the base said and the model no longer says does. Of a neighbor without a known answer only that can be asked.
    The first two counts are net: an answer gained makes up for one lost.
    """

    unpreferred: int = 0
    probes: int = 0
    unsaid: int = 0
    answers: int = 0
    changed: int = 0
    unanswered: int = 0

    def __add__(self, other: "Lost") -> "Lost":
        return Lost(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def counts(self) -> Iterator[tuple[str, int, int, str]]:
        """(measure, lost, asked, what happened to them)."""
        yield "neighbors_preferred", self.unpreferred, self.probes, "neighborhood answers no longer preferred"
        yield "neighbors_said", self.unsaid, self.answers, "neighborhood answers no longer said"
        yield "neighbors_changed", self.changed, self.unanswered, "neighbors without an answer no longer say the base's"

    def exceeds(self, most: float) -> bool:
        """More is lost than the share `most`, by any of the counts."""
        return any(lost > allowed_losses(most, asked) for _, lost, asked, _ in self.counts())


def allowed_losses(most: float, asked: int) -> int:
    """How many of `asked` answers may be lost at a share of `most`; one lost answer always passes."""
    return max(1, math.floor(most * asked + ROUNDING))


def lost_at(now: EditScores, before: EditScores) -> Lost:
    """What the neighborhood of one edit lost."""
    tokens, base_tokens = now.neighborhood_tokens, before.neighborhood_tokens
    unanswered = [i for i in now.neighborhood_unanswered if i < min(len(tokens), len(base_tokens))]
    return Lost(
        _fall(before.locality_prob, now.locality_prob, now.locality_probes),
        now.locality_probes,
        _fall(before.locality_argmax, now.locality_argmax, now.locality_answers),
        now.locality_answers,
        sum(tokens[i] != base_tokens[i] for i in unanswered),
        len(unanswered),
    )


def _fall(before: float | None, now: float | None, count: int) -> int:
    return 0 if before is None or now is None else round((before - now) * count)


@dataclass(frozen=True)
class Measured:
    """All that the judge looks at."""

    metrics: Mapping[str, float]
    lost: Mapping[str, Lost]
    """By the edits' ids."""
    samples: Mapping[str, int]
    """How many were asked, by measure; a measure that is not here counts nothing."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """Efficacy, by request, of earlier facts whose key is that of one that was written now, or nearly."""


@dataclass(frozen=True)
class _Rule:
    """A metric against one field of the policy; `reason` is why it fails."""

    measure: str
    metric: str
    field: str
    reason: str
    digits: int = 2


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
)


MEASURES = tuple(rule.measure for rule in RULES)


def judge(measured: Measured, policy: Policy, measures: Sequence[str] = MEASURES) -> tuple[Check, ...]:
    """The rows of the verdict, or those of some measures and the neighbors.

    What should have been measured and was not fails; what had nothing to ask cannot.
    """
    first, *rest = (_compared(rule, measured, policy) for rule in RULES if rule.measure in measures)
    return (first, *_beside(measured.beside), *_neighbors(measured.lost, policy), *rest)


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


def _neighbors(lost: Mapping[str, Lost], policy: Policy) -> Iterator[Check]:
    """Each count over all requests; then at single ones: those that lost too much, or else the one that lost most."""
    yield from _losses(sum(lost.values(), Lost()), "max_locality_drop", policy)
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
