"""What a model cannot take, found before any work is done: no request may end a job.

A request whose prompt or target cannot be read is refused by name. What is only asked about it (a paraphrase, a
neighbor, what follows from it, its old answer) is left out where it cannot be read, with a finding on the request.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from editing.chat import check_conversations
from editing.edit import Edit, shown
from editing.errors import InvalidEdit, SearchError, SolveError
from editing.measure.metrics import neighbor_pairs, portability_pairs, prompt_pairs
from editing.measure.scoring import encode_prompts, encode_queries
from editing.methods import find_method
from editing.methods.alike import Alike
from editing.models import LoadedModel
from editing.search.rows import KL_PROMPT
from editing.tokens import check_edits, check_length, encode_prompt
from tasks.update.foretelling import doubts, said_already
from tasks.update.session import Session

REQUEST_FAULTS = (InvalidEdit, SearchError, SolveError)
"""What one request can cause while its batch is searched, solved, written or measured: a verdict on it, not the end."""

ALIKE_NAMED = 3
"""Facts that a request is told to be hard to tell from; the others are counted."""


@dataclass(frozen=True)
class Screened:
    """What can be taken up: edits in their order, without what the model cannot be asked about them."""

    accepted: tuple[Edit, ...] = ()
    rejected: dict[str, str] = field(default_factory=dict)
    """Reasons by request id."""
    findings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What was left out of an accepted request, and what speaks against it, by its id."""


def screen(
    session: Session, edits: Sequence[Edit], changed: Collection[str] = (), probes: int | None = None
) -> Screened:
    """Encode everything that will be written and asked, in every context; refuse, or leave out, what cannot be read.

    The session stands at its base, and that is asked what it says already and how it goes on. `changed` are subjects
    about which the line says something else than its base, or will; `probes`: how many neighbors are asked later.
    """
    writable: list[Edit] = []
    rejected: dict[str, str] = {}
    for edit in edits:
        try:
            _check_writable(session, edit)
            writable.append(edit)
        except InvalidEdit as error:
            rejected[edit.id] = str(error)
    found = readable(session.loaded, writable)
    said = said_already(session, found.accepted, changed, probes)
    accepted = tuple(edit for edit in found.accepted if edit.id not in said)
    told = doubts(session.loaded, accepted)
    findings = {
        edit.id: (*found.findings.get(edit.id, ()), *told.get(edit.id, ()))
        for edit in accepted
        if edit.id in found.findings or edit.id in told
    }
    return Screened(accepted, rejected | found.rejected | said, findings)


def readable(loaded: LoadedModel, edits: Sequence[Edit]) -> Screened:
    """The edits as far as this model can be asked about them, whether or not they could be written now."""
    accepted: list[Edit] = []
    rejected: dict[str, str] = {}
    findings: dict[str, tuple[str, ...]] = {}
    for edit in edits:
        if _unreadable(loaded, _all_pairs(edit)) is None:
            accepted.append(edit)
        elif (why := _unreadable(loaded, [(edit.text, edit.target_new)])) is not None:
            rejected[edit.id] = f"edit '{edit.id}': {why}"
        else:
            shorter, findings[edit.id] = _without_unreadable(loaded, edit)
            accepted.append(shorter)
    return Screened(tuple(accepted), rejected, findings)


def readable_prompts(loaded: LoadedModel, prompts: Sequence[str]) -> list[str]:
    """Those of the prompts that the model can read, each once, in their order."""

    def reads(prompt: str) -> bool:
        try:
            check_length(loaded.model, encode_prompts(loaded.tokenizer, [prompt])[prompt], prompt)
        except InvalidEdit:
            return False
        return True

    return [prompt for prompt in dict.fromkeys(prompts) if reads(prompt)]


def told_alike(pairs: Sequence[Alike]) -> dict[str, tuple[str, ...]]:
    """What other facts each is hard to tell from, a sentence each, the most alike first; by request."""
    by_request: dict[str, list[Alike]] = {}
    for pair in sorted(pairs, key=lambda pair: -pair.cosine):
        by_request.setdefault(pair.edit.id, []).append(pair)
    return {request: _named(some) for request, some in by_request.items()}


def _named(pairs: Sequence[Alike]) -> tuple[str, ...]:
    sentences = [
        f"its subject {shown(edit.subject)} {_told_by(edit, other)} request {shown(other.id)} "
        f"({cosine:.2f} alike): writing one may undo the other"
        for edit, other, cosine in pairs[:ALIKE_NAMED]
    ]
    more = len(pairs) - ALIKE_NAMED
    return (*sentences, f"and from {more} more") if more > 0 else tuple(sentences)


def _told_by(edit: Edit, other: Edit) -> str:
    if edit.subject == other.subject:
        return "stands after another beginning in"
    return f"is hard to tell from {shown(other.subject)} of"


def _check_writable(session: Session, edit: Edit) -> None:
    """Raises InvalidEdit for what no batch could write: too long in some context, or lost in tokens, or out of reach.

    The search also asks what the subject is, which may be longer than the prompt.
    """
    model, tokenizer, prefixes = session.loaded.model, session.loaded.tokenizer, session.method_input.prefixes
    check_edits(model, tokenizer, [edit, edit.model_copy(update={"prompt": KL_PROMPT})], prefixes)
    check_conversations(model, [edit], session.method_input.chat)
    at_subject = find_method(session.config.method).searches and len(prefixes) > 1
    if at_subject and encode_prompt(tokenizer, "", edit.prompt, edit.subject).subject_index == 0:
        raise InvalidEdit(
            f"edit '{edit.id}': subject '{edit.subject}' is the first token of '{edit.text}', where method "
            f"'{session.config.method}' cannot write; begin the prompt with a word, for example 'It is said that "
            f"{edit.prompt}', write it as a conversation of the model's chat, or choose another method, for example "
            "finetune"
        )


def _all_pairs(edit: Edit) -> list[tuple[str, str]]:
    return [
        *(pair for prompt in (edit.text, *edit.paraphrases) for pair in prompt_pairs(edit, prompt)),
        *(pair for probe in edit.neighborhood for pair in neighbor_pairs(edit, probe)),
        *(pair for probe in edit.portability for pair in portability_pairs(edit, probe)),
    ]


def _without_unreadable(loaded: LoadedModel, edit: Edit) -> tuple[Edit, tuple[str, ...]]:
    """The edit without the probes and the old answer that cannot be read, and a sentence for each of those."""
    findings: list[str] = []

    def reads(what: str, pairs: Iterator[tuple[str, str]]) -> bool:
        why = _unreadable(loaded, list(pairs))
        if why is not None:
            findings.append(f"{what} was left out: {why}")
        return why is None

    if not reads("target_true", prompt_pairs(edit, edit.text)):
        edit = edit.model_copy(update={"target_true": None})
    kept = {
        "paraphrases": tuple(p for p in edit.paraphrases if reads("a paraphrase", prompt_pairs(edit, p))),
        "neighborhood": tuple(p for p in edit.neighborhood if reads("a neighbor", neighbor_pairs(edit, p))),
        "portability": tuple(p for p in edit.portability if reads("a portability prompt", portability_pairs(edit, p))),
    }
    return edit.model_copy(update=kept), tuple(findings)


def _unreadable(loaded: LoadedModel, pairs: Sequence[tuple[str, str]]) -> str | None:
    """Why one of these (prompt, target) cannot be scored on this model; None when all can."""
    try:
        encode_queries(loaded.model, loaded.tokenizer, pairs)
    except InvalidEdit as error:
        return str(error)
    return None
