"""The texts in which the facts of some edits are read, and how much work it is to read them at every layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from editing.edit import Edit
from editing.groups import KeyGroup
from editing.keys import ROOM, Begun
from editing.methods.shared.interface import MethodInput
from editing.progress import counted
from editing.tokens import EncodedPrompt, encode_in_context

SOLVE = 1024
"""About how many tokens run through a layer in the time that the solve for it takes."""


@dataclass(frozen=True)
class Encoded:
    """The texts in which edits are read, at every layer: context by context and, of the conversations, edit by edit."""

    contexts: list[list[EncodedPrompt]]
    conversations: list[list[EncodedPrompt]]
    begun: Begun = field(default_factory=Begun)
    """Layers rise from one `locate` to the next, and no weight changes below one that was read."""

    @cached_property
    def tokens(self) -> tuple[int, int]:
        """Of bare prompts and conversations, and of the prompts in other contexts."""
        whole = [*self.contexts[0], *(prompt for some in self.conversations for prompt in some)]
        rest = [prompt for some in self.contexts[1:] for prompt in some]
        return sum(p.subject_index + 1 for p in whole), sum(p.subject_index + 1 for p in rest)

    def layers_run(self, given: MethodInput, layer: int) -> tuple[int, int]:
        """How many layers these and those pass through to be read at this one; see `Begun`, which may lack room."""
        model = given.model
        size = sum(self.tokens) * model.config.get_text_config().hidden_size * model.dtype.itemsize
        begun = max((one for one in given.layers if one < layer), default=0) * ROOM // max(ROOM, size)
        return given.layers[-1] + 1 - begun, layer + 1 - begun

    def counting(self, given: MethodInput) -> Callable[[int], None]:
        """What hears of tokens, as often as they ran through a layer, and tells how much of all that is.

        It hears of these by `locate`, and of `SOLVE` by whoever has solved for a layer.
        """
        every = [self.layers_run(given, layer) for layer in given.layers]
        total = sum(SOLVE + sum(n * run for n, run in zip(self.tokens, runs, strict=True)) for runs in every)
        return counted(given.on_progress, total)


def encoded(given: MethodInput, edits: Sequence[Edit]) -> Encoded:
    """All texts of the edits. Raises InvalidEdit for a subject that is lost in tokenisation."""
    tokenizer, prefixes = given.tokenizer, given.prefixes
    contexts = [
        [encode_in_context(tokenizer, prefixes, context, edit.prompt, edit.subject) for edit in edits]
        for context in range(len(prefixes))
    ]
    return Encoded(contexts, conversations(given, edits))


def conversations(given: MethodInput, edits: Sequence[Edit]) -> list[list[EncodedPrompt]]:
    """For each edit the conversations in which it and those that share its key are searched, each beginning once."""
    if given.chat is None:
        return [[] for _ in edits]
    asked = [[p for edit in group.everyone for p in given.chat.encode_all(edit)] for group in groups_of(given, edits)]
    beginnings = [{p.ids[: p.subject_index + 1]: p for p in some} for some in asked]
    return [list(some.values()) for some in beginnings]


def groups_of(given: MethodInput, edits: Sequence[Edit]) -> Sequence[KeyGroup]:
    """Of each edit the facts that share its key."""
    return given.groups or [KeyGroup((edit,)) for edit in edits]
