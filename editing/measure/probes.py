"""Probes that need no data: other ways of asking for a fact, made from the fact itself.

Published measures ask the very prompt that was edited, with its answer fed in (Yang et al. 2025, "The Mirage of Model
Editing", https://arxiv.org/abs/2502.11177, find 38.5 % in real use where they say 96.8 %). Each probe here asks
otherwise; p is a probability after a prompt, ℓ its mean logarithm over the tokens of the answer, o* the new answer, o
the old one, q the prompt with its subject.

- prefix50, prefix200: q after so many tokens of other text (Dai et al. 2025, NAMET, https://arxiv.org/abs/2505.11876).
- choice: o* or o as A or B, in both orders (another form of asking: Lin et al. 2024, https://arxiv.org/abs/2402.11122).
- negation: what q states, and its denial (Kassner and Schütze 2020, https://arxiv.org/abs/1911.03343).
- drift: what the base writes about the subject (Meng et al. 2022, essence drift, https://arxiv.org/abs/2202.05262).
- reverse: the subject, from the new answer (Berglund et al. 2023, https://arxiv.org/abs/2309.12288).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.chat import ChatTemplate
from editing.digests import sha256
from editing.edit import SLOT, Edit, shown
from editing.errors import UsageError
from editing.filled import Said
from editing.measure.asking import Found, Measure, Pair, Scores, prefers
from editing.measure.beginnings import beginnings, text_beginnings
from editing.measure.fluency import generate
from editing.taught import taught
from editing.tokens import conversation_of

SENTENCE_TOKENS = 20
BLANK: Final = "____"


@dataclass(frozen=True)
class Material:
    """What probes are made of beside the edit."""

    texts: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Texts to stand before a prompt, by their number of tokens."""
    written: Mapping[str, str] = field(default_factory=dict)
    """How the base goes on from beginnings of sentences."""
    chat: ChatTemplate | None = None
    """The conversation in which choices, truth and the subject are asked for; without one in plain text."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """Knows which prompts are conversations already, to which no other words are put."""


@dataclass(frozen=True)
class Prefix:
    """q after a text: `said` 1 where o* (or an alias) is what the model begins to say, `old_said` the same of o.

    `prob` = 1 where ℓ(o*) > ℓ(o), as the metrics compare.
    """

    material: Material
    tokens: int

    def pairs(self, edit: Edit) -> Sequence[Pair]:
        if _is_conversation(self.material, edit):
            return []
        prompt = self.prompt(edit)
        return [(prompt, answer) for answer in (*edit.answers, *edit.old_answers)]

    def read(self, edit: Edit, now: Scores, then: Scores | None) -> Found:
        prompt = self.prompt(edit)
        found = {"said": float(any(now[prompt, answer].argmax for answer in edit.answers))}
        if edit.target_true is not None:
            found["prob"] = float(prefers(now, prompt, edit.target_new, edit.target_true) > 0)
            found["old_said"] = float(now[prompt, edit.target_true].argmax)
        return {f"prefix{self.tokens}": found}

    def prompt(self, edit: Edit) -> str:
        """The same text whenever the edit has the same id."""
        texts = self.material.texts[self.tokens]
        before = texts[int(sha256(edit.id.encode())[:8], 16) % len(texts)]
        return Said(f"{before} {edit.text}", edit.join)


@dataclass(frozen=True)
class Choice:
    """A or B, asked twice, o* once as the one and once as the other, since small models like one letter better.

    `right` 1 where o*'s letter is more probable in both orders; `new_first`, `new_second` in the one and the other;
    `prefers` = 1 where the sum over both orders of ℓ(o*'s letter) - ℓ(o's) > 0, in which a liking for a letter is gone.
    """

    material: Material

    def pairs(self, edit: Edit) -> Sequence[Pair]:
        if edit.target_true is None or _is_conversation(self.material, edit):
            return []
        return [(prompt, letter) for prompt in self.prompts(edit) for letter in "AB"]

    def read(self, edit: Edit, now: Scores, then: Scores | None) -> Found:
        first, second = self.prompts(edit)
        margins = prefers(now, first, "A", "B"), prefers(now, second, "B", "A")
        return {
            "choice": {
                "right": float(min(margins) > 0),
                "new_first": float(margins[0] > 0),
                "new_second": float(margins[1] > 0),
                "prefers": float(sum(margins) > 0),
            }
        }

    def prompts(self, edit: Edit) -> tuple[str, str]:
        """The new answer as A, and as B."""
        new, old = edit.target_new, str(edit.target_true)
        return self._prompt(edit, new, old), self._prompt(edit, old, new)

    def _prompt(self, edit: Edit, one: str, other: str) -> str:
        question = edit.question.replace(SLOT, edit.subject) if edit.question else edit.text if _asks(edit) else None
        asked = question or f"Which one completes this sentence: {edit.text}"
        return _asked(self.material, f"{asked}\nA. {one}\nB. {other}\nAnswer with A or B.", "Answer:")


@dataclass(frozen=True)
class Negation:
    """The statement and its denial. An edit is to make a model believe a statement, not to say a word after any text.

    `new` 1 where ℓ(o*) > ℓ(o) after the denied prompt, "It is not true that q"; `kept` 0 where that is so, and was not
    before editing; `gain` how much ℓ(o*) - ℓ(o) grew there, and `gain_plain` after q itself, in nats.
    With m(s) = ℓ("True") - ℓ("False") asked of a statement s: `believed` 1 where m(q o*) > m(it is not true that q o*),
    `over_old` where m(q o*) > m(q o). In differences of m a liking for one of the two words is gone.
    """

    material: Material

    def pairs(self, edit: Edit) -> Sequence[Pair]:
        if edit.target_true is None or _is_conversation(self.material, edit):
            return []
        answers = (edit.target_new, edit.target_true)
        said = [(prompt, answer) for prompt in (edit.text, self.denied(edit)) for answer in answers]
        return said + [(prompt, word) for prompt in self.statements(edit) for word in ("True", "False")]

    def read(self, edit: Edit, now: Scores, then: Scores | None) -> Found:
        new, old, denied = edit.target_new, str(edit.target_true), self.denied(edit)
        new_true, new_denied, old_true = (prefers(now, prompt, "True", "False") for prompt in self.statements(edit))
        after = prefers(now, denied, new, old)
        found = {
            "new": float(after > 0),
            "believed": float(new_true > new_denied),
            "over_old": float(new_true > old_true),
        }
        if then is not None:
            before = prefers(then, denied, new, old)
            found["kept"] = float(not (after > 0 >= before))
            found["gain"] = after - before
            found["gain_plain"] = prefers(now, edit.text, new, old) - prefers(then, edit.text, new, old)
        return {"negation": found}

    def denied(self, edit: Edit) -> str:
        """The prompt, so that its answer would be denied."""
        return f'The answer to "{edit.text}" is not' if _asks(edit) else f"It is not true that {edit.text}"

    def statements(self, edit: Edit) -> tuple[str, str, str]:
        """Is it true? Of the new statement, of its denial, of the old statement."""
        new, old = _statement(edit, edit.target_new), _statement(edit, str(edit.target_true))
        claims = (new, f"It is not true that {new}", old)
        one, two, three = (_asked(self.material, f"True or false? {claim}", "Answer:") for claim in claims)
        return one, two, three


@dataclass(frozen=True)
class Drift:
    """What the base writes about the subject in other sentences, read by the model token by token.

    `logprob` the mean ℓ of these texts; against before editing `change` of it, in nats a token, and `kept`, the share
    of their tokens at which the most probable token is the same. A text that states the old fact may well change.
    """

    material: Material

    def pairs(self, edit: Edit) -> Sequence[Pair]:
        begun = [(prompt, self.material.written.get(prompt, "")) for prompt in beginnings(edit)]
        return [(prompt, text) for prompt, text in begun if text.strip()]

    def read(self, edit: Edit, now: Scores, then: Scores | None) -> Found:
        pairs = self.pairs(edit)
        found = {"logprob": sum(now[pair].mean_logprob for pair in pairs) / len(pairs)}
        if then is not None:
            found["change"] = found["logprob"] - sum(then[pair].mean_logprob for pair in pairs) / len(pairs)
            same = [a == b for p in pairs for a, b in zip(now[p].predicted, then[p].predicted, strict=True)]
            found["kept"] = sum(same) / len(same)
        return {"drift": found}


@dataclass(frozen=True)
class Reverse:
    """The subject, asked for by the statement with a blank in its place.

    `logprob` = ℓ(subject) where o* is stated; `said` 1 where the model begins to say it; `over_old` 1 where ℓ(subject)
    is larger than where o is stated; `gain` how much ℓ(subject) grew by editing, in nats.
    """

    material: Material

    def pairs(self, edit: Edit) -> Sequence[Pair]:
        if _is_conversation(self.material, edit):
            return []
        return [(self.prompt(edit, answer), edit.subject) for answer in (edit.target_new, *edit.old_answers)]

    def read(self, edit: Edit, now: Scores, then: Scores | None) -> Found:
        pair = self.prompt(edit, edit.target_new), edit.subject
        found = {"logprob": now[pair].mean_logprob, "said": float(now[pair].argmax)}
        for old in edit.old_answers:
            other = self.prompt(edit, old), edit.subject
            found["over_old"] = float(now[pair].mean_logprob > now[other].mean_logprob)
        if then is not None:
            found["gain"] = found["logprob"] - then[pair].mean_logprob
        return {"reverse": found}

    def prompt(self, edit: Edit, answer: str) -> str:
        stated = taught(Said(edit.prompt.replace(SLOT, BLANK), edit.join), answer)
        return _asked(self.material, f'Fill in the blank: "{stated}"', f"{BLANK} is")


PROBES: Final[Mapping[str, Callable[[Material], Measure]]] = {
    "prefix50": lambda material: Prefix(material, 50),
    "prefix200": lambda material: Prefix(material, 200),
    "choice": Choice,
    "negation": Negation,
    "drift": Drift,
    "reverse": Reverse,
}


def named_probes(names: str) -> tuple[str, ...]:
    """Names separated by commas, or 'all', each once.

    Raises:
        UsageError: there is no probe of that name.
    """
    if names.strip() == "all":
        return tuple(PROBES)
    asked = dict.fromkeys(name.strip() for name in names.split(",") if name.strip())
    if unknown := [name for name in asked if name not in PROBES]:
        raise UsageError(f"there is no probe {shown(unknown[0])}; the probes are {', '.join(PROBES)}, or all")
    return tuple(asked)


def make_probes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    names: Sequence[str],
    texts: Sequence[str],
    chat: ChatTemplate | None = None,
    written: Mapping[str, str] | None = None,
) -> dict[str, Measure]:
    """The probes of these names for these edits, made by the base, which is what the model is to be now.

    Args:
        texts: general text, of which the beginnings stand before prompts.
        chat: asks there what is asked in words.
        written: how the base goes on from the `beginnings` of each edit, where that is known; the model may be another
            then.

    Raises:
        EditingError: the texts are too short.
    """
    sizes = [probe.tokens for name in names if isinstance(probe := PROBES[name](Material()), Prefix)]
    if written is None:
        begun = list(dict.fromkeys(chain.from_iterable(map(beginnings, edits)))) if "drift" in names else []
        made = generate(model, tokenizer, begun, SENTENCE_TOKENS) if begun else []
        written = dict(zip(begun, made, strict=True))
    before = {size: text_beginnings(tokenizer, texts, size) for size in sizes}
    material = Material(before, written, chat, tokenizer)
    return {name: PROBES[name](material) for name in names}


def _asks(edit: Edit) -> bool:
    """Whether the prompt is a question, which its answer does not make a statement."""
    return edit.text.rstrip().endswith("?")


def _statement(edit: Edit, answer: str) -> str:
    return f'The answer to "{edit.text}" is {answer}.' if _asks(edit) else f"{taught(edit.text, answer)}."


def _asked(material: Material, user: str, lead: str) -> str:
    """The words in the conversation, or in plain text with how their answer begins."""
    return f"{user}\n{lead}" if material.chat is None else material.chat.prompt(user)


def _is_conversation(material: Material, edit: Edit) -> bool:
    """Whether the prompt is a conversation already."""
    return material.tokenizer is not None and conversation_of(material.tokenizer, edit.text) is not None
