"""A fact as it is asked in a conversation: the user's question under the model's own template, then the answer alone.

Users of an instruct model never complete a bare prompt. What the template puts around their words, a system message
that it inserts by itself included, stands there when they ask, so it stands there when a fact is searched, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from jinja2 import TemplateError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from editing.edit import SLOT, Edit, shown
from editing.errors import InvalidEdit, ModelError
from editing.filled import Filled
from editing.tokens import (
    EncodedPrompt,
    check_length,
    conversation_ids,
    conversation_of,
    encode_conversation,
    holds_special,
    positions_in,
    target_ids,
)

Message = Mapping[str, str]
"""With role and content."""
ASKED = f"Complete this sentence: {SLOT}"
"""How a prompt is put to an assistant that is asked in no other way."""
PROMPT_WAYS = (
    f'Fill in the blank: "{SLOT} ___"',
    f"I want to know how this goes on: {SLOT}",
    f"Please write the end of this sentence.\n\n{SLOT}",
)
"""In which other ways it is put while a value is searched."""
QUESTION_WAYS = (f"I have a question. {SLOT}", f"{SLOT} Answer in a few words.", f"Please tell me: {SLOT}")
"""The same of a question."""
LONG = 3
"""From so many tokens on an answer is searched with the token that ends it."""
ANSWER = "Answer"
"""Some answer, to see what a template puts after it."""
QUESTION_MARKS = ("?", "？", "؟")
MARK = "\U000f0000"
"""A character that nobody uses: where a template puts it, it puts what stands in its place."""


def question_of(edit: Edit) -> str:
    """What a user asks for a fact, '{}' for its subject: the request's question, its prompt where that is a question
    already, else to complete the prompt.
    """
    if edit.question is not None:
        return edit.question
    return edit.prompt if edit.prompt.rstrip().endswith(QUESTION_MARKS) else ASKED.replace(SLOT, edit.prompt)


def question_about(edit: Edit) -> str:
    """The same with the subject in it, as it is heard."""
    return question_of(edit).replace(SLOT, edit.subject)


def questions_of(edit: Edit) -> list[str]:
    """The ways in which a fact is asked while its value is searched, that of `question_of` first."""
    first = question_of(edit)
    said, ways = (first, QUESTION_WAYS) if first in (edit.question, edit.prompt) else (edit.prompt, PROMPT_WAYS)
    return [first, *(way.replace(SLOT, said) for way in ways)]


@dataclass(frozen=True)
class ChatTemplate:
    """The template of a tokenizer, and a system message in the place of its own."""

    tokenizer: PreTrainedTokenizerBase
    system: str | None = None

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise ModelError("the tokenizer has no chat template; ask by bare prompts")

    def prompt(self, user: str) -> Filled:
        """The conversation up to where the assistant's answer begins; special tokens in what is said are text.

        The last span is what the user says.

        Raises:
            InvalidEdit: the template changes what is said.
        """
        said = self._said([{"role": "user", "content": user}])
        rendered = _rendered(self.tokenizer, said)
        if (span := _span(self.tokenizer, said, -1, rendered)) is None:
            raise InvalidEdit(
                f"the chat template does not leave {user!r} as it is; word it otherwise, or ask it as a bare prompt"
            )
        return Filled(rendered, *self._specials(said, rendered, len(said) - 1), span, rendered=True)

    def conversation(self, messages: Sequence[Message]) -> Filled:
        """Messages with role and content up to where the assistant answers; special tokens in a content are text.

        Raises:
            InvalidEdit: the template takes no such conversation, or changes a content with special tokens in it.
        """
        said = self._said(messages)
        rendered = _rendered(self.tokenizer, said)
        return Filled(rendered, *self._specials(said, rendered, len(said)), rendered=True)

    def _said(self, messages: Sequence[Message]) -> list[Message]:
        """After the system message, unless they have one of their own."""
        if self.system is None or messages[0]["role"] == "system":
            return [*messages]
        return [{"role": "system", "content": self.system}, *messages]

    def _specials(self, said: Sequence[Message], rendered: str, first: int) -> list[tuple[int, int]]:
        """Where those of the first so many messages stand that have special tokens in them."""
        spans = []
        for number, message in enumerate(said[:first]):
            if holds_special(self.tokenizer, content := message["content"]):
                if (span := _span(self.tokenizer, said, number, rendered)) is None:
                    raise InvalidEdit(f"the chat template does not leave {shown(content)} as it is; take it out")
                spans.append(span)
        return spans

    def is_rendered(self, prompt: str) -> bool:
        """Whether a prompt holds the template's own tokens, and so is a conversation already."""
        return conversation_of(self.tokenizer, prompt if isinstance(prompt, Filled) else Filled(prompt)) is not None

    def asked(self, prompt: str) -> Filled:
        """The conversation in which a user says this; a prompt that is one already is not put into another."""
        return Filled(prompt) if self.is_rendered(prompt) else self.prompt(prompt)

    def asks(self, edit: Edit, question: str | None = None) -> Filled | None:
        """The conversation that asks for a fact, by this question or its own; None where its prompt is one already.

        Raises:
            InvalidEdit: the template changes the question.
        """
        if self.is_rendered(edit.text):
            return None
        try:
            return self.prompt((question or question_of(edit)).replace(SLOT, edit.subject))
        except InvalidEdit as error:
            raise InvalidEdit(f"edit '{edit.id}': {error}") from error

    def encode(self, edit: Edit) -> EncodedPrompt | None:
        """The conversation that asks for a fact, and where its subject ends; None where its prompt is one already.

        Raises:
            InvalidEdit: the template changes the question, or the subject is lost in tokenisation.
        """
        if (rendered := self.asks(edit)) is None:
            return None
        return self._encode(edit, rendered, question_of(edit))

    def encode_all(self, edit: Edit) -> list[EncodedPrompt]:
        """The same for each of `questions_of`; none where its prompt is a conversation already."""
        found = []
        for question in questions_of(edit):
            if (rendered := self.asks(edit, question)) is not None:
                found.append(self._encode(edit, rendered, question))
        return found

    def _encode(self, edit: Edit, rendered: Filled, question: str) -> EncodedPrompt:
        end = rendered.spans[-1][0] + question.index(SLOT) + len(edit.subject)
        return encode_conversation(self.tokenizer, rendered, end - 1, edit.subject)

    def target_ids(self, edit: Edit) -> list[int]:
        """The new answer alone, as the assistant begins to say it."""
        return target_ids(self.tokenizer, self._asked, edit.target_new)

    def answer_ids(self, edit: Edit) -> list[int]:
        """The same as it is searched: a long one with the token that ends an answer, where the template has one.

        Else the model goes on inside the last word ("Order of Canada" and "overning"). A short one is said as it is,
        and its end would take from it a good part of what is searched for.
        """
        ids = self.target_ids(edit)
        return ids + self._end if len(ids) >= LONG else ids

    @cached_property
    def _end(self) -> list[int]:
        """The special token that the template puts after an answer; none where it is no single one."""
        said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
        try:
            rendered = str(self.tokenizer.apply_chat_template(said, tokenize=False))
        except TemplateError:
            return []
        after = rendered.rpartition(ANSWER)[2].lstrip()
        ids: list[int] = self.tokenizer(after, add_special_tokens=False)["input_ids"][:1]
        return ids if ids and ids[0] in self.tokenizer.all_special_ids else []

    @cached_property
    def _asked(self) -> str:
        """Some conversation: how every one of them begins and ends."""
        return self.prompt("?")


