"""The version in service is loaded as it is served, and asked for its facts; drift is its perplexity against the base.

What is asked is asked as a job's validation asks it, with the base's numbers from the same cache.
"""

from dataclasses import dataclass

from editing.measure.metrics import summarise
from editing.progress import OnProgress
from tasks.ledger.view import LineView, chain
from tasks.lines.specs import LineSpec
from tasks.meter import Meter
from tasks.stores.errors import DigestMismatch, ObjectNotFound, RecordError
from tasks.update.policy import Policy
from tasks.update.reference import measure_reference
from tasks.update.run import spread_sample
from tasks.update.screening import readable
from tasks.update.session import Session, open_session
from tasks.update.stages import known_edits
from tasks.update.texts import measure_perplexity
from tasks.update.validation import bare
from tasks.watch.findings import Finding
from tasks.watch.policy import WatchPolicy
from tasks.workplace import Workplace

NAMED = 3
"""Requests that a finding names; the numbers have all."""
MEASURED = Policy()
"""How much text perplexity is taken on: as a job does where it is told nothing else."""


@dataclass(frozen=True)
class Asked:
    """What the version in service said."""

    count: int
    numbers: dict[str, float]
    findings: tuple[Finding, ...]


def ask_champion(workplace: Workplace, view: LineView, spec: LineSpec, sample: int, policy: WatchPolicy) -> Asked:
    """Ask the version in service for its facts, at most `sample` of them, always the same, and take its perplexity.

    Raises:
        ModelError: the base cannot be loaded.
        StorageError, LedgerError: a store cannot be reached.
    """
    session = open_session(spec, workplace.settings, only_asked=True)
    served = chain(view, view.serving)
    if served and served[-1].base_digest != session.loaded.digest:
        made_on, found = served[-1].base_digest[:12], session.loaded.digest[:12]
        text = f"version {served[-1].version} was made on base {made_on}, '{spec.model}' is {found} here; restore it"
        return Asked(0, {}, (Finding(kind="not seen", weight="late", about="base", text=text),))
    reference = measure_reference(session, MEASURED)
    try:
        session.restore_from(workplace.store, served)
    except (DigestMismatch, ObjectNotFound, RecordError) as error:
        return Asked(0, {}, (Finding(kind="damaged", weight="breach", text=f"cannot be loaded: {error}"),))
    with Meter("the version in service", sample + 1) as meter:
        count, numbers, findings = _ask_facts(workplace, session, view, (spec, sample, policy), meter.part(sample))
        numbers |= measure_perplexity(session, reference, MEASURED, meter.part(1))
    if (ratio := numbers["perplexity_ratio"]) > policy.max_perplexity_ratio:
        text = f"perplexity is {ratio:.3f} times the base's, max_perplexity_ratio is {policy.max_perplexity_ratio:g}"
        findings.append(Finding(kind="perplexity", weight="breach", text=text))
    return Asked(count, numbers, tuple(findings))


def _ask_facts(
    workplace: Workplace,
    session: Session,
    view: LineView,
    asked: tuple[LineSpec, int, WatchPolicy],
    on_progress: OnProgress,
) -> tuple[int, dict[str, float], list[Finding]]:
    spec, sample, policy = asked
    known = known_edits(workplace.ledger, view.line, list(view.live), spec.join)
    edits = readable(session.loaded, [bare(edit) for edit in spread_sample(list(known.values()), sample)]).accepted
    scores = session.scores(edits, on_progress=on_progress)
    means = summarise(scores)
    numbers = {f"live_{name}": means[name] for name in ("efficacy_prob", "efficacy_argmax") if name in means}
    share = numbers.get("live_efficacy_prob")
    if share is None or share >= policy.min_live_efficacy:
        return len(edits), numbers, []
    lost = [one.edit_id for one in scores if one.efficacy_prob == 0]
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    text = (
        f"{len(lost)} of {len(edits)} facts asked no longer hold ({', '.join(lost[:NAMED])}{more}): "
        f"{share:.1%}, min_live_efficacy is {policy.min_live_efficacy:g}"
    )
    return len(edits), numbers, [Finding(kind="efficacy", weight="breach", text=text)]
