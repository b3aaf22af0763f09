"""What MEND's hypernetwork is trained on: edits, each with a prompt to change and a prompt to leave alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from editing.digests import sha256
from editing.edit import Edit
from editing.errors import HypernetworkError
from editing.measure.metrics import right_answer
from editing.measure.scoring import encode_queries
from editing.models import LoadedModel
from editing.tokens import check_edits


@dataclass(frozen=True)
class Example:
    """One edit as a training step sees it."""

    edit: Edit
    asked: tuple[str, str]
    """The prompt at which the edited model is to say the target, and the target."""
    spared: tuple[str, str]
    """A prompt and an answer along which the edited model is to predict what the base predicts."""


def asked_of(edit: Edit) -> list[tuple[str, str]]:
    """Where the edited model is to say the target: the edit's own prompt and its paraphrases."""
    return [(prompt, edit.target_new) for prompt in (edit.text, *edit.paraphrases)]


def spared_by(edit: Edit, other: Edit | None) -> list[tuple[str, str]]:
    """Where it is to say what the base says: the edit's neighborhood, and one prompt of an edit of other things.

    With another at every pass, edits that have one prompt to spare do not learn it by heart. Where the other edit has
    no neighborhood, its own prompt serves. An answer that is not known is the true target, or the new one: there it
    must not be said either.

    Raises:
        HypernetworkError: there is neither.
    """
    pairs = _neighborhood(edit)
    if other is not None:
        theirs = [pair for pair in _neighborhood(other) if edit.subject not in pair[0]]
        pairs += theirs[:1] or [(other.text, other.target_true or edit.target_new)]
    if not pairs:
        raise HypernetworkError(
            f"edit '{edit.id}' has no neighborhood and no edit is of another subject, so nothing says what is to "
            "stay as it is; give neighborhoods, or edits of several subjects"
        )
    return pairs


def _neighborhood(edit: Edit) -> list[tuple[str, str]]:
    return [(probe.prompt, right_answer(edit, probe) or edit.target_new) for probe in edit.neighborhood]


def examples_at(edits: Sequence[Edit], start: int, count: int, seed: int) -> list[Example]:
    """Examples `start` up to `start + count` of an endless stream: every pass has all edits once, in its own order.

    Raises:
        HypernetworkError: an edit has no neighborhood, and there is none of another subject.
    """
    found = []
    orders: dict[int, list[int]] = {}
    for position in range(start, start + count):
        number, place = divmod(position, len(edits))
        if number not in orders:
            orders[number] = random.Random(f"{seed} {number}").sample(range(len(edits)), len(edits))
        edit, choice = edits[orders[number][place]], random.Random(f"{seed} {number} {place}")
        earlier = (edits[orders[number][place - back]] for back in range(1, len(edits)))
        spared = spared_by(edit, next((other for other in earlier if other.subject != edit.subject), None))
        found.append(Example(edit, choice.choice(asked_of(edit)), choice.choice(spared)))
    return found


def edits_digest(edits: Sequence[Edit]) -> str:
    """sha256 over edits, their order included."""
    return sha256(edit.model_dump_json().encode() + b"\n" for edit in edits)


def check_examples(loaded: LoadedModel, edits: Sequence[Edit]) -> None:
    """See before the first step, not in the middle of the training, that every example can be drawn.

    Raises:
        InvalidEdit: a prompt or a target has no tokens, or is longer than the model reads.
        HypernetworkError: there are no edits, or nothing says what is to stay as it is.
    """
    if not edits:
        raise HypernetworkError("there are no edits to train on; give some hundreds")
    check_edits(loaded.model, loaded.tokenizer, edits, ("",))
    subjects = {edit.subject: edit for edit in edits}
    some = list(subjects.values())[:2]
    pairs = [pair for edit in edits for pair in asked_of(edit)]
    for edit in edits:
        pairs += spared_by(edit, next((other for other in some if other.subject != edit.subject), None))
    encode_queries(loaded.model, loaded.tokenizer, pairs)
