"""Whether a server that answers users serves a version: asked for its facts and neighbors, beside the version itself.

Servers answer 200 for an adapter that they never loaded, so what tells is what is said. Of a fact that the version says
and its base does not, the server must say it, too. Other texts tell little, and rounding on other hardware may end them
otherwise: they need to begin alike, and half of them do.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedTokenizerBase

from editing.chat import ChatTemplate, chat_of, question_about
from editing.edit import Edit
from editing.errors import InvalidEdit, UsageError
from editing.measure.fluency import generate
from editing.measure.said import CHAT_TOKENS, PROMPT_TOKENS, judged, others_of_its_kind
from tasks.carrying.chosen import Chosen, Opened, choose, facts_of, opened
from tasks.carrying.endpoint import Endpoint, endpoint
from tasks.ledger.events import Event
from tasks.meter import Meter
from tasks.update.run import spread_sample
from tasks.update.screening import readable_prompts
from tasks.workplace import Workplace

ALIKE_TOKENS = 4
"""Texts that begin with so many equal tokens are alike, however they go on."""
LONGEST_KEPT = 500
"""Characters of an answer that the ledger keeps."""
OF_THE_REST = 0.5
"""So many of the answers that tell little must be alike."""


@dataclass(frozen=True)
class Question:
    """What is asked, and how it is put to a server."""

    about: Literal["fact", "neighbor"]
    request: str
    said: str
    """The user's words in a chat, or the text to go on from."""
    text: str
    """The same as the version's own model reads it."""
    chat: bool
    tokens: int
    edit: Edit


class Row(BaseModel):
    """One question, and both answers."""

    model_config = ConfigDict(frozen=True)

    about: Literal["fact", "neighbor"]
    request: str
    question: str
    version: str
    server: str
    tells: bool = Field(description="The base answers otherwise than the version.")
    agrees: bool


class Verified(BaseModel):
    """What came of asking a server."""

    model_config = ConfigDict(frozen=True)

    line: str
    version: int
    snapshot: str
    url: str
    model: str
    verdict: Literal["served", "served_other"]
    rows: tuple[Row, ...]

    @property
    def in_short(self) -> str:
        telling = [row for row in self.rows if row.tells]
        answers = "answer that tells" if len(telling) == 1 else "answers that tell"
        agree = f"{sum(row.agrees for row in telling)} of {len(telling)} {answers}"
        rest = [row for row in self.rows if not row.tells]
        other = "other" if len(rest) == 1 else "others"
        others = f" and {sum(row.agrees for row in rest)} of {len(rest)} {other}" if rest else ""
        what = f"version {self.version} of line {self.line}"
        serves = f"serves {what}" if self.verdict == "served" else f"does not serve {what}"
        return f"{self.model} at {self.url} {serves}: {agree}{others} {'agrees' if len(self.rows) == 1 else 'agree'}"


def verify(
    workplace: Workplace, line: str, url: str, model: str, version: str = "champion", sample: int = 8
) -> Verified:
    """Ask a server for up to `sample` facts and as many neighbors, and write to the ledger what it serves.

    Raises:
        UsageError: an address that is none, a version without facts, or nothing that tells it from the base.
        EndpointError: the server cannot be reached, does not know the model, or answers otherwise than it should.
        ModelError, DigestMismatch: the version itself cannot be loaded.
    """
    server = endpoint(url, model)
    with server.client:
        chosen = choose(workplace, line, version)
        facts = facts_of(workplace, chosen)
        if not facts or chosen.snapshot is None:
            raise UsageError(f"{chosen.named} holds no facts that could be asked for; verify a version that does")
        # A mistake is told now. Of `auto` only the model, which is not loaded yet, knows whether there is a chat.
        server = replace(server, system=chosen.spec.system)  # which no server knows by itself
        server.answer("Hello", 1) if chosen.spec.template == "chat" else server.complete("The", 1)
        own = opened(workplace, chosen)
        asked = _questions(chosen, own, _sample(chosen, facts, sample))
        known = _own(own, asked)
        if not any(known[1]):
            raise UsageError(
                f"of {len(asked)} {'question' if len(asked) == 1 else 'questions'} none tells {chosen.named} from its "
                "base, which answers alike: "
                "ask for more facts"
            )
        rows = _rows(server, own, asked, known)
    done = Verified(
        line=line, version=chosen.number, snapshot=chosen.snapshot, url=server.url, model=server.model,
        verdict="served" if _serves(rows) else "served_other", rows=tuple(rows),
    )  # fmt: skip
    workplace.ledger.append(list(_events(done, workplace.settings.who)))
    return done


