"""What a session's model can do in general, beside its base, which is asked once and then read from the cache."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from editing.covariance import text_digest
from editing.measure.ability import Answer, answer
from editing.measure.ability_sets import AbilitySet, Question
from editing.measure.kl import WINDOW, Divergence, divergence, read_states
from tasks.meter import Meter
from tasks.progress import stage
from tasks.update.prepared import dump_json
from tasks.update.session import Session

QUESTIONS_AT_ONCE = 50
"""Questions that are put to the base together and kept together: what a killed job loses of them."""


def base_answers(session: Session, asked: AbilitySet) -> list[Answer]:
    """What the base makes of each question; cached, some at a time."""
    questions = asked.questions
    parts = [questions[start : start + QUESTIONS_AT_ONCE] for start in range(0, len(questions), QUESTIONS_AT_ONCE)]

    def make(missing: list[int]) -> Iterator[list[Answer]]:
        with Meter(f"{asked.name} of the base", sum(len(parts[number]) for number in missing)) as meter:
            for number in missing:
                with session.weights.at_base():
                    found = answer(
                        session.loaded.model,
                        session.loaded.tokenizer,
                        parts[number],
                        on_progress=meter.part(len(parts[number])),
                    )
                yield found

    abouts = [[*session.measured, [_content(question) for question in part]] for part in parts]
    found = session.cache.get_all("ability", abouts, make, _answers_bytes, _read_answers)
    return [one for part in found for one in part]


def answers(session: Session, asked: AbilitySet) -> list[Answer]:
    """The same of the model as it stands."""
    with stage(asked.name) as tell:
        return answer(session.loaded.model, session.loaded.tokenizer, asked.questions, on_progress=tell)


def base_divergence(session: Session, texts: Sequence[str], tokens: int) -> Divergence:
    """How far the model as it stands is from the base, on so many tokens of the texts; of the base states are cached.

    Raises:
        EditingError: there is nothing to predict in the texts.
    """
    model, tokenizer = session.loaded.model, session.loaded.tokenizer

    def make() -> Tensor:
        with session.weights.at_base(), stage("next tokens of the base") as tell:
            return read_states(model, tokenizer, texts, tokens, tell)

    about = [*session.measured, text_digest(texts), tokens, WINDOW]
    base = session.cache.get("states", about, make, _states_bytes, _read_states)
    with stage("next tokens") as tell:
        return divergence(model, tokenizer, texts, tokens, base, session.weights.at_base, tell)


def _content(question: Question) -> list[object]:
    """What an answer depends on; which choice is right is no part of it."""
    return [question.context, question.choices]


def _answers_bytes(found: list[Answer]) -> bytes:
    return dump_json([[one.logprobs, one.greedy] for one in found])


def _read_answers(path: Path) -> list[Answer]:
    """Raises OSError, ValueError or TypeError for anything but answers."""
    return [
        Answer(tuple(map(float, logprobs)), tuple(map(bool, greedy)))
        for logprobs, greedy in json.loads(path.read_text())
    ]


def _states_bytes(states: Tensor) -> bytes:
    return bytes(save({"states": states.contiguous()}))


def _read_states(path: Path) -> Tensor:
    """Raises OSError, SafetensorError or KeyError for anything but states."""
    found: Tensor = load(path.read_bytes())["states"]
    return found
