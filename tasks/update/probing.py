"""Other ways of asking for a job's facts: the probes that its policy names, made and asked of base and candidate."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from editing.chat import ChatTemplate
from editing.digests import sha256
from editing.edit import Edit
from editing.measure.asking import Found, Measure, Questions, Scores, ask, questions, read, unasked
from editing.measure.beginnings import beginnings
from editing.measure.probes import SENTENCE_TOKENS, make_probes
from editing.measure.scoring import Score
from tasks.meter import Meter
from tasks.progress import note, stage
from tasks.update.kept import content_of
from tasks.update.policy import Policy
from tasks.update.prepared import dump_json
from tasks.update.saying import base_says
from tasks.update.session import Session

RIGHT = {"prefix50": "said", "prefix200": "said", "choice": "right", "negation": "believed", "reverse": "said"}
"""The number of each probe that says whether its question was answered rightly; of drift none does."""
SHOWN = RIGHT | {"drift": "kept"}
"""The number of each probe that stands in a job's numbers."""
PROBES_VERSION = 1
"""Counts the changes of what a base's probes come to, beside those of their texts."""
FACTS_AT_ONCE = 10
"""Facts that the base is asked about and that are kept together: what a killed job loses of them."""


def sampled(edits: Sequence[Edit], size: int) -> list[Edit]:
    """At most so many, always the same: those that are taken of some are taken of fewer, too."""
    chosen = sorted((edit.id for edit in edits), key=lambda name: sha256(name.encode()))[:size]
    names = frozenset(chosen)
    return [edit for edit in edits if edit.id in names]


@dataclass(frozen=True)
class Probes:
    """The probes of some facts, as far as these can be asked."""

    session: Session
    edits: Sequence[Edit]
    measures: Mapping[str, Measure]
    asked: Questions

    def now(self, then: Sequence[Scores] | None = None) -> dict[str, Found]:
        """Of the model as it stands, by the edits' ids; compared with what was `then`."""
        with stage("probes") as tell:
            scores = ask(self.session.loaded.model, self.session.loaded.tokenizer, self.asked, on_progress=tell)
        return self._read(scores, then)

    def base_scores(self) -> list[Scores]:
        """Of the base; cached, some facts at a time."""
        session, loaded = self.session, self.session.loaded
        starts = range(0, len(self.edits), FACTS_AT_ONCE)
        parts = [slice(start, start + FACTS_AT_ONCE) for start in starts]

        def make(missing: list[int]) -> Iterator[list[list[Score]]]:
            with Meter("probes of the base", 100 * len(missing)) as meter:
                for number in missing:
                    asked, tell = self.asked[parts[number]], meter.part(100)
                    with session.weights.at_base():
                        found = ask(loaded.model, loaded.tokenizer, asked, on_progress=tell)
                    yield [[*one.values()] for one in found]

        pairs = [list(dict.fromkeys(pair for some in one.values() for pair in some)) for one in self.asked]
        special = [content_of(loaded.tokenizer, edit).get("special", "") for edit in self.edits]
        abouts = [[*session.measured, PROBES_VERSION, pairs[part], special[part]] for part in parts]
        found = session.cache.get_all("probes", abouts, make, _scores_bytes, _read_scores)
        scores = [one for part in found for one in part]
        return [dict(zip(some, one, strict=True)) for some, one in zip(pairs, scores, strict=True)]

    def base(self, scores: Sequence[Scores]) -> dict[str, Found]:
        """What the base's scores come to."""
        return self._read(scores, None)

    def _read(self, scores: Sequence[Scores], then: Sequence[Scores] | None) -> dict[str, Found]:
        found = read(self.measures, self.edits, self.asked, scores, then)
        return {edit.id: one for edit, one in zip(self.edits, found, strict=True)}


def probes_of(
    session: Session, edits: Sequence[Edit], policy: Policy, texts: Sequence[str], chat: ChatTemplate | None
) -> Probes:
    """The policy's probes of these facts. Raises EditingError: the texts are too short to stand before a prompt."""
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    begun = [text for edit in edits for text in beginnings(edit)] if "drift" in policy.probes else []
    begun = list(dict.fromkeys(begun))
    written = base_says(session, [(text, SENTENCE_TOKENS, None) for text in begun])
    made = {text: goes_on.strip() for text, goes_on in zip(begun, written, strict=True)}
    measures = make_probes(model, tokenizer, edits, policy.probes, texts, chat, made)
    return Probes(session, edits, measures, questions(model, tokenizer, edits, measures))


def tell_unasked(session: Session, edits: Sequence[Edit], measures: Mapping[str, Measure], asked: Questions) -> None:
    """Warn of probes that ask nothing of any fact, with the reason."""
    for name, reason in unasked(session.loaded.model, session.loaded.tokenizer, edits, measures, asked).items():
        note(f"the probe {name} asks nothing and is left out: {reason}", "warning")


def numbers_of(found: Mapping[str, Found]) -> dict[str, float]:
    """The share of each probe that went well, over the facts that could be asked."""
    values: dict[str, list[float]] = {}
    for one in found.values():
        for name, numbers in one.items():
            if SHOWN[name] in numbers:
                values.setdefault(f"probes.{name}", []).append(numbers[SHOWN[name]])
    return {name: sum(some) / len(some) for name, some in values.items()}


def right_of(found: Mapping[str, Found]) -> dict[str, dict[str, float]]:
    """Whether each question was answered rightly, by probe and the edit's id."""
    right: dict[str, dict[str, float]] = {}
    for edit_id, one in found.items():
        for name, numbers in one.items():
            if name in RIGHT and RIGHT[name] in numbers:
                right.setdefault(name, {})[edit_id] = numbers[RIGHT[name]]
    return right


def _scores_bytes(found: list[list[Score]]) -> bytes:
    return dump_json([[[one.mean_logprob, one.argmax, one.predicted] for one in scores] for scores in found])


def _read_scores(path: Path) -> list[list[Score]]:
    """Raises OSError, ValueError or TypeError for anything but scores."""
    return [
        [Score(float(logprob), bool(argmax), tuple(map(int, predicted))) for logprob, argmax, predicted in scores]
        for scores in json.loads(path.read_text())
    ]
