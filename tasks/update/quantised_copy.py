"""The candidate as it will be served: asked the same questions once more, with weights of fewer bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from editing.chat import ChatTemplate
from editing.edit import Edit
from editing.measure.metrics import EditScores, evaluate, summarise
from editing.measure.quantised import quantised
from editing.measure.said import said, summarise_said
from tasks.meter import Meter
from tasks.update.in_context import KEPT
from tasks.update.measured import Paired
from tasks.update.policy import Policy
from tasks.update.session import Session


@dataclass(frozen=True)
class Copy:
    """What a copy came to."""

    paired: dict[str, Paired] = field(default_factory=dict)
    """Whether each edit is said, in the chat where the line writes for one: what is judged."""
    numbers: dict[str, float] = field(default_factory=dict)
    """By the measures of the candidate, against the base as it is."""


def ask_copy(
    session: Session,
    edits: Sequence[Edit],
    before: Mapping[str, EditScores],
    policy: Policy,
    chat: ChatTemplate | None,
    others: Mapping[str, Sequence[str]],
) -> Copy:
    """Ask a copy of `policy.quantised` what the candidate was asked; nothing where the policy names none.

    `before`: the base's scores, by id. What the copy says is kept for no other question.
    """
    if (kind := policy.quantised) is None:
        return Copy()
    (model, tokenizer), size = (session.loaded.model, session.loaded.tokenizer), len(edits)
    with Meter(f"a copy in {kind}", 2 * size) as meter, quantised(model, kind):
        tell = meter.part(size)
        found = said(model, tokenizer, edits, chat, others=others, on_progress=tell)
        tell, probes = meter.part(size), policy.neighborhood_probes
        scores = evaluate(model, tokenizer, edits, before=before, max_neighborhood=probes, on_progress=tell)
    judged = session.method_input.chat is not None
    now = [float(((one.chat if judged else None) or one.prompt).right) for one in found]
    numbers = summarise(scores)
    return Copy(
        {f"quantised.{kind}": Paired(now, of=[one.edit_id for one in found])},
        {name: numbers[name] for name in KEPT if name in numbers} | summarise_said(found),
    )
