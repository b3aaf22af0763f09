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
    told = [stated(edit) for edit in edits if conversation_of(session.loaded.tokenizer, edit.text) is None]
    asked = [edit for edit in readable(session.loaded, told).accepted if _fits(session, edit, chat)]
    if not asked:
        return {}
    names = {edit.id for edit in asked}
    plain = session.base_scores([edit for edit in edits if edit.id in names], max_neighborhood)
    scores = session.base_scores(asked, max_neighborhood)
    with stage("the base with corrections in its prompts") as tell:
        said = said_about(session, asked, chat, others, paraphrases=False, at_base=True, on_progress=tell)
    numbers = summarise([_against(scores[name], plain[name]) for name in scores])
    return {name: numbers[name] for name in KEPT if name in numbers} | summarise_said([*said.values()])


def _fits(session: Session, edit: Edit, chat: ChatTemplate | None) -> bool:
    words = {question.text for question in questions(session.loaded.tokenizer, [edit], chat)}
    return len(readable_prompts(session.loaded, sorted(words))) == len(words)


def _against(now: EditScores, then: EditScores) -> EditScores:
    """With how many neighbors say what they say without the correction before them."""
    both = list(zip(now.neighborhood_tokens, then.neighborhood_tokens, strict=False))
    kept = sum(one == other for one, other in both) / len(both) if both else None
    return replace(now, locality_kept=kept)
