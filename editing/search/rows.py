"""The rows of the value search: the prompts of each δ in every context, its KL prompt, all in groups of like length.

In a chat a fact is asked in many ways, and a δ that was searched in one of them is not said in others. All of them at
each step would take too long; so the steps take turns, each with another way and with every second sampled context.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from editing.chat import ChatTemplate
from editing.edit import Edit
from editing.tokens import EncodedPrompt, encode_in_context, target_ids

KL_PROMPT = "{} is a"
TURNS = 4
"""Of the steps in a chat: each has another way of asking and every second sampled context."""
CHAT_WEIGHT = 0.5
"""Of the conversations in the loss, against the bare prompts in their contexts."""
GROUP_COST = 40
"""What one more group costs, in columns: the calls of the layers that it runs by itself (measured on a CPU)."""


@dataclass(frozen=True)
class SearchRow:
    """One text of the search: an edit's prompt in one context, or a KL prompt."""

    delta: int
    """Number of the δ that is searched with it."""
    context: int | None
    """Number of the context in its turn, the bare one 0; none for the KL prompt."""
    ids: tuple[int, ...]
    anchor: int
    """Index of the subject's last token."""
    predicting: tuple[int, ...]
    """Indices whose next token counts."""
    targets: tuple[int, ...]
    """The tokens wanted there; empty for the KL prompt."""
    weight: float
    """Of each of these positions in the loss of its δ."""

    @property
    def tail(self) -> int:
        """Columns from the subject's last token on."""
        return len(self.ids) - self.anchor


def turns_of(
    tokenizer: PreTrainedTokenizerBase,
    number: int,
    edits: Sequence[Edit],
    prefixes: Sequence[str],
    kl_weight: float,
    chat: ChatTemplate | None = None,
) -> list[list[SearchRow]]:
    """The rows of the δ of this number, which edits that share a key have in common, for each turn of the steps.

    Each edit weighs the same. Without `chat` there is one turn, of all contexts.

    Raises:
        InvalidEdit: a subject is lost in tokenisation.
    """
    prompt = encode_in_context(tokenizer, prefixes, 0, KL_PROMPT, edits[0].subject)
    kept = SearchRow(number, None, prompt.ids, prompt.subject_index, (len(prompt.ids) - 1,), (), kl_weight)
    turns: list[list[SearchRow]] = [[] for _ in range(1 if chat is None else TURNS)]
    for edit in edits:
        targets = target_ids(tokenizer, edit.text, edit.target_new)
        bare, *others = (
            encode_in_context(tokenizer, prefixes, context, edit.prompt, edit.subject)
            for context in range(len(prefixes))
        )
        ways, answer = ([], []) if chat is None else (chat.encode_all(edit), chat.answer_ids(edit))
        for turn, rows in enumerate(turns):
            said = ways[turn :: len(turns)]
            raw = [bare, *(others if chat is None else others[turn % 2 :: 2])]
            of_raw = len(raw) / (1 - CHAT_WEIGHT) if said else len(raw)
            asked = [(prompt, targets, of_raw) for prompt in raw]
            asked += [(prompt, answer, len(said) / CHAT_WEIGHT) for prompt in said]
            rows += [
                _row(number, context, prompt, wanted, 1 / (of * len(edits) * len(wanted)))
                for context, (prompt, wanted, of) in enumerate(asked)
            ]
    return [[*rows, kept] for rows in turns]


def _row(number: int, context: int, prompt: EncodedPrompt, wanted: Sequence[int], weight: float) -> SearchRow:
    """The row in which these tokens are to come after a prompt."""
    first = len(prompt.ids) - 1
    predicting = tuple(range(first, first + len(wanted)))
    ids = prompt.ids + tuple(wanted[:-1])
    return SearchRow(number, context, ids, prompt.subject_index, predicting, tuple(wanted), weight)


def grouped(rows: Sequence[SearchRow], group_cost: int = GROUP_COST) -> list[list[SearchRow]]:
    """Rows by rising tail, divided so that padding and calls together cost least.

    A group costs rows times its longest tail, and `group_cost`. best[j] is the least cost of the first j rows.
    """
    ordered = sorted(rows, key=lambda row: row.tail)
    cuts = [0] + [i for i in range(1, len(ordered)) if ordered[i].tail != ordered[i - 1].tail] + [len(ordered)]
    best: list[tuple[int, int]] = [(0, 0)]
    for j in range(1, len(cuts)):
        tail = ordered[cuts[j] - 1].tail
        best.append(min((best[i][0] + (cuts[j] - cuts[i]) * tail + group_cost, i) for i in range(j)))
    groups, j = [], len(cuts) - 1
    while j > 0:
        i = best[j][1]
        groups.append(ordered[cuts[i] : cuts[j]])
        j = i
    return groups[::-1]
