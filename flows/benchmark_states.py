"""All that a benchmark asks of its facts, of one state of the model: the base, an edited one, the base in context."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from editing.edit import Edit
from editing.measure.answer_kinds import answer_kind
from editing.measure.asking import Found, Measure, Questions, Scores, ask, questions, read
from editing.measure.beginnings import beginnings
from editing.measure.counterfact import Consistency, magnitudes
from editing.measure.fluency import generate
from editing.measure.groups import WRITTEN_TOKENS, Locality, Portability
from editing.measure.in_context import after_statement, stated
from editing.measure.metrics import EditScores, edit_pairs, evaluate
from editing.measure.probes import make_probes
from editing.measure.said import Said, others_of_its_kind, said
from editing.measure.said import questions as asked_in_words
from editing.progress import OnProgress
from editing.tokens import conversation_of
from editing.weights import WeightUpdate
from flows.benchmark_facts import Facts
from tasks.meter import Meter
from tasks.progress import stage
from tasks.update.probing import tell_unasked
from tasks.update.saying import conversation
from tasks.update.screening import readable_prompts
from tasks.update.session import Session

EDITS_AT_ONCE = 50
"""Independent edits asked together: fills batches, and lets progress be seen."""
TEXT_TOKENS = 50
"""Of a text that is compared with reference texts."""

Updates = Sequence[WeightUpdate] | None


@dataclass(frozen=True)
class State:
    """What was found of each of some edits."""

    edits: Sequence[Edit]
    metrics: list[EditScores]
    said: list[Said]
    magnitudes: list[dict[str, float]]
    probes: list[Found] = field(default_factory=list)
    portability: list[Found] = field(default_factory=list)
    locality: list[Found] = field(default_factory=list)
    consistency: list[float] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    """Of everything that is asked, for what compares with it."""


class Asker:
    """Asks the facts of a benchmark; to be made on the base, from whose texts some probes are made."""

    def __init__(
        self,
        session: Session,
        facts: Facts,
        *,
        probes: Sequence[str] = (),
        texts: Sequence[str] = (),
        references: Mapping[str, Sequence[str]] | None = None,
        seed: int = 0,
    ) -> None:
        self.session, self.facts, self.edits, self.seed = session, facts, facts.edits, seed
        self.model, self.tokenizer = session.loaded.model, session.loaded.tokenizer
        self.chat = conversation(session)
        self.others = others_of_its_kind(self.edits)
        self.references = dict(references or {})
        self.consistency = Consistency(list(chain.from_iterable(self.references.values())))
        with stage("probes"):
            self.probes = make_probes(self.model, self.tokenizer, self.edits, probes, texts, self.chat)
            self._asked = questions(self.model, self.tokenizer, self.edits, self._measures({}))
        tell_unasked(self.session, self.edits, self.probes, self._asked)
        self._number = {edit.id: number for number, edit in enumerate(self.edits)}

    def kinds(self) -> list[str]:
        """Of each edit what kind of answer it has."""
        return [answer_kind(self.tokenizer, edit) for edit in self.edits]

    def base(self) -> State:
        """Of the base, before anything is edited."""
        return self._state(self.edits, self._asked, None, None)

    def edited(self, base: State, updates: Updates = None) -> State:
        """Of the model as it stands, or of each edit's update alone in force."""
        if updates is None:
            return self._state(self.edits, self._asked, None, base)
        parts = []
        with Meter("evaluation", len(self.edits)) as meter:
            for start in range(0, len(self.edits), EDITS_AT_ONCE):
                part = slice(start, start + EDITS_AT_ONCE)
                tell = meter.part(len(self.edits[part]))
                parts.append(self._state(self.edits[part], self._asked[part], updates[part], base, tell=tell))
        return _together(parts)

    def so_far(self, base: State, count: int) -> State:
        """The metrics and what is said of the first so many edits, of the model as it stands."""
        return self._state(self.edits[:count], [{}] * count, None, base)

    def in_context(self, base: State) -> State:
        """Of the base, with each correction in the prompt; without those that no longer fit into the model."""
        beside = [self.facts.beside.get(edit.id, ()) for edit in self.edits]
        edits = [stated(edit, others) for edit, others in zip(self.edits, beside, strict=True)]
        asked = questions(self.model, self.tokenizer, edits, self._groups({}) | {"metrics": _Metrics()})
        fits = [i for i, edit in enumerate(edits) if "metrics" in asked[i] and self._can_be_asked(edit)]
        then = [
            {
                (after_statement(prompt, self.edits[i], beside[i]), target): found
                for (prompt, target), found in base.scores[i].items()
            }
            for i in fits
        ]
        with self.session.weights.at_base():
            return self._state(
                [edits[i] for i in fits], _only([asked[i] for i in fits], ("portability", "locality")), None, base, then
            )

    def _can_be_asked(self, edit: Edit) -> bool:
        """Whether words may stand before its prompts: not before a conversation, nor where they get too long."""
        if conversation_of(self.tokenizer, edit.text) is not None:
            return False
        words = {question.text for question in asked_in_words(self.tokenizer, [edit], self.chat)}
        return len(readable_prompts(self.session.loaded, sorted(words))) == len(words)

    def _groups(self, written: Mapping[tuple[str, str], str]) -> dict[str, Measure]:
        return {"portability": Portability(self.tokenizer, written), "locality": Locality()}

    def _measures(self, written: Mapping[tuple[str, str], str]) -> dict[str, Measure]:
        return self.probes | self._groups(written)

    def _state(
        self,
        edits: Sequence[Edit],
        asked: Questions,
        updates: Updates,
        base: State | None,
        then: Sequence[Scores] | None = None,
        tell: OnProgress | None = None,
    ) -> State:
        """Everything probable is read from one pass; texts are written where only they can tell.

        It is compared with `then`, by what is asked now: where that is left out, with what the base says to the same.
        """
        everything = [
            {"metrics": list(_Metrics().pairs(edit)), **some} for edit, some in zip(edits, asked, strict=True)
        ]
        with nullcontext(tell) if tell is not None else stage("evaluation") as told:
            scores = ask(self.model, self.tokenizer, everything, updates=updates, on_progress=told)
        if then is None and base is not None:
            then = [base.scores[self._number[edit.id]] for edit in edits]
        before = None if base is None else {one.edit_id: one for one in base.metrics}
        measures = self._measures(self._written(edits, asked, updates))
        found = {
            name: read({one: measures[one] for one in some}, edits, _only(asked, some), scores, then)
            for name, some in {"probes": self.probes, "portability": ["portability"], "locality": ["locality"]}.items()
        }
        return State(
            edits,
            [self._metrics(edit, known, before) for edit, known in zip(edits, scores, strict=True)],
            self._said(edits, updates),
            [magnitudes(edit, dict(known)) for edit, known in zip(edits, scores, strict=True)],
            **found,
            consistency=self._consistency(edits, updates),
            scores=scores,
        )

    def _metrics(self, edit: Edit, known: Scores, before: Mapping[str, EditScores] | None) -> EditScores:
        """Read from what is known: nothing is asked again."""
        return evaluate(self.model, self.tokenizer, [edit], before=before, known=dict(known))[0]

    def _said(self, edits: Sequence[Edit], updates: Updates) -> list[Said]:
        with stage("what is said") as tell:
            return said(
                self.model, self.tokenizer, edits, self.chat, others=self.others, updates=updates, on_progress=tell
            )

    def _written(self, edits: Sequence[Edit], asked: Questions, updates: Updates) -> dict[tuple[str, str], str]:
        """What the model writes where its text is to hold an answer, by edit and prompt."""
        measure = Portability(self.tokenizer)
        places = [
            (i, prompt)
            for i, (edit, some) in enumerate(zip(edits, asked, strict=True))
            if "portability" in some
            for prompt in measure.prompts(edit)
        ]
        texts = self._write(places, WRITTEN_TOKENS, updates)
        return {(edits[i].id, prompt): text for (i, prompt), text in zip(places, texts, strict=True)}

    def _consistency(self, edits: Sequence[Edit], updates: Updates) -> list[float]:
        """Of each edit that has reference texts."""
        chosen = [i for i, edit in enumerate(edits) if edit.id in self.references]
        places = [(i, prompt) for i in chosen for prompt in (edits[i].text, *beginnings(edits[i]))]
        texts = self._write(places, TEXT_TOKENS, updates, seed=self.seed)
        told = [(i, prompt + text) for (i, prompt), text in zip(places, texts, strict=True)]
        return [
            self.consistency.of(
                " ".join(text for number, text in told if number == i), " ".join(self.references[edits[i].id])
            )
            for i in chosen
        ]

    def _write(self, places: Sequence[tuple[int, str]], tokens: int, updates: Updates, **options: Any) -> list[str]:
        if not places:
            return []
        in_force = None if updates is None else [updates[i] for i, _ in places]
        with stage("texts") as tell:
            return generate(
                self.model,
                self.tokenizer,
                [prompt for _, prompt in places],
                tokens,
                updates=in_force,
                on_progress=tell,
                **options,
            )


class _Metrics:
    """What the metrics ask, as one more measure of the same pass."""

    def pairs(self, edit: Edit) -> Sequence[tuple[str, str]]:
        return list(edit_pairs(edit, edit.neighborhood))

    def read(self, edit: Edit, now: Scores, then: Scores | None) -> Found:
        return {}


def _only(asked: Questions, names: Any) -> Questions:
    return [{name: pairs for name, pairs in some.items() if name in names} for some in asked]


def _together(parts: Sequence[State]) -> State:
    """States of successive edits as one."""
    names = ("edits", "metrics", "said", "magnitudes", "probes", "portability", "locality", "consistency", "scores")
    return State(**{name: list(chain.from_iterable(getattr(part, name) for part in parts)) for name in names})
