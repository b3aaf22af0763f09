"""Collecting key statistics: text streamed through the layers up to the last edited one, and its keys summed.

Sums are taken in parts with fixed borders. Which process sums a part makes no difference to any bit.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.body import run_body
from editing.covariance import KeyStatistics
from editing.errors import StatisticsError
from editing.key_sums import PART_BATCHES, KeySums, PartSums
from editing.keys import capture_inputs, in_rows, stop_before
from editing.layout import ModelLayout
from editing.linear import fast_linear
from editing.placed import device_of
from editing.progress import OnProgress, unheard
from editing.shortage import within_memory
from editing.token_rows import WINDOW, TokenRow, batches, windows
from editing.tokens import Rows, pad_token
from editing.trees import Tree, lay_out, may_branch

TOKENS_AT_ONCE = 1024
"""Tokens of one pass."""
SUMMATION = 5
"""Raised when the numbers that the same text gives change: cached statistics are of one summation."""
KEPT_EVERY = 4.0
"""Seconds of work between sums that are kept."""
WORK_A_WRITE = 20.0
"""And at least so many times as long as it took to write them: those of a large model are gigabytes."""
FEWER_LAYERS = "edit fewer layers (option layers)"

Passes = list[list[TokenRow]]
"""The rows of a part, pass by pass."""
Elsewhere = Callable[[int, KeySums], bool]
"""Whether somebody else summed the part of that number, and these sums took what was found."""


@dataclass(frozen=True)
class Unfinished:
    """Where sums are kept while statistics are collected, so that a process that is killed loses seconds of work."""

    read: Callable[[], dict[str, Tensor] | None]
    write: Callable[[dict[str, Tensor]], None]
    seconds: float = KEPT_EVERY
    """Least time between two that are written."""
    work_a_write: float = WORK_A_WRITE
    """The same, in times of what the last one took to write."""


@torch.no_grad()
@within_memory(FEWER_LAYERS)
def collect_statistics(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layout: ModelLayout,
    layers: tuple[int, ...],
    texts: Iterable[str | TokenRow],
    *,
    base_digest: str,
    source: str,
    max_tokens: int,
    on_progress: Callable[[int], None] = lambda tokens: None,
    unfinished: Unfinished | None = None,
    elsewhere: Elsewhere = lambda number, sums: False,
) -> KeyStatistics:
    """Stream `texts` through the layers up to the last edited one and average k kᵀ over at most `max_tokens` tokens.

    Texts are cut into windows; `on_progress` hears the tokens done. What stands beside the tokens of a text counts as
    much as they do, and comes on top of `max_tokens`; a model that takes no mask of our own is given texts alone. With
    `unfinished` it goes on where a collection of the same texts ended, and parts that are found `elsewhere` are not
    summed here; either way it comes to the same numbers, to the last bit.

    Raises:
        StatisticsError: there is no text, or the keys are not finite.
    """
    collecting = _Collecting(model, tokenizer, layout, layers)
    sums, done = collecting.sums, 0
    kept = _Keeping(unfinished)
    if not kept.restored(sums):
        on_progress(0)
    with fast_linear(model):
        for number, part in enumerate(parts_of(model, tokenizer, texts, max_tokens)):
            first = number * PART_BATCHES
            if number and sums.batches == first:
                sums.begin_part()
            if sums.batches == first:
                elsewhere(number, sums)
            for place, rows in enumerate(part, start=first):
                done += sum(len(row.ids) for row in rows)
                if fresh := place == sums.batches:
                    collecting.add(rows)
                if fresh or place + 1 == sums.batches:
                    on_progress(done)
                if fresh:
                    kept.keep(sums)
    if sums.tokens == 0:
        raise StatisticsError(f"no text to collect key statistics from ({source}); give a text with words in it")
    statistics = KeyStatistics(sums.means(), sums.tokens, base_digest, source, sums.fourth_powers())
    statistics.check(base_digest, layers)
    return statistics


def parts_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str | TokenRow], max_tokens: int
) -> Iterator[Passes]:
    """The parts of a collection in their order: what `sum_part` sums of each is what the collection would."""
    rows: Iterable[TokenRow] = windows(tokenizer, texts, max_tokens)
    if not may_branch(model, WINDOW):
        rows = (TokenRow(row.ids) for row in rows)
    passes = batches(rows, TOKENS_AT_ONCE)
    while part := list(islice(passes, PART_BATCHES)):
        yield part


@torch.no_grad()
@within_memory(FEWER_LAYERS)
def sum_part(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layout: ModelLayout,
    layers: tuple[int, ...],
    rows: Iterable[TokenRow],
    on_progress: OnProgress = unheard,
) -> PartSums:
    """The sums of one part of a collection, given its rows one after another."""
    collecting, passes = _Collecting(model, tokenizer, layout, layers), list(batches(rows, TOKENS_AT_ONCE))
    with fast_linear(model):
        for number, part in enumerate(passes):
            on_progress(number, len(passes))
            collecting.add(part)
    on_progress(1, 1)
    return collecting.sums.part()


class _Collecting:
    """Sums of keys, and the model that they are of."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layout: ModelLayout,
        layers: tuple[int, ...],
    ) -> None:
        self.model, self.pad, self.last = model, pad_token(tokenizer), layers[-1]
        self.modules = {layer: layout.projection(model, layer) for layer in layers}
        self.sums = KeySums({layer: layout.key_size(model, layer) for layer in layers}, device_of(model))

    def add(self, rows: Sequence[TokenRow]) -> None:
        """The keys of one pass."""
        trees = [row.tree for row in rows]
        laid = lay_out(trees, self.pad, self.model)
        with capture_inputs(self.modules) as inputs, stop_before(self.modules[self.last]):
            run_body(self.model, **laid.inputs)
        real = _real_tokens(trees, laid)
        self.sums.add({layer: in_rows(keys, real) for layer, keys in inputs.items()}, real)


class _Keeping:
    """When sums are written on the way."""

    def __init__(self, unfinished: Unfinished | None) -> None:
        self.unfinished, self.written, self.pause = unfinished, time.monotonic(), 0.0

    def restored(self, sums: KeySums) -> bool:
        """Whether they go on from what was kept, which is let go: it is as large as they are."""
        found = self.unfinished.read() if self.unfinished is not None else None
        return found is not None and sums.restore(found)

    def keep(self, sums: KeySums) -> None:
        """Write them, if they can be and it is time to."""
        since = time.monotonic() - self.written
        if self.unfinished is None or not sums.is_complete or since < max(self.unfinished.seconds, self.pause):
            return
        begun = time.monotonic()
        self.unfinished.write(sums.state())
        self.written = time.monotonic()
        self.pause = self.unfinished.work_a_write * (self.written - begun)


def _real_tokens(trees: Sequence[Tree], laid: Rows) -> Tensor:
    """Where tokens stand and no padding, (trees, columns)."""
    lengths = torch.tensor([len(tree) for tree in trees])
    return (torch.arange(laid.input_ids.shape[1]) < lengths[:, None]).to(laid.input_ids.device)
