"""A fact as it is asked in a conversation: the user's question under the model's own template, then the answer alone.

Users of an instruct model never complete a bare prompt. What the template puts around their words, a system message
that it inserts by itself included, stands there when they ask, so it stands there when a fact is searched, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.edit import SLOT, Edit, Filled
from editing.errors import InvalidEdit, ModelError
from editing.tokens import (
    EncodedPrompt,
    check_length,
    conversation_of,
    encode_conversation,
    is_rendered,
    target_ids,
)

ASKED = f"Complete this sentence: {SLOT}"
"""How a prompt is put to an assistant that is asked in no other way."""
QUESTION_MARKS = ("?", "？", "؟")


def question_of(edit: Edit) -> str:
    """What a user asks for a fact, '{}' for its subject: the request's question, its prompt where that is a question
    already, else to complete the prompt.
    """
    if edit.question is not None:
        return edit.question
    return edit.prompt if edit.prompt.endswith(QUESTION_MARKS) else ASKED.replace(SLOT, edit.prompt)


@dataclass(frozen=True)
class ChatTemplate:
    """The template of a tokenizer, and a system message in the place of its own."""

    tokenizer: PreTrainedTokenizerBase
    system: str | None = None

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise ModelError("the tokenizer has no chat template; use the template 'raw'")

    def prompt(self, user: str) -> Filled:
        """The conversation up to where the assistant's answer begins; special tokens in what the user says are text.

        Raises:
            InvalidEdit: the template changes what is said.
        """
        said = [{"role": "system", "content": self.system}] if self.system is not None else []
        said.append({"role": "user", "content": user})
        rendered = str(self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        if user not in rendered:
            user = user.strip()  # as some templates do
        if (start := rendered.rfind(user)) < 0:
            raise InvalidEdit(f"the chat template does not leave {user!r} as it is; use 'raw'")
        return Filled(rendered, start, start + len(user), rendered=True)

    def asked(self, prompt: str) -> Filled:
        """The conversation in which a user says this; a prompt that is one already is not put into another."""
        return Filled(prompt) if is_rendered(self.tokenizer, prompt) else self.prompt(prompt)

    def asks(self, edit: Edit) -> Filled | None:
        """The conversation that asks for a fact; None where its prompt is one already.

        Raises:
            InvalidEdit: the template changes the question.
        """
        if conversation_of(self.tokenizer, edit.text) is not None:
            return None
        try:
            return self.prompt(question_of(edit).replace(SLOT, edit.subject))
        except InvalidEdit as error:
            raise InvalidEdit(f"edit '{edit.id}': {error}") from error

    def encode(self, edit: Edit) -> EncodedPrompt | None:
        """The conversation that asks for a fact, and where its subject ends; None where its prompt is one already.

        Raises:
            InvalidEdit: the template changes the question, or the subject is lost in tokenisation.
        """
        if (rendered := self.asks(edit)) is None:
            return None
        end = rendered.start + question_of(edit).index(SLOT) + len(edit.subject)
        return encode_conversation(self.tokenizer, rendered, end - 1, edit.subject)

    def target_ids(self, edit: Edit) -> list[int]:
        """The new answer alone, as the assistant begins to say it."""
        return target_ids(self.tokenizer, self._asked, edit.target_new)

    @cached_property
    def _asked(self) -> str:
        """Some conversation: how every one of them begins and ends."""
        return self.prompt("?")


def chat_of(tokenizer: PreTrainedTokenizerBase, template: str, system: str | None = None) -> ChatTemplate | None:
    """The conversation of a line's setting: `raw` none, `chat` the tokenizer's, `auto` that if there is one.

    Raises:
        ModelError: `chat`, and the tokenizer has no template.
    """
    if template == "raw" or (template == "auto" and not tokenizer.chat_template):
        return None
    return ChatTemplate(tokenizer, system)


def check_conversations(model: PreTrainedModel, edits: Sequence[Edit], chat: ChatTemplate | None) -> None:
    """Raises InvalidEdit for a fact that the conversation cannot ask for, or that is too long for the model there."""
    if chat is None:
        return
    for edit in edits:
        if (prompt := chat.encode(edit)) is not None:
            check_length(model, (*prompt.ids, *chat.target_ids(edit)), f"question of edit '{edit.id}'")
