"""The rows of the value search: each edit's prompt in every context, and its KL prompt, in groups of like length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from editing.edit import Edit
from editing.tokens import encode_in_context, target_ids

KL_PROMPT = "{} is a"
GROUP_COST = 40
"""What one more group costs, in columns: the calls of the layers that it runs by itself (measured on a CPU)."""


@dataclass(frozen=True)
class SearchRow:
    """One text of the search: an edit's prompt in one context, or its KL prompt."""

    edit: int
    context: int | None
    """Number of the context; none for the KL prompt."""
    ids: tuple[int, ...]
    anchor: int
    """Index of the subject's last token."""
    predicting: tuple[int, ...]
    """Indices whose next token counts."""
    targets: tuple[int, ...]
    """The tokens wanted there; empty for the KL prompt."""

    @property
    def tail(self) -> int:
        """Columns from the subject's last token on."""
        return len(self.ids) - self.anchor


def rows_of(
    tokenizer: PreTrainedTokenizerBase, number: int, edit: Edit, prefixes: Sequence[str]
) -> Iterator[SearchRow]:
    """The rows of the edit that has this number in its batch.

    Raises:
        InvalidEdit: the subject is lost in tokenisation.
    """
    for context in range(len(prefixes)):
        prompt = encode_in_context(tokenizer, prefixes, context, edit.prompt, edit.subject)
        targets = target_ids(tokenizer, edit.text, edit.target_new)
        first = len(prompt.ids) - 1
        yield SearchRow(
            number,
            context,
            prompt.ids + tuple(targets[:-1]),
            prompt.subject_index,
            tuple(range(first, first + len(targets))),
            tuple(targets),
        )
    prompt = encode_in_context(tokenizer, prefixes, 0, KL_PROMPT, edit.subject)
    yield SearchRow(number, None, prompt.ids, prompt.subject_index, (len(prompt.ids) - 1,), ())


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
