"""Does the model still answer as it should? What every batch is measured by, and the verdict on it."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field

from editing.edit import Edit
from editing.measure.metrics import EditScores, evaluate, summarise
from editing.measure.perplexity import perplexity
from tasks.update.policy import Policy
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
    reasons: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    """Ids of edits that did not take or cost their neighborhood: suspects by their own numbers."""
    scores: Sequence[EditScores] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        return not self.reasons


def measure_reference(session: Session, policy: Policy, texts: Sequence[str] | None = None) -> Reference:
    """The base's perplexity on fixed text: the given one, or text that the base sampled itself."""
    used = list(texts or session.held_out)
    with session.weights.at_base():
        value = perplexity(session.loaded.model, session.loaded.tokenizer, used, max_tokens=policy.perplexity_tokens)
    return Reference(value, used)


def validate_batch(
    session: Session, batch: Sequence[Edit], earlier: Sequence[Edit], reference: Reference, policy: Policy
) -> Verdict:
    """Measure a batch that was just written, a sample of earlier facts, fluency and perplexity; judge by the policy."""
    before = session.base_scores([*batch, *earlier], policy.neighborhood_probes)
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    asked = [*batch, *(bare(edit) for edit in earlier)]
    scores = evaluate(model, tokenizer, asked, before=before, max_neighborhood=policy.neighborhood_probes)
    own, old = scores[: len(batch)], scores[len(batch) :]
    metrics = summarise(own)
    metrics |= {f"before_{k}": v for k, v in summarise([before[edit.id] for edit in batch]).items()}
    if old:
        metrics |= {f"retained_{k}": v for k, v in summarise(old).items() if k.startswith("efficacy")}
    metrics |= measure_fluency(session, batch, policy)
    metrics |= measure_perplexity(session, reference, policy)
    lost = {scores.edit_id: lost_at(scores, before[scores.edit_id]) for scores in own}
    reasons = judge(metrics, lost, policy)
    failing = tuple(
        s.edit_id for s in own if s.efficacy_prob == 0 or lost[s.edit_id].faults(policy.max_edit_locality_drop)
    )
    return Verdict(metrics, {s.edit_id: s.numbers() for s in own}, tuple(reasons), failing, scores)


def bare(edit: Edit) -> Edit:
    """Only the edited prompt: all that is asked about an earlier fact."""
    return edit.model_copy(update={"paraphrases": (), "neighborhood": (), "portability": ()})


def measure_fluency(session: Session, batch: Sequence[Edit], policy: Policy) -> dict[str, float]:
    """Entropy of what is generated from the edited subjects, and as a ratio to the base on the same prompts."""
    prompts = [f"{edit.subject} is" for edit in batch][: policy.fluency_prompts]
    base = session.base_fluency(prompts, policy.fluency_tokens)
    now = session.fluency(prompts, policy.fluency_tokens)
    return {"fluency": now, "fluency_ratio": now / base if base else 1.0}


def measure_perplexity(session: Session, reference: Reference, policy: Policy) -> dict[str, float]:
    now = perplexity(
        session.loaded.model, session.loaded.tokenizer, reference.texts, max_tokens=policy.perplexity_tokens
    )
    return {"perplexity": now, "perplexity_ratio": now / reference.perplexity}


def judge(metrics: Mapping[str, float], lost: Mapping[str, "Lost"], policy: Policy) -> list[str]:
    """Why the batch fails, one sentence a threshold; empty when it passes. `lost`: by the edits' ids."""
    reasons = []
    if not metrics["efficacy_prob"] >= policy.min_efficacy:
        reasons.append(f"efficacy {metrics['efficacy_prob']:.2f} is below min_efficacy {policy.min_efficacy:.2f}")
    reasons += _locality_reasons(lost, policy)
    if not metrics["fluency_ratio"] >= policy.min_fluency_ratio:
        reasons.append(
            f"fluency is {metrics['fluency_ratio']:.2f} of the base's, "
            f"min_fluency_ratio is {policy.min_fluency_ratio:.2f}"
        )
    if not metrics["perplexity_ratio"] <= policy.max_perplexity_ratio:
        reasons.append(
            f"perplexity is {metrics['perplexity_ratio']:.3f} times the base's, "
            f"max_perplexity_ratio is {policy.max_perplexity_ratio:.3f}"
        )
    retained = metrics.get("retained_efficacy_prob", 1.0)
    if not retained >= policy.min_retained:
        reasons.append(f"only {retained:.2f} of earlier facts hold, min_retained is {policy.min_retained:.2f}")
    return reasons


@dataclass(frozen=True)
class Lost:
    """Neighborhood answers lost against the base, net, and how many probes could lose one.

    Preferring its own answer to the new target says nothing of a neighbor that now gives the target of another request;
    what the base said and the model no longer says does.
    """

    unpreferred: int = 0
    probes: int = 0
    unsaid: int = 0
    answers: int = 0

    def __add__(self, other: "Lost") -> "Lost":
        return Lost(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def faults(self, most: float) -> list[str]:
        """What exceeds the share `most`; one lost answer never does."""
        counts = ((self.unpreferred, self.probes, "preferred"), (self.unsaid, self.answers, "said"))
        return [
            f"{lost} of {of} neighborhood answers no longer {how}"
            for lost, of, how in counts
            if lost > max(1, most * of)
        ]


def lost_at(now: EditScores, before: EditScores) -> Lost:
    """What the neighborhood of one edit lost."""
    return Lost(
        _fall(before.locality_prob, now.locality_prob, now.locality_probes),
        now.locality_probes,
        _fall(before.locality_argmax, now.locality_argmax, now.locality_answers),
        now.locality_answers,
    )


def _fall(before: float | None, now: float | None, count: int) -> int:
    return 0 if before is None or now is None else round((before - now) * count)


def _locality_reasons(lost: Mapping[str, Lost], policy: Policy) -> list[str]:
    reasons = [
        f"{fault}, max_locality_drop is {policy.max_locality_drop:.2f}"
        for fault in sum(lost.values(), Lost()).faults(policy.max_locality_drop)
    ]
    return reasons + [
        f"request '{edit_id}': {fault}, max_edit_locality_drop is {policy.max_edit_locality_drop:.2f}"
        for edit_id, here in lost.items()
        for fault in here.faults(policy.max_edit_locality_drop)
    ]
