"""Whether a root does no harm: what is asked of what it takes the place of is asked of it, too; and whether a line,
as it stands, can take anything more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from editing.edit import Edit
from editing.measure.metrics import EditScores
from editing.progress import unheard
from tasks.report.data import Check
from tasks.update.judge import MEASURES, Measured, judge
from tasks.update.measured import Fresh, first_asked, lost_of
from tasks.update.policy import Policy
from tasks.update.run import Reference, spread_sample
from tasks.update.screening import readable
from tasks.update.session import Session
from tasks.update.since import still_said, what_is_said_counts
from tasks.update.texts import fluency_prompts, measure_fluency, measure_perplexity
from tasks.update.validation import bare
from tasks.update.verdicts import Verdict

WITH_NEIGHBORS = 10
"""Facts whose neighbors are asked, too: as many as a batch has."""
ORDINARY = 2.0
"""Times the mean rise of perplexity a fact that one may cause without being the one to blame."""
ROUNDING = 1e-3
"""By how much, as a share, a number may be worse than it was and still count as the same."""


@dataclass(frozen=True)
class Asked:
    """What a state of the line came to on the facts that stay."""

    facts: Mapping[str, EditScores]
    """Of a fixed sample, by id, their prompts alone."""
    neighbors: Mapping[str, EditScores]
    """Of some of them, all that is asked about them."""
    metrics: Mapping[str, float]
    prompts: int
    """That a text was generated from."""
    says: frozenset[str] | None = None
    """Those of the facts that are said; None where no batch is undone for it."""
    fresh: Mapping[str, Fresh] = field(default_factory=dict)
    """Of the facts with neighbors those that none before it asks."""


def ask_line(session: Session, live: Sequence[Edit], reference: Reference, policy: Policy) -> Asked:
    """What is asked of a line before anything is written: its facts, and the text."""
    sample = readable(session.loaded, spread_sample(live, policy.retained_sample)).accepted
    facts = session.scores([bare(edit) for edit in sample])
    metrics = measure_perplexity(session, reference, policy, unheard)
    return Asked({one.edit_id: one for one in facts}, {}, metrics, 0)


def ask(session: Session, staying: Sequence[Edit], reference: Reference, policy: Policy) -> Asked:
    """Ask the model as it stands; what was asked in this state of the weights is not asked again."""
    sample = readable(session.loaded, spread_sample(staying, policy.retained_sample)).accepted
    few = spread_sample(sample, WITH_NEIGHBORS)
    facts = session.scores([bare(edit) for edit in sample])
    before = session.base_scores(few, policy.neighborhood_probes)
    neighbors = session.scores(few, before, policy.neighborhood_probes)
    prompts = fluency_prompts(session, few, policy)
    metrics = measure_perplexity(session, reference, policy, unheard)
    metrics |= measure_fluency(session, prompts, policy, unheard)
    says = still_said(session, sample) if what_is_said_counts(policy, session.method_input.chat) else None
    fresh = first_asked(few, policy.neighborhood_probes)
    return Asked({s.edit_id: s for s in facts}, {s.edit_id: s for s in neighbors}, metrics, len(prompts), says, fresh)


def judge_root(before: Asked, after: Asked, policy: Policy) -> Verdict:
    """The judge of batches on what the root changed: facts that held and were said, answers of neighbors, text.

    A limit that the line missed before fails no root that is not worse: it may be what the root is made for.
    """
    holding = [name for name, one in before.facts.items() if one.efficacy_prob]
    held = sum(bool(after.facts[name].efficacy_prob) for name in holding)
    metrics = dict(after.metrics)
    if holding:
        metrics["retained_efficacy_prob"] = held / len(holding)
    samples = {"efficacy": 0, "retained": len(holding), "fluency": after.prompts}
    if before.says and after.says is not None:
        metrics["retained_said"] = len(before.says & after.says) / len(before.says)
        samples["retained_said"] = len(before.says)
    lost, once = lost_of([*after.neighbors.values()], before.neighbors, after.fresh)
    then = judge(Measured(before.metrics, {}, {"efficacy": 0, "retained": 0, "fluency": before.prompts}), policy)
    was = {row.field: row for row in then if not row.holds}
    now = judge(Measured(metrics, lost, samples, once=once), policy, MEASURES)
    rows = [_excused(row, was.get(row.field)) for row in now]
    return Verdict(metrics, {}, tuple(rows))


def what_is_full(asked: Asked, policy: Policy) -> tuple[Check, ...]:
    """The rows of what the line as it stands comes to, where one of them fails whatever is written; else none."""
    held = [one.efficacy_prob or 0.0 for one in asked.facts.values()]
    metrics = {name: value for name, value in asked.metrics.items() if name.startswith("perplexity")}
    metrics |= {"retained_efficacy_prob": sum(held) / len(held)} if held else {}
    measured = Measured(metrics, {}, {"retained": len(held)})
    rows = judge(measured, policy, ("perplexity", "retained"))
    return rows if any(row.fails for row in rows) else ()


def filled_by(verdict: Verdict, before: float, live: int, facts: int, policy: Policy) -> tuple[Check, ...]:
    """The rows of a batch of so many facts that only shows that the line is full; none where it is to blame itself.

    It misses nothing but the limit on perplexity, which all facts of the line have used up together, and rose no more
    than ORDINARY times as much as its `live` facts did each, nor took half of what the limit allows by itself.

    Args:
        before: the perplexity, as a multiple of the base's, that the batch was written on.
    """
    failing = [row for row in verdict.checks if row.fails]
    after = verdict.metrics.get("perplexity_ratio", math.inf)
    if live < facts or any(row.field != "max_perplexity_ratio" for row in failing) or not 1 < before < after < math.inf:
        return ()
    rise, usual, room = math.log(after / before), math.log(before) / live * facts, math.log(policy.max_perplexity_ratio)
    return tuple(failing) if rise <= min(ORDINARY * usual, room / 2) else ()


def _excused(row: Check, was: Check | None) -> Check:
    if row.holds or was is None or row.value is None or was.value is None:
        return row
    rises = row.field.startswith("max_")
    worse = row.value > was.value * (1 + ROUNDING) if rises else row.value < was.value * (1 - ROUNDING)
    return row if worse else row.model_copy(update={"then": "warn", "reason": f"{row.reason}, as before"})
