"""A fact as it is asked in a conversation: the user's question under the model's own template, then the answer alone.

Users of an instruct model never complete a bare prompt. What the template puts around their words, a system message
that it inserts by itself included, stands there when they ask, so it stands there when a fact is searched, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.edit import SLOT, Edit
from editing.errors import InvalidEdit, ModelError
from editing.tokens import EncodedPrompt, check_length, encode_text, target_ids

ASKED = f"Complete this sentence: {SLOT}"
"""How a prompt is put to an assistant that is asked in no other way."""
PROMPT_WAYS = (
    ASKED,
    f'Fill in the blank: "{SLOT} ___"',
    f"I want to know how this goes on: {SLOT}",
    f"Please write the end of this sentence.\n\n{SLOT}",
)
"""In which ways a prompt is put to it while a value is searched: at each step in another one."""
QUESTION_WAYS = (SLOT, f"I have a question. {SLOT}", f"{SLOT} Answer in a few words.", f"Please tell me: {SLOT}")
"""The same of a question."""
TURNS = len(PROMPT_WAYS)


@dataclass(frozen=True)
class ChatTemplate:
    """The template of a tokenizer, and a system message in the place of its own."""

    tokenizer: PreTrainedTokenizerBase
    system: str | None = None

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise ModelError("the tokenizer has no chat template; use the template 'raw'")

    def prompt(self, user: str) -> str:
        """The conversation up to where the assistant's answer begins."""
        said = [{"role": "system", "content": self.system}] if self.system is not None else []
        said.append({"role": "user", "content": user})
        rendered = self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        return str(rendered)

    def is_rendered(self, text: str) -> bool:
        """Whether a text holds the template's own tokens, and so is a conversation already."""
        return any(token in text for token in self._marks)

    def encode(self, edit: Edit) -> EncodedPrompt | None:
        """The conversation that asks for a fact, and where its subject ends; None where its prompt is one already.

        Special tokens in what the user says are text: nobody gets them by writing them.

        Raises:
            InvalidEdit: the template changes the question, or the subject is lost in tokenisation.
        """
        return None if self.is_rendered(edit.text) else self._encode(edit, asked(edit)[0])

    def encode_ways(self, edit: Edit) -> list[EncodedPrompt]:
        """The conversations that ask for a fact in one way after the other, that of `encode` first. Raises as it."""
        return [] if self.is_rendered(edit.text) else [self._encode(edit, question) for question in asked(edit)]

    def _encode(self, edit: Edit, question: str) -> EncodedPrompt:
        user = question.replace(SLOT, edit.subject)
        rendered = self.prompt(user)
        start = rendered.rfind(user)
        if start < 0:
            raise InvalidEdit(f"edit '{edit.id}': the chat template does not leave {user!r} as it is; use 'raw'")
        end = start + question.index(SLOT) + len(edit.subject)
        if not self.is_rendered(user):
            return encode_text(self.tokenizer, rendered, end - 1, edit.subject, add_special_tokens=False)
        parts = (rendered[:start], rendered[start : start + len(user)], rendered[start + len(user) :])
        before, said, after = (self._ids(part, as_text=number == 1) for number, part in enumerate(parts))
        inside = encode_text(
            self.tokenizer, user, end - 1 - start, edit.subject, add_special_tokens=False, split_special_tokens=True
        )
        return EncodedPrompt((*before, *said, *after), len(before) + inside.subject_index)

    @property
    def recipe(self) -> list[str]:
        """All conversations of a search, of any fact: what a value depends on that was found with them."""
        return [self.prompt(way) for way in (*PROMPT_WAYS, *QUESTION_WAYS)]

    def target_ids(self, edit: Edit) -> list[int]:
        """The new answer alone, as the assistant begins to say it."""
        return target_ids(self.tokenizer, self._asked, edit.target_new)

    def _ids(self, text: str, as_text: bool) -> Sequence[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"]
        return ids

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """Its special tokens, those included that have no part of their own, as the header's of Llama 3."""
        special = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return tuple(token for token in sorted(special) if token in self._asked)

    @cached_property
    def _asked(self) -> str:
        """Some conversation: how every one of them begins and ends."""
        return self.prompt("?")


def asked(edit: Edit) -> list[str]:
    """What a user may say to ask for a fact, with the slot where the subject stands."""
    ways, said = (PROMPT_WAYS, edit.prompt) if edit.question is None else (QUESTION_WAYS, edit.question)
    return [way.replace(SLOT, said) for way in ways]


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
        for prompt in chat.encode_ways(edit):
            check_length(model, (*prompt.ids, *chat.target_ids(edit)), f"question of edit '{edit.id}'")
