"""What the base tells of corrections before any work: what it says already, and what will hardly take.

All of it is one pass over the prompts, of the base.
"""

import unicodedata
from collections.abc import Collection, Iterator, Sequence

import torch

from editing.edit import Edit, shown
from editing.measure.said import said
from editing.measure.scoring import encode_prompts, hidden_states, logit_chunks
from editing.measure.writing import added_text
from editing.models import LoadedModel
from editing.tokens import align_rows, pad_token
from tasks.update.session import Session

ROWS_AT_ONCE = 32
SURE = 0.5
"""How probable a going on of the last word is that is told."""


def said_already(
    session: Session, edits: Sequence[Edit], changed: Collection[str] = (), probes: int | None = None
) -> dict[str, str]:
    """Why a correction would change nothing, by its id: the base says its target already, in each way it is asked.

    `changed` are subjects about which the line says something else than its base, or will; `probes` of the neighbors
    will be asked by whoever asks the base next, and finds the scores in the cache.
    """
    loaded, chat = session.loaded, session.method_input.chat
    asked = [edit for edit in edits if edit.subject not in changed]
    scores = session.base_scores(asked, probes)
    likely = [edit for edit in asked if scores[edit.id].efficacy_argmax]
    answers = said(loaded.model, loaded.tokenizer, likely, chat, paraphrases=False) if likely else []
    return {
        edit.id: (
            f"edit '{edit.id}': the model says {shown(edit.target_new)} already after {shown(edit.text)}, so there is "
            "nothing to correct; leave it out, or ask it where the model says something else"
        )
        for edit, answer in zip(likely, answers, strict=True)
        if answer.right
    }


def doubts(loaded: LoadedModel, edits: Sequence[Edit]) -> dict[str, tuple[str, ...]]:
    """What speaks against corrections as they are written, a sentence each with what to do, by the edit's id."""
    cut = dict(zip((edit.id for edit in edits), _going_on(loaded, [edit.text for edit in edits]), strict=True))
    found: dict[str, tuple[str, ...]] = {}
    for edit in edits:
        told = []
        if edit.subject.casefold() in edit.target_new.casefold():
            told.append(
                f"its subject {shown(edit.subject)} stands in its own target {shown(edit.target_new)}: the model may "
                "only repeat the subject; ask for the part that is new"
            )
        if rest := cut[edit.id]:
            told.append(
                f"its prompt ends in the middle of a word: after {shown(edit.text)} the model goes on with "
                f"{shown(rest)}; end the prompt before that word or after it"
            )
        if told:
            found[edit.id] = tuple(told)
    return found


@torch.no_grad()
def _going_on(loaded: LoadedModel, prompts: Sequence[str]) -> Iterator[str]:
    """The token by which the model surely goes on with the last word of each prompt; '' where it begins another."""
    ids = encode_prompts(loaded.tokenizer, prompts)
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        some = prompts[start : start + ROWS_AT_ONCE]
        rows = align_rows([ids[prompt] for prompt in some], [len(ids[prompt]) - 1 for prompt in some],
                          pad_token(loaded.tokenizer))  # fmt: skip
        last = hidden_states(loaded.model, rows)[:, rows.anchor]
        best = [logits.softmax(1).max(1) for _, logits in logit_chunks(loaded.model, last)]
        sure = torch.cat([one.values for one in best]).tolist()
        token = torch.cat([one.indices for one in best]).tolist()
        for prompt, probability, number in zip(some, sure, token, strict=True):
            goes_on = probability > SURE and _in_word(prompt[-1:])
            rest = added_text(loaded.tokenizer, ids[prompt], [number]) if goes_on else ""
            yield rest if _in_word(rest[:1]) else ""


def _in_word(character: str) -> bool:
    """Whether a word of a script that puts spaces between words may go on here."""
    return bool(character) and unicodedata.category(character) in ("Ll", "Lu", "Lt", "Nd")
