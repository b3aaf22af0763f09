"""What the value search runs once: the layers up to L everywhere, the later ones before the subject's last token.

Rows begin alike: each context stands before every edit's prompt. So they run as trees (editing/trees.py), in which a
shared beginning stands once, and each row takes what lies on its own path.

Shapes: b = rows, P = columns before the subject's last token, S = columns from it on, m = hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from editing.placed import device_of
from editing.search.rows import SearchRow
from editing.search.tail import TailGroup, UpperLayers
from editing.tokens import align_rows
from editing.trees import Text, grow, lay_out, may_branch

TREE_TOKENS = 256
"""Tokens of one tree: larger ones share more, but in attention each of its tokens meets all the others."""


@torch.no_grad()
def freeze(upper: UpperLayers, groups: Sequence[Sequence[SearchRow]], pad_id: int) -> list[TailGroup]:
    """The groups of rows with all that does not depend on δ."""
    trunk = _run_trunk(upper, [row for group in groups for row in group], pad_id)
    return [_group(upper, trunk, group, pad_id) for group in groups]


@dataclass(frozen=True)
class _Trunk:
    """All rows, run once as trees."""

    paths: dict[Text, tuple[int, list[int]]]
    """The tree of each row's text, and its tokens there."""
    begun: dict[Text, tuple[int, list[int]]]
    """The same of the tokens before the subject's last one."""
    hidden: Tensor
    """Output of layer L, (trees, tokens, m)."""
    extras: tuple[object, ...]
    keys: list[Tensor]
    values: list[Tensor]
    """Of the layers above L, (trees, heads, tokens before subjects' ends, head size) each."""


def _run_trunk(upper: UpperLayers, rows: Sequence[SearchRow], pad_id: int) -> _Trunk:
    model = upper.model
    anchors: dict[Text, int] = {}
    for row in rows:
        anchors[row.ids] = max(row.anchor, anchors.get(row.ids, 0))
    trees = grow(anchors, TREE_TOKENS, branches=may_branch(model, max(map(len, anchors))))
    hidden, extras = upper.lower(lay_out(trees, pad_id, model))
    paths = {text: (i, path) for i, tree in enumerate(trees) for text, path in tree.paths.items()}
    cut = [tree.beginnings({text: anchors[text] for text in tree.paths}) for tree in trees]
    filled = [i for i, (tree, _) in enumerate(cut) if len(tree)]
    begun: dict[Text, tuple[int, list[int]]] = {}
    cache = DynamicCache()
    if filled:
        laid = lay_out([cut[i][0] for i in filled], pad_id, model)
        places = torch.zeros_like(laid.input_ids)
        for j, i in enumerate(filled):
            places[j, : len(cut[i][1])] = torch.tensor(cut[i][1])
            begun |= {text: (j, cut[i][0].paths[text[: anchors[text]]]) for text in trees[i].paths}
        there = torch.tensor(filled, device=hidden.device)[:, None]
        upper.run(hidden[there, places.to(hidden.device)], extras, laid.attention_mask, laid.position_ids, cache)
    above = cache.layers[upper.layer + 1 :]
    return _Trunk(paths, begun, hidden, extras, [layer.keys for layer in above], [layer.values for layer in above])


def _group(upper: UpperLayers, trunk: _Trunk, rows: Sequence[SearchRow], pad_id: int) -> TailGroup:
    device = device_of(upper.model)
    aligned = align_rows([row.ids for row in rows], [row.anchor for row in rows], pad_id).to(device)
    P = aligned.anchor
    S = aligned.input_ids.shape[1] - P
    tail, before = torch.zeros(len(rows), S, dtype=torch.long), torch.zeros(len(rows), P, dtype=torch.long)
    tail_tree, before_tree = torch.zeros(len(rows), 1, dtype=torch.long), torch.zeros(len(rows), 1, dtype=torch.long)
    places, targets, weights = [], [], []
    for i, row in enumerate(rows):
        tail_tree[i], path = trunk.paths[row.ids]
        tail[i, : row.tail] = torch.tensor(path[row.anchor :])
        if row.anchor:
            before_tree[i], path = trunk.begun[row.ids]
            before[i, P - row.anchor :] = torch.tensor(path[: row.anchor])
        for k, position in enumerate(row.predicting):
            places.append((i, position - row.anchor))
            targets.append(row.targets[k] if row.targets else -1)
            weights.append(row.weight)

    def along(states: Tensor) -> Tensor:
        """(b, heads, P, head size); what stands in padding is some other token's, and masked."""
        return states.transpose(1, 2)[before_tree.to(states.device), before.to(states.device)].transpose(1, 2)

    return TailGroup(
        upper=upper,
        extras=trunk.extras,
        hidden=trunk.hidden[tail_tree.to(device), tail.to(device)],
        attention_mask=aligned.attention_mask,
        position_ids=aligned.position_ids[:, P:],
        keys=[along(keys) for keys in trunk.keys] if P else [],
        values=[along(values) for values in trunk.values] if P else [],
        row_delta=torch.tensor([row.delta for row in rows], device=device),
        places=torch.tensor(places, device=device),
        targets=torch.tensor(targets, device=device),
        weights=torch.tensor(weights, device=device),
    )