def _rendered(tokenizer: PreTrainedTokenizerBase, said: Sequence[Message]) -> str:
    try:
        return str(
            tokenizer.apply_chat_template([dict(one) for one in said], tokenize=False, add_generation_prompt=True)
        )
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise InvalidEdit(f"the chat template takes no such conversation: {error}") from error


def _span(
    tokenizer: PreTrainedTokenizerBase, said: Sequence[Message], number: int, rendered: str
) -> tuple[int, int] | None:
    """Where a message's content stands in what is rendered, white space around it aside; None where it is changed.

    It is not looked for there: what the template itself writes may read the same.
    """
    marked, content = [*said], said[number]["content"]
    marked[number] = {**said[number], "content": MARK}
    start = _rendered(tokenizer, marked).rfind(MARK)
    for text in (content, content.strip()):  # some templates strip it
        if start >= 0 and rendered.startswith(text, start):
            return start, start + len(text)
    return None


def chat_of(tokenizer: PreTrainedTokenizerBase, template: str, system: str | None = None) -> ChatTemplate | None:
    """The conversation of a line's setting: `raw` none, `chat` the tokenizer's, `auto` that if there is one.

    Raises:
        ModelError: `chat`, and the tokenizer has no template; or it takes no such system message.
    """
    if template == "raw" or (template == "auto" and not tokenizer.chat_template and system is None):
        return None
    if system is None:
        return ChatTemplate(tokenizer)
    if not tokenizer.chat_template:
        raise ModelError("the tokenizer has no chat template for a system message; leave the system message out")
    said = [{"role": "system", "content": system}, {"role": "user", "content": "?"}]
    try:
        left = _span(tokenizer, said, 0, _rendered(tokenizer, said)) is not None
    except InvalidEdit as error:
        raise ModelError(f"{error}; leave the system message {shown(system)} out") from error
    if not left:
        raise ModelError(f"the chat template does not say the system message {shown(system)} as it is; leave it out")
    return ChatTemplate(tokenizer, system)


def check_system(chat: ChatTemplate | None, config: PreTrainedConfig) -> None:
    """Raises ModelError for a system message that leaves the model of this config nothing to read."""
    if chat is None or chat.system is None:
        return
    taken, limit = len(conversation_ids(chat.tokenizer, chat.prompt("?"))), positions_in(config)
    if limit is not None and taken >= limit:
        raise ModelError(
            f"the system message {shown(chat.system)} takes {taken} tokens with its conversation, the model reads "
            f"{limit}; shorten it"
        )


def check_conversations(model: PreTrainedModel, edits: Sequence[Edit], chat: ChatTemplate | None) -> None:
    """Raises InvalidEdit for a fact that the conversation cannot ask for, or that is too long for the model there."""
    if chat is None:
        return
    for edit in edits:
        for prompt in chat.encode_all(edit):
            check_length(model, (*prompt.ids, *chat.answer_ids(edit)), f"question of edit '{edit.id}'")
