"""The demo's facts: a table of candidates written by hand, and the requests made of it by asking a model.

A candidate becomes a request where the model completes its prompt with something else than the true answer; what it
says instead becomes the old answer (`target_true`, which is whatever the model answered before, right or wrong).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from deployments.demo import CANDIDATES
from editing.chat import chat_of
from editing.edit import SLOT, Probe
from editing.measure.answers import judge_answer
from editing.measure.fluency import generate
from editing.measure.said import CHAT_TOKENS, PROMPT_TOKENS
from editing.models import LoadedModel
from tasks.progress import progress

GOOD = 27
"""Requests that are true corrections; three more show what is refused, and by whom."""
NEIGHBORS = 4
"""Neighbors of each request."""
AT_ONCE = 16
"""Prompts that are completed together."""
OLD_WORDS = 4
"""Most words of an old answer."""
SETTINGS = ("", "Here are some facts. ")
"""A neighbor is stable when it is answered alike after each of these."""
_END = re.compile(r"[.,;:!?(\n\"“”]|\s(?:and|or|that|to|which|who|with)\s")


@dataclass(frozen=True)
class Candidate:
    """A true fact with its source, and how it is asked; or, where `shows` names it, one of the three bad requests."""

    id: str
    subject: str
    prompt: str
    target_new: str
    paraphrases: Sequence[str]
    question: str
    """As a person would ask."""
    kind: str
    """Which of the table's neighbors it gets."""
    source: str
    shows: str = ""
    """What a bad request shows: malformed, contradiction or damage."""

    @property
    def text(self) -> str:
        return self.prompt.replace("{}", self.subject)


@dataclass(frozen=True)
class Table:
    candidates: Sequence[Candidate]
    neighbors: Mapping[str, Sequence[Probe]]
    """By kind: prompts about other subjects with their true answers."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """What an answer would be if the fact changed again, by id: invented, for the demo's second act."""

    def by_id(self) -> dict[str, Candidate]:
        return {candidate.id: candidate for candidate in self.candidates}


def read_table(path: Path = CANDIDATES) -> Table:
    table = json.loads(path.read_text(encoding="utf-8"))
    return Table(
        [Candidate(**fields) for fields in table["candidates"]],
        {kind: [Probe(prompt=p, answer=a) for p, a in pairs] for kind, pairs in table["neighbors"].items()},
        table.get("changes", {}),
    )


def make_requests(loaded: LoadedModel, table: Table, good: int = GOOD) -> list[dict[str, Any]]:
    """The first `good` candidates that the model gets wrong, and the bad ones, as records of a request file.

    Wrong is what it gets wrong both ways: as a sentence to go on with, and as a person asks.
    The malformed one, the contradiction and the one that damages stand at the end: what they collide with comes before.
    """
    said = complete(loaded, [candidate.text for candidate in table.candidates])
    true = [c for c in table.candidates if not c.shows and not says(said[c.text], c.target_new)]
    asked = {c.id: as_question(loaded.tokenizer, c.question) for c in true}
    answered = complete(loaded, asked.values(), CHAT_TOKENS)
    wrong = [c for c in true if not is_answer(answered[asked[c.id]], c.target_new)][:good]
    questions = {candidate.text for candidate in wrong}
    bad = [c for c in table.candidates if c.shows and (c.shows != "contradiction" or c.text in questions)]
    kinds = dict.fromkeys(candidate.kind for candidate in (*wrong, *bad))
    stable = {kind: stable_neighbors(loaded, table.neighbors[kind]) for kind in kinds}
    # Nothing tells that it damages where the model does not answer its neighbors.
    chosen = [*wrong, *(c for c in bad if c.shows != "damage" or stable[c.kind])]
    shares = {kind: _shares(neighbors) for kind, neighbors in stable.items()}
    return [_request(c, said[c.text], next(shares[c.kind])) for c in chosen]


def complete(loaded: LoadedModel, prompts: Iterable[str], tokens: int = PROMPT_TOKENS) -> dict[str, str]:
    """What the model writes after each prompt, its most probable words."""
    asked, said = list(dict.fromkeys(prompts)), list[str]()
    while len(said) < len(asked):
        progress("questions to the model", len(said), len(asked))
        said += generate(loaded.model, loaded.tokenizer, asked[len(said) : len(said) + AT_ONCE], tokens)
    progress("questions to the model", len(asked), len(asked))
    return dict(zip(asked, said, strict=True))


def says(completion: str, answer: str) -> bool:
    """Whether a completion says the answer, as every judge of the project has it."""
    return judge_answer(completion, [answer], [], where="start").right


def is_answer(text: str, answer: str) -> bool:
    """The same of the answer to a question: a sentence holds it."""
    return judge_answer(text, [answer], [], where="sentence").right


def as_question(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """What a model is given for a person's question: the form of its chat, where it has one."""
    chat = chat_of(tokenizer, "auto")
    return chat.prompt(question) if chat else f"Question: {question}\nAnswer:"


def old_answer(completion: str) -> str | None:
    """The words with which a completion answers, up to its first pause; None where it begins with none."""
    words = _END.split(completion.strip())[0].split()[:OLD_WORDS]
    return " ".join(words) or None


def stable_neighbors(loaded: LoadedModel, neighbors: Sequence[Probe]) -> list[Probe]:
    """Those that the model answers as the table says, alone and with a sentence before it."""
    said = complete(loaded, [setting + probe.prompt for setting in SETTINGS for probe in neighbors])
    return [
        probe
        for probe in neighbors
        if all(says(said[setting + probe.prompt], probe.answer or "") for setting in SETTINGS)
    ]


def _shares(neighbors: Sequence[Probe]) -> Iterator[list[Probe]]:
    """Some of the neighbors of a kind for each of its requests in turn, all of them asked before any is asked again."""
    for start in count(step=NEIGHBORS):
        yield [neighbors[(start + i) % len(neighbors)] for i in range(min(NEIGHBORS, len(neighbors)))]


def _request(candidate: Candidate, completion: str, neighbors: Sequence[Probe]) -> dict[str, Any]:
    old = old_answer(completion)
    request = {
        "id": candidate.id,
        "subject": candidate.subject,
        "prompt": candidate.prompt,
        "target_new": candidate.target_new,
        "target_true": old if old != candidate.target_new else None,
        "question": _question(candidate),
        "paraphrases": list(candidate.paraphrases),
        "neighborhood": [probe.model_dump() for probe in neighbors],
    }
    return {name: value for name, value in request.items() if value is not None}


def _question(candidate: Candidate) -> str | None:
    """What a person asks, with the subject's place; None where the question names it otherwise."""
    named = candidate.question.count(candidate.subject) == 1
    return candidate.question.replace(candidate.subject, SLOT) if named else None


def dump_requests(requests: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(request, ensure_ascii=False) + "\n" for request in requests)
