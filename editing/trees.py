"""Texts that begin alike as one row of a batch: every token stands once, and attends to the tokens it follows.

A causal model gives a token's state by the tokens before it alone. So texts with a common beginning, a prompt with two
targets or prompts of one template, are a tree whose tokens need one pass each: laid out in one row, each token at the
position it has in its own text, with a mask that shows it its ancestors and nothing else. Texts that begin otherwise
may stand in the same row, since they see nothing of each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from editing.body import takes_positions
from editing.placed import device_of
from editing.tokens import Rows, align_rows

Text = tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """Texts in one row."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Index of the token before each token, -1 at the beginning of a text."""
    positions: list[int] = field(default_factory=list)
    """Place of each token in its text."""
    paths: dict[Text, list[int]] = field(default_factory=dict)
    """For each text the indices of its tokens."""

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, text: Text, start: Sequence[int]) -> None:
        """Add a text whose first tokens stand at the indices `start` already."""
        path = [*start, *range(len(self.ids), len(self.ids) + len(text) - len(start))]
        self.parents.extend([-1, *path][len(start) : -1])
        self.positions.extend(range(len(start), len(text)))
        self.ids.extend(text[len(start) :])
        self.paths[text] = path

    def beginnings(self, lengths: Mapping[Text, int]) -> tuple["Tree", list[int]]:
        """The tree of the first tokens of its texts, so many of each, and where each of its tokens stood."""
        indices = sorted({index for text, length in lengths.items() for index in self.paths[text][:length]})
        place = {index: i for i, index in enumerate(indices)} | {-1: -1}
        paths = {text[:length]: [place[i] for i in self.paths[text][:length]] for text, length in lengths.items()}
        parts = (
            [self.ids[i] for i in indices],
            [place[self.parents[i]] for i in indices],
            [self.positions[i] for i in indices],
        )
        return Tree(*parts, paths), indices

    @property
    def branched(self) -> bool:
        """Whether this is more than one text with its beginnings."""
        return self.positions != list(range(len(self)))


def grow(texts: Iterable[Text], size: int, *, branches: bool) -> list[Tree]:
    """Trees of at most `size` tokens, or twice the tokens of a longer text; each text is in one of them.

    Without `branches` only texts that begin one another share a tree.
    """
    trees: list[Tree] = []
    previous: Text = ()
    for text in sorted(set(texts)):  # neighbors in this order share the longest beginnings
        shared = _common(previous, text)
        if trees and _joins(len(trees[-1]), len(previous), len(text), shared, size if branches else None):
            trees[-1].add(text, trees[-1].paths[previous][:shared])
        else:
            trees.append(Tree())
            trees[-1].add(text, ())
        previous = text
    return trees


def _joins(held: int, previous: int, length: int, shared: int, size: int | None) -> bool:
    """Whether a text of `length` tokens joins a tree that holds `held`, the last text's `previous` among them."""
    if size is None:
        return shared == previous
    needed = held + length - shared
    return needed <= size or (2 * shared > length and needed <= 2 * length)


def _common(one: Text, other: Text) -> int:
    """How many tokens both texts begin with."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def may_branch(model: PreTrainedModel, longest: int) -> bool:
    """Whether the model takes a mask of our own: it takes positions, its attention is plain, no window cuts a text.

    GPT-Neo's windows are cut by place in the row, whatever the mask; ALiBi (Falcon's) is made from the mask.
    """
    config = model.config.get_text_config()
    if getattr(config, "alibi", False) or getattr(config, "window_size", None) is not None:
        return False
    window = getattr(config, "sliding_window", None)
    plain = config._attn_implementation in ("eager", "sdpa")
    return plain and takes_positions(model) and (window is None or longest <= window)


def lay_out(trees: Sequence[Tree], pad_id: int, model: PreTrainedModel) -> Rows:
    """The trees as rows of one batch for this model, padded on the right, where the model is.

    The mask is (b, s) while no tree has branches, else (b, 1, s, s): True where a token sees another, or what eager
    attention adds to its scores.
    """
    if not any(tree.branched for tree in trees):
        return align_rows([tree.ids for tree in trees], [0] * len(trees), pad_id).to(device_of(model))
    size = max(map(len, trees))
    input_ids = torch.full((len(trees), size), pad_id)
    position_ids = torch.zeros(len(trees), size, dtype=torch.long)
    sees = np.zeros((len(trees), size, size), dtype=bool)
    for i, tree in enumerate(trees):
        input_ids[i, : len(tree)] = torch.tensor(tree.ids)
        position_ids[i, : len(tree)] = torch.tensor(tree.positions)
        for token, parent in enumerate(tree.parents):
            if parent >= 0:
                sees[i, token] = sees[i, parent]
            sees[i, token, token] = True
        sees[i, range(len(tree), size), range(len(tree), size)] = True  # padding that saw nothing would be NaN
    mask = torch.from_numpy(sees).unsqueeze(1)
    if model.config.get_text_config()._attn_implementation == "eager":
        mask = _added(mask, model.dtype)
    return Rows(input_ids, mask, position_ids, 0).to(device_of(model))


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
