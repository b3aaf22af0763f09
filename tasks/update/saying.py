"""What the model in a session says, and what its base says: each text once in a state of the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from editing.chat import ChatTemplate, chat_of
from editing.edit import Edit
from editing.measure.metrics import Known
from editing.measure.said import PROMPT_TOKENS, Asked, Question, Said, judge_said, questions, written_and_scored
from editing.measure.scoring import score
from editing.progress import OnProgress, unheard
from tasks.update.begun import begin
from tasks.update.prepared import dump_json, read_strings
from tasks.update.screening import readable_prompts
from tasks.update.session import Session

WHOLE_WORDS = "whole words"
"""Kept answers are of these, with the white space before them."""


def say(
    session: Session,
    asked: Sequence[Asked],
    on_progress: OnProgress = unheard,
    beside: tuple[Sequence[str], int] = ((), 0),
    pairs: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """How the model, as it stands, goes on from each text; '' from one that it cannot read.

    `beside`: prompts whose fluency will be asked next, of so many tokens. They are written in the same steps.
    `pairs`: (prompt, target) that will be scored next. Those whose prompt is one of the texts are, where that is cheap.
    """
    state, loaded = session.weights.state, session.loaded
    session.texts = {about: text for about, text in session.texts.items() if about[0] <= state}
    texts = session.texts
    # A whole text serves where a part of it would do.
    asked = [(*one[:2], None) if (state, *one[:2], None) in texts else one for one in asked]
    missing = [one for one in dict.fromkeys(asked) if (state, *one) not in texts]
    reads = {*readable_prompts(loaded, [text for text, _, _ in missing])}
    texts |= {(state, *one): "" for one in missing if one[0] not in reads}
    missing = [one for one in missing if one[0] in reads]
    if missing and (begun := begin(session, missing, *beside, on_progress)) is not None:
        found, session.begun = begun
    else:
        known = session.said.setdefault(state, {})
        open_ones = [pair for pair in pairs if pair not in known]
        found, scores = written_and_scored(loaded.model, loaded.tokenizer, missing, open_ones, on_progress)
        known |= scores
    texts |= {(state, *one): text for one, text in zip(missing, found, strict=True)}
    return [texts[(state, *one)] for one in asked]


def scored(session: Session, pairs: Sequence[tuple[str, str]], on_progress: OnProgress = unheard) -> Known:
    """What the model, as it stands, says to these (prompt, target), and to all others that it was asked; each once.

    Raises:
        InvalidEdit: a pair without tokens, or longer than the model reads.
    """
    known = session.said.setdefault(session.weights.state, {})
    missing = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    known |= zip(missing, score(model, tokenizer, missing, on_progress=on_progress), strict=True)
    return known


def base_says(session: Session, asked: Sequence[Asked], on_progress: OnProgress = unheard) -> list[str]:
    """The same of the base; cached."""

    def make(missing: list[int]) -> list[str]:
        with session.weights.at_base():
            return say(session, [asked[number] for number in missing], on_progress)

    abouts = [
        [*session.measured, text, tokens, WHOLE_WORDS, *([] if enough is None else [asdict(enough)])]
        for text, tokens, enough in asked
    ]
    return session.cache.get_all("answers", abouts, make, _answer_bytes, _read_answer)


def shown(
    session: Session, prompts: Sequence[str], on_progress: OnProgress = unheard, *, at_base: bool = False
) -> list[str]:
    """As much of what is said to prompts as shows a reader how it goes on; a base is asked once."""
    asked: list[Asked] = [(prompt, PROMPT_TOKENS, None) for prompt in prompts]
    return [text.strip() for text in (base_says if at_base else say)(session, asked, on_progress)]


def conversation(session: Session) -> ChatTemplate | None:
    """The chat in which users talk to the model, whether or not the line writes for it; None for a model without."""
    return session.method_input.chat or chat_of(session.loaded.tokenizer, "auto")


def texts_of(asked: Sequence[Question], *, shown_whole: bool) -> list[Asked]:
    """What is gone on from to answer these; answers to prompts of the length that a report shows, or as they end."""
    return [(one.text, one.tokens, None if shown_whole and one.way == "prompt" else one.enough) for one in asked]


def said_about(
    session: Session,
    edits: Sequence[Edit],
    chat: ChatTemplate | None,
    others: Mapping[str, Sequence[str]],
    *,
    paraphrases: bool,
    at_base: bool = False,
    on_progress: OnProgress = unheard,
    beside: tuple[Sequence[str], int] = ((), 0),
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Said]:
    """What is said about each edit, by its id, by the model as it stands or by its base.

    Args:
        others: other answers of the kind, as `others_of_its_kind` gives them.
        paraphrases: these are asked, too, and prompts are answered at the length that a report shows.
        beside, pairs: see `say`; not of the base.
    """
    found = questions(session.loaded.tokenizer, edits, chat, others, paraphrases=paraphrases)
    asked = texts_of(found, shown_whole=paraphrases or at_base)
    texts = base_says(session, asked, on_progress) if at_base else say(session, asked, on_progress, beside, pairs)
    return {one.edit_id: one for one in judge_said(edits, found, texts, others)}


def _answer_bytes(said: str) -> bytes:
    return dump_json([said])


def _read_answer(path: Path) -> str:
    """Raises OSError or ValueError for anything but a list of one string."""
    [said] = read_strings(path)
    return said
