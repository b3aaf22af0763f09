"""Does the model still answer as it should? What every batch is measured by, and the verdict on it.

A batch just written and a candidate as a whole are measured by the same function and judged by the same judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from editing.edit import Edit
from editing.measure.metrics import EditScores, evaluate, summarise
from editing.measure.perplexity import perplexity
from tasks.report.data import Check, reasons_of
from tasks.update.judge import Measured, judge, lost_at
from tasks.update.policy import Policy
from tasks.update.screening import REQUEST_FAULTS, readable, readable_prompts
from tasks.update.session import Session


@dataclass(frozen=True)
class Reference:
    """The base model's numbers, which everything is compared with."""

    perplexity: float
    texts: Sequence[str]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one validation."""

    metrics: dict[str, float]
    request_metrics: dict[str, dict[str, float]]
    checks: tuple[Check, ...]
    failing: tuple[str, ...] = ()
    """Ids of edits that did not take or cost their neighborhood: suspects by their own numbers."""
    scores: Sequence[EditScores] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        """What was never judged does not pass."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it fails, one sentence a row; empty when it passes."""
        return reasons_of(self.checks)


@dataclass(frozen=True)
class CandidateVerdict:
    """The verdict on all facts that wait together, and the numbers that stand beside it."""

    verdict: Verdict
    numbers: dict[str, float]
    baseline: dict[str, float]
    """The base's numbers, on the same questions."""


def measure_reference(session: Session, policy: Policy, texts: Sequence[str] | None = None) -> Reference:
    """The base's perplexity on fixed text: the given one, or text that the base sampled itself."""
    used = list(texts or session.held_out)
    with session.weights.at_base():
        value = perplexity(session.loaded.model, session.loaded.tokenizer, used, max_tokens=policy.perplexity_tokens)
    return Reference(value, used)


def validate_batch(
    session: Session, batch: Sequence[Edit], earlier: Sequence[Edit], reference: Reference, policy: Policy
) -> Verdict:
    """Measure a batch that was just written, a sample of earlier facts, fluency and perplexity; judge by the policy.

    A request that cannot be measured fails the batch, under its name: it raises nothing that one request can cause.
    """
    found = readable(session.loaded, batch)
    if found.rejected:
        checks = tuple(_fault(reason, request_id) for request_id, reason in found.rejected.items())
        return Verdict({}, {}, checks, failing=tuple(found.rejected))
    try:
        return _validated(session, found.accepted, earlier, reference, policy)
    except REQUEST_FAULTS as error:
        return failed_verdict(error)


def judge_candidate(
    session: Session, edits: Sequence[Edit], earlier: Sequence[Edit], reference: Reference, policy: Policy
) -> CandidateVerdict:
    """The candidate as a whole, by the judge of the batches: every fact that waits, and a sample of those in service.

    A fact that this model can no longer be asked about is left out.
    """
    verdict = validate_batch(session, readable(session.loaded, edits).accepted, earlier, reference, policy)
    then = {name: value for name, value in verdict.metrics.items() if name.startswith("before_")}
    numbers = {name: value for name, value in verdict.metrics.items() if name not in then}
    baseline = {name.removeprefix("before_"): value for name, value in then.items()}
    baseline |= {"perplexity": reference.perplexity, "perplexity_ratio": 1.0}
    if ratio := numbers.get("fluency_ratio"):
        baseline["fluency"] = numbers["fluency"] / ratio
    return CandidateVerdict(verdict, numbers, baseline)


def failed_verdict(error: Exception) -> Verdict:
    """The verdict on a batch that could not be searched, solved, written or measured."""
    return Verdict({}, {}, (_fault(str(error)),))


def _fault(reason: str, request_id: str | None = None) -> Check:
    return Check(measure="written", holds=False, reason=reason, request_id=request_id)


def _validated(
    session: Session, batch: Sequence[Edit], earlier: Sequence[Edit], reference: Reference, policy: Policy
) -> Verdict:
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    # Apart, since scores go by ids: the facts of a candidate are among the earlier ones, too, with less to ask.
    before = session.base_scores(batch, policy.neighborhood_probes)
    own = evaluate(model, tokenizer, batch, before=before, max_neighborhood=policy.neighborhood_probes)
    old = evaluate(model, tokenizer, readable(session.loaded, [bare(edit) for edit in earlier]).accepted)
    metrics = summarise(own)
    metrics |= {f"before_{k}": v for k, v in summarise([before[edit.id] for edit in batch]).items()}
    metrics |= {f"retained_{k}": v for k, v in summarise(old).items() if k.startswith("efficacy")}
    prompts = fluency_prompts(session, batch, policy)
    metrics |= measure_fluency(session, prompts, policy)
    metrics |= measure_perplexity(session, reference, policy)
    lost = {scores.edit_id: lost_at(scores, before[scores.edit_id]) for scores in own}
    samples = {"efficacy": len(own), "fluency": len(prompts), "retained": len(old)}
    failing = tuple(
        s.edit_id for s in own if s.efficacy_prob == 0 or lost[s.edit_id].exceeds(policy.max_edit_locality_drop)
    )
    checks = judge(Measured(metrics, lost, samples), policy)
    return Verdict(metrics, {s.edit_id: s.numbers() for s in own}, checks, failing, own)


def bare(edit: Edit) -> Edit:
    """Only the edited prompt: all that is asked about an earlier fact."""
    return edit.model_copy(update={"paraphrases": (), "neighborhood": (), "portability": ()})


def fluency_prompts(session: Session, batch: Sequence[Edit], policy: Policy) -> list[str]:
    """Beginnings of texts about the edited subjects, as many as the policy asks for."""
    return readable_prompts(session.loaded, [f"{edit.subject} is" for edit in batch])[: policy.fluency_prompts]


def measure_fluency(session: Session, prompts: Sequence[str], policy: Policy) -> dict[str, float]:
    """Entropy of what is generated from the prompts, and as a ratio to the base; without prompts nothing."""
    if not prompts:
        return {}
    base = session.base_fluency(prompts, policy.fluency_tokens)
    now = session.fluency(prompts, policy.fluency_tokens)
    return {"fluency": now, "fluency_ratio": now / base if base else 1.0}


def measure_perplexity(session: Session, reference: Reference, policy: Policy) -> dict[str, float]:
    now = perplexity(
        session.loaded.model, session.loaded.tokenizer, reference.texts, max_tokens=policy.perplexity_tokens
    )
    return {"perplexity": now, "perplexity_ratio": now / reference.perplexity}
