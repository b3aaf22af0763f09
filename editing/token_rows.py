"""Rows of tokens with others beside them: what a text says, and what it might as well have said at each place.

The mean of something over what comes next is known better from several draws than from the one that the text went on
with (Rao and Blackwell). A row with its others is a tree: each of them stands at the place of the row's own token,
after the same tokens, and nothing comes after it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from editing.trees import Tree

WINDOW = 128
"""Most tokens of one row."""


@dataclass(frozen=True)
class TokenRow:
    """Tokens of one text from its beginning."""

    ids: Sequence[int]
    others: Sequence[Sequence[int]] = field(default=())
    """For each token those beside it; left out: none."""

    def cut(self, start: int, stop: int) -> "TokenRow":
        """The tokens from `start` on as a text of their own, whose first has none beside it."""
        others = self.others[start:stop]
        return TokenRow(self.ids[start:stop], [[], *others[1:]] if others else ())

    def __len__(self) -> int:
        """How many tokens stand in it, those beside its own included."""
        return len(self.ids) + sum(map(len, self.others))

    @property
    def tree(self) -> Tree:
        """Its own tokens first, then the others."""
        beside = [(place, other) for place, others in enumerate(self.others) for other in others]
        return Tree(
            [*self.ids, *(other for _, other in beside)],
            [*range(-1, len(self.ids) - 1), *(place - 1 for place, _ in beside)],
            [*range(len(self.ids)), *(place for place, _ in beside)],
        )


def windows(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str | TokenRow], max_tokens: int) -> Iterator[TokenRow]:
    """The texts in rows of at most WINDOW tokens, up to so many in all, others not counted; texts are taken lazily."""
    left = max_tokens
    for text in texts:
        row = TokenRow(tokenizer(text, verbose=False)["input_ids"]) if isinstance(text, str) else text
        for start in range(0, len(row.ids), WINDOW):
            if left <= 0:
                return
            window = row.cut(start, start + min(WINDOW, left))
            left -= len(window.ids)
            yield window


def batches(rows: Iterable[TokenRow], size: int) -> Iterator[list[TokenRow]]:
    """Some rows at a time: as many as hold `size` tokens if all are as long as the longest; empty ones are left out."""
    batch: list[TokenRow] = []
    for row in filter(len, rows):
        if (len(batch) + 1) * max(map(len, [*batch, row])) > size and batch:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
