"""Rows that a model goes on from together, token by token, each until its own end.

What rows begin with in common is computed once (editing/trees.py), and a row that has ended leaves the batch: its keys
and values are taken out of the model's cache. A row gives what it gives alone.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache

from editing.body import run_body, takes_positions
from editing.layout import layout_of
from editing.linear import fast_linear
from editing.measure.scoring import TREE_TOKENS, Query, Score, batches, output_logits, scores_at, tokens_at_once
from editing.placed import device_of
from editing.shortage import ELSEWHERE, within_memory
from editing.tokens import align_rows
from editing.trees import Text, Tree, grow, lay_out, may_branch
from editing.weights import WeightUpdate, overlay

STALE_ROWS = 8
"""Rows that have ended are taken out once they are one of so many: that copies the whole cache."""


def never(ids: Sequence[int]) -> bool:
    """A row that goes on until its end."""
    return False


@dataclass(frozen=True)
class Row:
    """What is gone on from, and how long."""

    prompt: Text
    tokens: int
    """New ones, at most."""
    draws: Tensor | None = None
    """Uniform numbers (tokens, 1 + others) by which they are sampled; None: the likeliest token each time."""
    update: WeightUpdate = field(default_factory=dict)
    """In force for this row alone."""
    enough: Callable[[Sequence[int]], bool] = never
    """Whether the row ends with these new tokens."""
    queries: Sequence[Query] = ()
    """Targets after the prompt, scored while it is read, where the model takes several texts as one row."""

    @property
    def longest(self) -> int:
        """Tokens of the longest text of it that the model may read."""
        return max(len(self.prompt) + self.tokens, *(len(query.row) for query in self.queries), 0)


@dataclass(frozen=True)
class _Prompts:
    """Prompts of rows with one update in one row of a batch, the numbers of those rows, and what is scored there."""

    tree: Tree
    rows: Sequence[int]
    update: WeightUpdate
    queries: Sequence[Query]

    def __len__(self) -> int:
        return len(self.tree)


class Writing:
    """Some rows, as far as they are written: a caller may go on with them later, while the weights are the same."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], pad_id: int, top_k: int
    ) -> None:
        self.model, self.rows, self.pad_id, self.top_k = model, rows, pad_id, top_k
        self.ends = end_tokens(model, tokenizer)
        self.ids: list[list[int]] = [[] for _ in rows]
        self.others: list[list[list[int]]] = [[] for _ in rows]
        """For each of `ids` what else was drawn in its place."""
        self.scores: list[list[Score]] = [[] for _ in rows]
        """Of each row's queries; none for a model that takes one text a row."""
        self.running = {i for i, row in enumerate(rows) if row.tokens > 0}
        # The batch: numbers of its rows, their newest tokens, and what the model keeps of those before.
        self._batch = sorted(self.running)
        self._newest: Tensor | None = None
        self._mask = self._positions = torch.empty(0)
        self._cache: Any = None

    @property
    def total(self) -> int:
        """New tokens at most."""
        return sum(row.tokens for row in self.rows)

    @property
    def done(self) -> int:
        """New tokens that are written; those that a row did without count when it has ended."""
        return sum(len(self.ids[i]) if i in self.running else row.tokens for i, row in enumerate(self.rows))

    @within_memory(f"write fewer tokens at once (fluency_tokens, or max_tokens of a request), or take {ELSEWHERE}")
    @torch.inference_mode()
    def run(self, wanted: Collection[int] | None = None, on_step: Callable[[int], None] = lambda done: None) -> None:
        """Go on until these rows, or all, have ended; `on_step` hears of `done`."""
        with fast_linear(self.model):
            while self.running if wanted is None else not self.running.isdisjoint(wanted):
                hidden = self._begin() if self._newest is None else self._advance(self._newest)
                self._take(self._choose(output_logits(self.model, hidden)))
                on_step(self.done)
        if not self.running:
            self._cache = self._newest = None

    def _begin(self) -> Tensor:
        """The last hidden states (rows, m) after the prompts, and a cache that holds these."""
        prompts = [self.rows[i].prompt for i in self._batch]
        batch = align_rows(prompts, [len(prompt) - 1 for prompt in prompts], self.pad_id).to(device_of(self.model))
        self._mask, self._positions = batch.attention_mask, batch.position_ids[:, -1:]
        if may_branch(self.model, max(self.rows[i].longest for i in self._batch)):
            return self._begin_together(batch.input_ids.shape[1])
        with self._overlaid([self.rows[i].update for i in self._batch]):
            return self._run(batch.input_ids, batch.position_ids)

    def _begin_together(self, width: int) -> Tensor:
        found: dict[int, tuple[int, int]] = {}  # where each row stands: in which pass, and as which of it
        hidden: list[Tensor] = []
        caches: list[list[list[Tensor]]] = []
        scores: dict[tuple[int, Query], Score] = {}  # by the identity of the update
        for group in batches(self._trees(), tokens_at_once(self.model)):
            laid, cache = lay_out([prompts.tree for prompts in group], self.pad_id, self.model), DynamicCache()
            with self._overlaid([prompts.update for prompts in group]):
                states = run_body(self.model, **laid.inputs, cache=cache).last_hidden_state
            scored = scores_at(self.model, states, [(prompts.tree, prompts.queries) for prompts in group])
            for prompts, some in zip(group, scored, strict=True):
                scores |= {(id(prompts.update), query): one for query, one in some.items()}
            places = [(j, i) for j, prompts in enumerate(group) for i in prompts.rows]
            found |= {i: (len(caches), at) for at, (_, i) in enumerate(places)}
            tree = torch.tensor([j for j, _ in places])
            index = torch.zeros(len(places), width, dtype=torch.long)  # padding is some other token, and masked
            for at, (j, i) in enumerate(places):
                path = group[j].tree.paths[self.rows[i].prompt]
                index[at, width - len(path) :] = torch.tensor(path)
            tree, index = tree.to(states.device), index.to(states.device)
            hidden.append(states[tree, index[:, -1]])
            caches.append([[_along(kept, tree, index) for kept in (one.keys, one.values)] for one in cache.layers])
        for i in self._batch:
            self.scores[i] = [scores[id(self.rows[i].update), query] for query in self.rows[i].queries]
        starts = [sum(map(len, hidden[:number])) for number in range(len(hidden))]
        order = torch.tensor([starts[found[i][0]] + found[i][1] for i in self._batch], device=hidden[0].device)
        layers = [[torch.cat(kept)[order] for kept in zip(*passes, strict=True)] for passes in _by_layer(caches)]
        self._cache = DynamicCache([(keys, values) for keys, values in layers])
        return torch.cat(hidden)[order]

    def _trees(self) -> Iterator[_Prompts]:
        by_update: dict[int, list[int]] = {}
        for i in self._batch:
            by_update.setdefault(id(self.rows[i].update), []).append(i)
        for numbers in by_update.values():
            by_prompt: dict[Text, list[int]] = {}
            asked: dict[Text, dict[Query, None]] = {}
            for i in numbers:
                by_prompt.setdefault(self.rows[i].prompt, []).append(i)
                for query in self.rows[i].queries:
                    asked.setdefault(query.row, {})[query] = None
            for tree in grow([*by_prompt, *asked], TREE_TOKENS, branches=True):
                rows = [i for text in tree.paths for i in by_prompt.get(text, ())]
                queries = [query for text in tree.paths for query in asked.get(text, ())]
                yield _Prompts(tree, rows, self.rows[numbers[0]].update, queries)

    def _advance(self, newest: Tensor) -> Tensor:
        """The last hidden states after one token more of each row that still runs."""
        keep = [place for place, i in enumerate(self._batch) if i in self.running]
        if len(self._batch) - len(keep) >= max(1, len(self._batch) // STALE_ROWS):
            places = torch.tensor(keep, device=newest.device)
            self._batch = [self._batch[place] for place in keep]
            newest, self._mask, self._positions = newest[places], self._mask[places], self._positions[places]
            self._cache.batch_select_indices(places)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        self._positions = self._positions + 1
        with self._overlaid([self.rows[i].update for i in self._batch]):
            return self._run(newest, self._positions)

    def _run(self, ids: Tensor, positions: Tensor) -> Tensor:
        given = {"input_ids": ids, "attention_mask": self._mask, "past_key_values": self._cache, "use_cache": True}
        if takes_positions(self.model):
            given["position_ids"] = positions
        out = self.model.base_model(**given)
        self._cache = out.past_key_values
        last: Tensor = out.last_hidden_state[:, -1]
        return last

    def _overlaid(self, updates: Sequence[WeightUpdate]) -> Any:
        return overlay(self.model, layout_of(self.model), updates)

    def _choose(self, logits_nv: Tensor) -> list[list[int]]:
        """The next token of each row of the batch, then what else was drawn in its place."""
        chosen: list[list[int]] = logits_nv.argmax(1, keepdim=True).tolist()
        draws = {
            place: drawn[len(self.ids[i])]
            for place, i in enumerate(self._batch)
            if i in self.running and (drawn := self.rows[i].draws) is not None
        }
        if draws:
            places = list(draws)
            sampled = _sample(logits_nv[places], torch.stack([draws[place] for place in places]), self.top_k)
            for place, tokens in zip(places, sampled.tolist(), strict=True):
                chosen[place] = tokens
        return chosen

    def _take(self, chosen: Sequence[Sequence[int]]) -> None:
        for i, (token, *others) in zip(self._batch, chosen, strict=True):
            if i not in self.running:
                continue
            row, ids = self.rows[i], self.ids[i]
            if token in self.ends:
                self.running.discard(i)
                continue
            ids.append(token)
            self.others[i].append(others)
            if len(ids) == row.tokens or row.enough(ids):
                self.running.discard(i)
        self._newest = torch.tensor([tokens[:1] for tokens in chosen], device=device_of(self.model))


def _by_layer(caches: Sequence[Sequence[Sequence[Tensor]]]) -> Iterator[Sequence[Sequence[Tensor]]]:
    """Of passes of layers, layers of passes."""
    return zip(*caches, strict=True)


def _along(states: Tensor, tree: Tensor, index: Tensor) -> Tensor:
    """Keys or values (trees, heads, tokens, head size) of the tokens of each row: (rows, heads, width, head size)."""
    return states.transpose(1, 2)[tree[:, None], index].transpose(1, 2)


def _sample(logits_nv: Tensor, draws_nk: Tensor, top_k: int) -> Tensor:
    """With uniform numbers (n, k), tokens from the `top_k` likeliest."""
    top = logits_nv.topk(min(top_k, logits_nv.shape[1]), dim=1)
    cumulative = top.values.cpu().double().softmax(1).cumsum(1)
    index = torch.searchsorted(cumulative, draws_nk.contiguous()).clamp(max=cumulative.shape[1] - 1)
    return top.indices.gather(1, index.to(top.indices.device))


def added_text(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]) -> str:
    """What tokens add to a text: some tokenizers leave out the space that a text begins with."""
    begun: str = tokenizer.decode(before, skip_special_tokens=True)
    whole: str = tokenizer.decode([*before, *ids], skip_special_tokens=True)
    if whole.startswith(begun):
        return whole[len(begun) :]
    alone: str = tokenizer.decode(ids, skip_special_tokens=True)
    return alone


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a text, by the tokenizer and the model's configs."""
    known = [
        tokenizer.eos_token_id,
        model.config.get_text_config().eos_token_id,
        getattr(model.generation_config, "eos_token_id", None),
    ]
    ends: set[int] = set()
    for entry in known:
        ends.update(entry if isinstance(entry, list | tuple) else [] if entry is None else [entry])
    return ends
