"""What a batch answers for: what it changed. What was lost before it was written is none of its doing.

The weights of before are put back for the questions that need it, and only for facts that do not hold now.
"""

from collections.abc import Mapping, Sequence

from editing.chat import ChatTemplate
from editing.edit import Edit
from editing.measure.metrics import EditScores
from editing.measure.said import others_of_its_kind
from editing.weights import Undo
from tasks.update.gates import applies
from tasks.update.measured import Fresh, Lost, lost_of
from tasks.update.policy import Policy
from tasks.update.saying import said_about, scored
from tasks.update.screening import readable_prompts
from tasks.update.session import Session


def fallen_before(session: Session, lost: Sequence[Edit], undo: Undo | None) -> frozenset[str]:
    """Those of the facts that do not hold which did not before the batch was written, either."""
    if not lost or undo is None:
        return frozenset()
    with session.weights.as_before(undo):
        return frozenset(one.edit_id for one in session.scores(lost) if not one.efficacy_prob)


def lost_since(
    session: Session,
    batch: Sequence[Edit],
    lost: tuple[Mapping[str, Lost], Mapping[str, Lost]],
    own: Sequence[EditScores],
    at_base: Mapping[str, EditScores],
    probes: int,
    undo: Undo,
    fresh: Mapping[str, Fresh],
) -> tuple[dict[str, Lost], dict[str, Lost]]:
    """What the neighbors that `lost` something, as `own` found them now, lost by this batch; twice, as of `lost_of`."""
    asked = [edit for edit in batch if any(down for _, down, _, _ in lost[0][edit.id].counts())]
    with session.weights.as_before(undo):
        then = {one.edit_id: one for one in session.scores(asked, at_base, probes)}
    by_it = lost_of([one for one in own if one.edit_id in then], then, fresh)
    each, once = (
        {name: since[name].since(one) for name, one in some.items()} for since, some in zip(lost, by_it, strict=True)
    )
    return {**lost[0], **each}, {**lost[1], **once}


def what_is_said_counts(policy: Policy, chat: ChatTemplate | None) -> bool:
    """Whether a batch is undone for what is said, as a line of this chat, or of none, is asked."""
    wire = policy.tripwires.said if chat is None else policy.tripwires.said_chat
    return wire is not None and wire.then != "warn" and applies(wire.when, "batch")


def no_longer_said(
    session: Session, facts: Sequence[Edit], others: Mapping[str, Sequence[str]], undo: Undo
) -> frozenset[str]:
    """Those of earlier facts that were said before the batch, as the line is asked for them, and are not said now.

    One pass tells where every token of an answer is the likeliest one. Only where it was and is no longer, what the
    model says is read, for it may say it in other words. `others` as `others_of_its_kind` gives them.
    """
    not_now = _not_said_exactly(session, facts)
    if not not_now:
        return frozenset()
    with session.weights.as_before(undo):
        not_then = {edit.id for edit in _not_said_exactly(session, not_now)}
    changed = [edit for edit in not_now if edit.id not in not_then]
    return frozenset(edit.id for edit in changed) - _read(session, changed, others)


def still_said(session: Session, facts: Sequence[Edit]) -> frozenset[str]:
    """Those of the facts that the model, as it stands, says as the line is asked for them."""
    inexact = _not_said_exactly(session, facts)
    exact = frozenset(edit.id for edit in facts) - {edit.id for edit in inexact}
    return exact | _read(session, inexact, others_of_its_kind(facts))


def _read(session: Session, facts: Sequence[Edit], others: Mapping[str, Sequence[str]]) -> frozenset[str]:
    told = said_about(session, facts, session.method_input.chat, others, paraphrases=False)
    return frozenset(name for name, one in told.items() if (one.chat or one.prompt).right)


def _not_said_exactly(session: Session, facts: Sequence[Edit]) -> list[Edit]:
    """Those whose answer's tokens are not all the likeliest ones; what cannot be read is none of them."""
    chat = session.method_input.chat
    asks = {edit.id: (chat and chat.asks(edit)) or edit.text for edit in facts}
    reads = {*readable_prompts(session.loaded, [*asks.values()])}
    pairs = {edit.id: (asks[edit.id], edit.target_new) for edit in facts if asks[edit.id] in reads}
    known = scored(session, [*pairs.values()])
    return [edit for edit in facts if edit.id in pairs and not known[pairs[edit.id]].argmax]