def _sample(chosen: Chosen, facts: Mapping[str, Edit], size: int) -> dict[str, Edit]:
    """Up to half of them those that the version brought, by which it differs from the one before; then a spread one."""
    new = [facts[name] for name in chosen.chain[-1].facts if name in facts]
    first = spread_sample(new, max(1, size // 2))
    rest = spread_sample([edit for edit in facts.values() if edit not in first], size - len(first))
    names = {edit.id for edit in (*first, *rest)}
    return {name: edit for name, edit in facts.items() if edit.id in names}


def _questions(chosen: Chosen, own: Opened, facts: Mapping[str, Edit]) -> list[Question]:
    chat = chat_of(own.loaded.tokenizer, chosen.spec.template, chosen.spec.system)
    found = []
    for name, edit in facts.items():
        words = question_about(edit)
        found.append(_question("fact", (name, edit), (edit.text, words), chat))
        for probe in edit.neighborhood[:1]:
            with suppress(InvalidEdit):  # one that the template does not leave as it is
                found.append(_question("neighbor", (name, edit), (probe.prompt, probe.prompt), chat))
    reads = {*readable_prompts(own.loaded, [one.text for one in found])}
    return [one for one in found if one.text in reads]


def _question(
    about: Literal["fact", "neighbor"], of: tuple[str, Edit], asked: tuple[str, str], chat: ChatTemplate | None
) -> Question:
    (name, edit), (prompt, words) = of, asked
    if chat is None or chat.is_rendered(prompt):
        return Question(about, name, str(prompt), prompt, False, PROMPT_TOKENS, edit)
    return Question(about, name, words, chat.prompt(words), True, CHAT_TOKENS, edit)


def _own(own: Opened, asked: Sequence[Question]) -> tuple[list[str], list[bool]]:
    """What the version says, and of each question whether its base says something else."""
    loaded, facts = own.loaded, [one for one in asked if one.about == "fact"]
    kinds = others_of_its_kind(one.edit for one in facts)

    def says(some: Sequence[Question]) -> list[str]:
        tokens = [one.tokens for one in some]
        tell = meter.part(sum(tokens))
        return generate(loaded.model, loaded.tokenizer, [one.text for one in some], tokens, on_progress=tell)

    with Meter("answers of the version", sum(one.tokens for one in (*asked, *facts))) as meter:
        version = says(asked)
        with own.weights.at_base():
            base = dict(zip((one.request for one in facts), says(facts), strict=True))
    tells = [
        one.about == "fact" and not _agree(one, its, base[one.request], kinds[one.edit.id], loaded.tokenizer)
        for one, its in zip(asked, version, strict=True)
    ]
    return version, tells


def _rows(server: Endpoint, own: Opened, asked: Sequence[Question], known: tuple[list[str], list[bool]]) -> list[Row]:
    kinds = others_of_its_kind(one.edit for one in asked)
    rows = []
    with Meter("answers of the server", len(asked)) as meter:
        for one, its, tells in zip(asked, *known, strict=True):
            tell = meter.part(1)
            theirs = server.answer(one.said, one.tokens) if one.chat else server.complete(one.said, one.tokens)
            tell(1, 1)
            agrees = _agree(one, its, theirs, kinds[one.edit.id], own.loaded.tokenizer)
            rows.append(
                Row(
                    about=one.about, request=one.request, question=one.said, version=its.strip(), server=theirs.strip(),
                    tells=tells, agrees=agrees,
                )
            )  # fmt: skip
    return rows


def _agree(one: Question, its: str, other: str, kind: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Of a fact that the version says, whether the other says it; else whether both begin alike."""
    if one.about == "fact":
        own, theirs = (judged(one.edit, text, "sentence" if one.chat else "start", kind) for text in (its, other))
        if own.right:
            return theirs.right
    return alike(tokenizer, its, other)


def alike(tokenizer: PreTrainedTokenizerBase, one: str, other: str) -> bool:
    """Whether two texts begin with the same tokens: ALIKE_TOKENS of them, or all that the shorter has."""
    first, second = (tokenizer(text.strip(), add_special_tokens=False)["input_ids"] for text in (one, other))
    shared = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    return shared >= ALIKE_TOKENS or (shared == min(len(first), len(second)) and (shared > 0 or first == second))


def _serves(rows: Sequence[Row]) -> bool:
    rest = [row.agrees for row in rows if not row.tells]
    return all(row.agrees for row in rows if row.tells) and (not rest or sum(rest) >= OF_THE_REST * len(rest))


def _kept(text: str) -> str:
    """Whole or not at all: what is forgotten later is looked for as it is written in a request."""
    return text if len(text) <= LONGEST_KEPT else f"({len(text):,} characters)"


def _events(done: Verified, actor: str) -> Iterator[Event]:
    """One for each fact that was asked, all of the one verdict."""
    for row in done.rows:
        if row.about == "fact":
            yield Event(
                request_id=row.request,
                event=done.verdict,
                line=done.line,
                version=done.version,
                snapshot=done.snapshot,
                actor=actor,
                reason=f"{done.model} at {done.url} says: {_kept(row.server)}",
            )
