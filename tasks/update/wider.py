"""What a policy wants asked beside the facts' own questions: divergence, general ability, probes, the base in context.

Each is asked of the candidate and of the base, which is asked once and then read from the cache, and of the version in
service where a level compares with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from editing.chat import ChatTemplate
from editing.edit import Edit
from editing.errors import EditingError
from editing.measure.ability import Answer, compare, values_of
from editing.measure.ability_sets import AbilitySet
from editing.measure.asking import Found
from tasks.progress import note
from tasks.update.ability import answers, base_answers, base_divergence
from tasks.update.gates import applies
from tasks.update.in_context import measure_in_context
from tasks.update.measured import Paired, Served
from tasks.update.policy import Policy
from tasks.update.probing import numbers_of, probes_of, right_of, sampled, tell_unasked
from tasks.update.run import Reference
from tasks.update.session import Session


@dataclass
class Wider:
    """What was found, as the judge and the report take it."""

    metrics: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    """The same of the base."""
    paired: dict[str, Paired] = field(default_factory=dict)
    probes: dict[str, dict[str, float]] = field(default_factory=dict)
    """By the edit's id, whether each of its probes went well."""


def ask_wider(
    session: Session,
    edits: Sequence[Edit],
    reference: Reference,
    policy: Policy,
    chat: ChatTemplate | None,
    served: Served | None,
) -> Wider:
    """Of the model as it stands, after a batch or, with `served`, at the end of the job."""
    found = Wider()
    at: Literal["batch", "job"] = "batch" if served is None else "job"
    if policy.levels.kl is not None and applies(policy.levels.kl.when, at):
        _ask_divergence(session, reference, policy, found)
    if served is None:
        return found
    for asked in reference.sets:
        _ask_ability(session, asked, served.ability.get(asked.name), found)
    if policy.probes:
        _ask_probes(session, sampled(edits, policy.probed_facts), reference, policy, chat, (served, found))
    return found


def ask_in_context(
    session: Session,
    edits: Sequence[Edit],
    policy: Policy,
    chat: ChatTemplate | None,
    others: Mapping[str, Sequence[str]],
) -> dict[str, float]:
    """The base's numbers with each correction in its prompt, where the policy asks for them."""
    if not policy.in_context:
        return {}
    return measure_in_context(session, sampled(edits, policy.probed_facts), policy.neighborhood_probes, chat, others)


def _ask_divergence(session: Session, reference: Reference, policy: Policy, found: Wider) -> None:
    divergence = base_divergence(session, reference.texts, policy.kl_tokens)
    found.metrics["kl"], found.before["kl"] = divergence.mean, 0.0
    if divergence.stderr is not None:
        found.metrics["kl_stderr"] = divergence.stderr
    found.paired["kl"] = Paired(divergence.windows)


def _ask_ability(session: Session, asked: AbilitySet, champion: Sequence[float] | None, found: Wider) -> None:
    before, now = base_answers(session, asked), answers(session, asked)
    name, compared = f"ability.{asked.name}", compare(asked.questions, before, now)["acc"]
    found.metrics[name], found.before[name] = compared.after, compared.before
    errors = {"stderr": compared.stderr_after, "change_stderr": compared.stderr_difference}
    found.metrics |= {f"{name}_{what}": value for what, value in errors.items() if value is not None}
    if compared.stderr_before is not None:
        found.before[f"{name}_stderr"] = compared.stderr_before
    found.paired[name] = Paired(right_answers(asked, now), right_answers(asked, before), champion)


def right_answers(asked: AbilitySet, given: Sequence[Answer]) -> list[float]:
    """1 for each question that is answered rightly."""
    return [values_of(question, one)["acc"] for question, one in zip(asked.questions, given, strict=True)]


def _ask_probes(
    session: Session,
    edits: Sequence[Edit],
    reference: Reference,
    policy: Policy,
    chat: ChatTemplate | None,
    into: tuple[Served, Wider],
) -> None:
    served, found = into
    try:
        probes = probes_of(session, edits, policy, reference.texts, chat)
    except EditingError as error:
        note(f"no probes were asked: {error}", "warning")  # a level of theirs says that they were not measured
        return
    tell_unasked(session, edits, probes.measures, probes.asked)
    scores = probes.base_scores()
    then, now = probes.base(scores), probes.now(scores)
    found.metrics |= numbers_of(now)
    found.before |= numbers_of(then)
    right, before, champion = right_of(now), right_of(then), right_of(served.probes)
    for name, of in right.items():
        in_service = None
        if served.probes:
            known = champion.get(name, {})
            in_service = [known[edit] for edit in of] if of.keys() <= known.keys() else []
        base = [before.get(name, {}).get(edit, 0.0) for edit in of]
        found.paired[f"probes.{name}"] = Paired([*of.values()], base, in_service, [*of])
    for name, of in right.items():
        for edit, went in of.items():
            found.probes.setdefault(edit, {})[f"probes.{name}"] = went


def champion_probes(
    session: Session, edits: Sequence[Edit], reference: Reference, policy: Policy, chat: ChatTemplate | None
) -> dict[str, Found]:
    """What the version in service, which stands in the weights, makes of the probes of all these facts."""
    try:
        probes = probes_of(session, edits, policy, reference.texts, chat)
    except EditingError:
        return {}
    return probes.now(probes.base_scores())
