"""The rows of the value search: the prompts of each δ in every context, its KL prompt, all in groups of like length.

In a chat a fact is asked in many ways, and a δ that was searched in one of them is not said in others. Asking in all of
them at each step would take as many times as long; so the steps take turns, each with another way and with every
second one of the sampled contexts (measured on SmolLM2-135M, 20 facts: said in two ways that no search saw 95 %, and
75 % where each step has the same way and all contexts, which takes a sixth more time).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from editing.chat import TURNS, ChatTemplate
from editing.edit import Edit
from editing.tokens import encode_in_context, target_ids

KL_PROMPT = "{} is a"
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
        contexts = [
            (encode_in_context(tokenizer, prefixes, context, edit.prompt, edit.subject), targets)
            for context in range(len(prefixes))
        ]
        ways = [] if chat is None else [(prompt, chat.target_ids(edit)) for prompt in chat.encode_ways(edit)]
        for turn, rows in enumerate(turns):
            asked = contexts if chat is None else contexts[:1] + contexts[1 + turn % 2 :: 2]
            asked = asked + ways[turn : turn + 1]
            for context, (prompt, wanted) in enumerate(asked):
                first = len(prompt.ids) - 1
                rows.append(
                    SearchRow(
                        number,
                        context,
                        prompt.ids + tuple(wanted[:-1]),
                        prompt.subject_index,
                        tuple(range(first, first + len(wanted))),
                        tuple(wanted),
                        1 / (len(asked) * len(edits) * len(wanted)),
                    )
                )
    return [[*rows, kept] for rows in turns]


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
