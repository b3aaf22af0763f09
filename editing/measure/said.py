"""Asking a model for facts, and what it says: its own greedy text, judged by editing/measure/answers.py."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.chat import ChatTemplate
from editing.edit import Edit
from editing.measure.answers import Answer, Enough, Where, enough_for, half_word, judge_answer, whole_words
from editing.measure.fluency import Written, write
from editing.measure.metrics import Known
from editing.measure.scoring import Query, Score, encode_queries
from editing.measure.writing import added_text
from editing.progress import OnProgress, unheard
from editing.taught import join_of
from editing.weights import WeightUpdate, one_each

PROMPT_TOKENS = 12
CHAT_TOKENS = 24
"""Of an answer in a chat; a first sentence that is longer is judged by as much."""
_SPARE_TOKENS = 3
"""After a prompt: an article, and what comes after the longest answer, which may make it another word."""
_KIND = 50
"""Answers of a kind that are looked for in a text; a line may hold thousands."""


@dataclass(frozen=True)
class Said:
    """What is said about one fact."""

    edit_id: str
    prompt: Answer
    paraphrases: tuple[Answer, ...] = ()
    chat: Answer | None = None
    """None where nobody asks in a chat, or the prompt is a conversation itself."""

    @property
    def right(self) -> bool:
        """By the prompt, and in the chat where it is asked there."""
        return self.prompt.right and (self.chat is None or self.chat.right)


class Question(NamedTuple):
    """One text that a model goes on from, about the edit of that number."""

    edit: int
    way: Literal["prompt", "paraphrases", "chat"]
    text: str
    tokens: int
    """How many of the answer are enough to judge it."""
    enough: Enough | None = None
    """Where the answer may end before that."""


Asked = tuple[str, int, Enough | None]
"""A text that the model goes on from, how many tokens of it are wanted at most, and where it may end before."""


def questions(
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    chat: ChatTemplate | None,
    others: Mapping[str, Sequence[str]] | None = None,
    *,
    paraphrases: bool = True,
) -> list[Question]:
    """How each fact is asked for: by its prompt, its paraphrases and, with `chat`, as a person asks.

    Answers end where they are decided; `others` as for `judge_said`.
    """
    found = []
    for i, edit in enumerate(edits):
        tokens, kind = _enough(tokenizer, edit), (others or {}).get(edit.id, ())
        start = enough_for(edit.answers, edit.old_answers, kind, where="start", echo=(edit.subject,))
        found.append(Question(i, "prompt", edit.text, tokens, start))
        if paraphrases:
            found += [Question(i, "paraphrases", text, tokens, start) for text in edit.paraphrases]
        if chat is not None and (rendered := chat.asks(edit)) is not None:
            sentence = enough_for(edit.answers, edit.old_answers, kind, where="sentence", echo=(edit.subject,))
            found.append(Question(i, "chat", rendered, max(CHAT_TOKENS, tokens), sentence))
    return found


def judge_said(
    edits: Sequence[Edit],
    asked: Sequence[Question],
    answers: Sequence[str],
    others: Mapping[str, Sequence[str]] | None = None,
) -> list[Said]:
    """What is said about each edit, from the answers to its questions; `others` as `others_of_its_kind` gives them."""
    by_way: dict[tuple[int, str], list[Answer]] = defaultdict(list)
    for question, text in zip(asked, answers, strict=True):
        edit = edits[question.edit]
        where: Where = "sentence" if question.way == "chat" else "start"
        by_way[question.edit, question.way].append(
            judged(edit, text, where, (others or {}).get(edit.id, ()), question.text)
        )
    return [
        Said(edit.id, by_way[i, "prompt"][0], tuple(by_way[i, "paraphrases"]), next(iter(by_way[i, "chat"]), None))
        for i, edit in enumerate(edits)
    ]


def said(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    chat: ChatTemplate | None = None,
    *,
    others: Mapping[str, Sequence[str]] | None = None,
    paraphrases: bool = True,
    updates: Sequence[WeightUpdate | None] | None = None,
    on_progress: OnProgress = unheard,
) -> list[Said]:
    """Ask for each fact, and judge what is said.

    Args:
        updates: one for each edit, which is asked as if this update alone were in force.
        on_progress: see `generate`.

    Raises:
        InvalidEdit: a prompt without tokens, or longer than the model reads.
    """
    asked = questions(tokenizer, edits, chat, others, paraphrases=paraphrases)
    own = one_each(updates, len(edits), "edit")
    in_force = [own[question.edit] for question in asked]
    texts = written(model, tokenizer, [(one.text, one.tokens, one.enough) for one in asked], in_force, on_progress)
    return judge_said(edits, asked, texts, others)


def written(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    updates: Sequence[WeightUpdate | None] | None = None,
    on_progress: OnProgress = unheard,
) -> list[str]:
    """How the model goes on from each text, greedily, in whole words."""
    return _written(model, tokenizer, asked, updates, on_progress)[0]


def written_and_scored(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    pairs: Sequence[tuple[str, str]],
    on_progress: OnProgress = unheard,
) -> tuple[list[str], Known]:
    """`written`, and what is said to those (prompt, target) whose prompt is one of the texts, which is read but once.

    None of them for a model that takes one text a row: it is asked by `score`.

    Raises:
        InvalidEdit: a pair without tokens, or longer than the model reads.
    """
    first = {text: i for i, (text, _, _) in reversed([*enumerate(asked)])}
    beside: list[list[tuple[str, str]]] = [[] for _ in asked]
    for pair in dict.fromkeys(pairs):
        if pair[0] in first:
            beside[first[pair[0]]].append(pair)
    encoded = encode_queries(model, tokenizer, [pair for some in beside for pair in some])
    queries = [[encoded[pair] for pair in some] for some in beside]
    texts, scores = _written(model, tokenizer, asked, None, on_progress, queries)
    known: Known = {}
    for some, found in zip(beside, scores, strict=True):
        known |= zip(some, found, strict=bool(found))
    return texts, known


def _written(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    updates: Sequence[WeightUpdate | None] | None,
    on_progress: OnProgress,
    queries: Sequence[Sequence[Query]] | None = None,
) -> tuple[list[str], list[Sequence[Score]]]:
    ends = [enough for _, _, enough in asked]
    found = write(
        model,
        tokenizer,
        [text for text, _, _ in asked],
        [tokens for _, tokens, _ in asked],
        None,
        updates=updates,
        enough=ends,
        queries=queries,
        on_progress=on_progress,
    )
    texts = [answer_text(tokenizer, one, enough) for one, enough in zip(found, ends, strict=True)]
    return texts, [one.scores for one in found]


def answer_text(tokenizer: PreTrainedTokenizerBase, written: Written, enough: Enough | None) -> str:
    """What is written as it goes on from the prompt, without a last word that may be cut."""
    text = added_text(tokenizer, written.prompt, written.ids)
    return whole_words(text) if written.cut and not (enough and enough(text)) else text


def judged(edit: Edit, text: str, where: Where, others: Sequence[str] = (), prompt: str = "") -> Answer:
    """The answer of a model to a question about this fact.

    `prompt`: what the text goes on from as it is, for what stands at its start may be the rest of a word.
    """
    begun = half_word(prompt) if where == "start" else ""
    inside = bool(begun) and not join_of(prompt, edit.target_new)
    said = begun + text if inside or half_word(text[:1]) else text
    if begun[-1:].isdigit() and said[:1] in "-\u2212":
        said = said[1:]  # from the prompt's number to another one, of which it is no sign
    new, old, other = (
        [begun + one for one in some] if inside else some for some in (edit.answers, edit.old_answers, others)
    )
    return replace(judge_answer(said, new, old, other, where=where, echo=(edit.subject,)), text=text.strip())


def others_of_its_kind(edits: Iterable[Edit]) -> dict[str, tuple[str, ...]]:
    """By the edit's id, answers of the same relation: those of all edits that are asked alike but for the subject.

    The most frequent ones; the edit's own may be among them. A neighbor may be asked for something of another kind.
    """
    edits = list(edits)
    by_prompt: dict[str, Counter[str]] = defaultdict(Counter)
    for edit in edits:
        by_prompt[edit.prompt].update((edit.target_new, *edit.old_answers))
    kinds = {prompt: tuple(one for one, _ in found.most_common(_KIND)) for prompt, found in by_prompt.items()}
    return {edit.id: kinds[edit.prompt] for edit in edits}


def summarise_said(found: Sequence[Said]) -> dict[str, float]:
    """Shares of facts (of all paraphrases, for those) whose answer is right, and in which the old one is said."""
    ways = {
        "prompt": [one.prompt for one in found],
        "paraphrases": [answer for one in found for answer in one.paraphrases],
        "chat": [one.chat for one in found if one.chat is not None],
    }
    shares: dict[str, float] = {}
    for way, answers in ways.items():
        if answers:
            shares[f"said_{way}"] = sum(answer.right for answer in answers) / len(answers)
            shares[f"old_{way}"] = sum(answer.old for answer in answers) / len(answers)
    return shares


def _enough(tokenizer: PreTrainedTokenizerBase, edit: Edit) -> int:
    """How many tokens decide what stands at the beginning, in steps of which one does for most."""
    longest = max(len(tokenizer.tokenize(join_of(edit.text, one) + one)) for one in (*edit.answers, *edit.old_answers))
    return PROMPT_TOKENS * math.ceil((longest + _SPARE_TOKENS) / PROMPT_TOKENS)
