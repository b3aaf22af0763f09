"""What a user would do instead: the base with each correction in its prompt, by the measures of the candidate."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from editing.chat import ChatTemplate
from editing.edit import Edit
from editing.measure.in_context import stated
from editing.measure.metrics import EditScores, summarise
from editing.measure.said import questions, summarise_said
from editing.tokens import conversation_of
from tasks.progress import stage
from tasks.update.saying import said_about
from tasks.update.screening import readable, readable_prompts
from tasks.update.session import Session

KEPT = ("efficacy_prob", "generalization_prob", "locality_prob", "locality_kept")
"""Of the numbers of probabilities."""


def measure_in_context(
    session: Session,
    edits: Sequence[Edit],
    max_neighborhood: int,
    chat: ChatTemplate | None,
    others: Mapping[str, Sequence[str]],
) -> dict[str, float]:
    """The numbers of the base that reads each correction as a sentence before what it is asked; cached.

    Left out is a fact that cannot be asked so: no words stand before a conversation, and prompts may get too long.
    """
    alone = {edit.id: edit for edit in readable(session.loaded, edits).accepted}
    told = [stated(edit) for edit in alone.values() if conversation_of(session.loaded.tokenizer, edit.text) is None]
    fitting = [edit for edit in readable(session.loaded, told).accepted if _fits(session, edit, chat)]
    if not fitting:
        return {}
    both = [_with_the_same_neighbors(alone[edit.id], edit) for edit in fitting]
    asked = [edit for _, edit in both]
    plain = session.base_scores([edit for edit, _ in both], max_neighborhood)
    scores = session.base_scores(asked, max_neighborhood)
    with stage("the base with corrections in its prompts") as tell:
        said = said_about(session, asked, chat, others, paraphrases=False, at_base=True, on_progress=tell)
    numbers = summarise([_against(scores[name], plain[name]) for name in scores])
    return {name: numbers[name] for name in KEPT if name in numbers} | summarise_said([*said.values()])


def _fits(session: Session, edit: Edit, chat: ChatTemplate | None) -> bool:
    words = {question.text for question in questions(session.loaded.tokenizer, [edit], chat)}
    return len(readable_prompts(session.loaded, sorted(words))) == len(words)


def _with_the_same_neighbors(alone: Edit, told: Edit) -> tuple[Edit, Edit]:
    """Both, so that their neighbors can be compared: without any where some of them got too long."""
    if len(alone.neighborhood) == len(told.neighborhood):
        return alone, told
    none = {"neighborhood": ()}
    return alone.model_copy(update=none), told.model_copy(update=none)


def _against(now: EditScores, then: EditScores) -> EditScores:
    """With how many neighbors say what they say without the correction before them."""
    both = list(zip(now.neighborhood_tokens, then.neighborhood_tokens, strict=False))
    kept = sum(one == other for one, other in both) / len(both) if both else None
    return replace(now, locality_kept=kept)
