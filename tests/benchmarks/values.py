"""The value search against the published loop: at equal steps in float32, and as each is used.

The published loop (tests/reference.py) takes one edit at a time, all its contexts and the KL prompt as one padded batch
through the whole model, forward and backward, at every step.
"""

import math
import statistics
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from editing.config import ValueSearchConfig
from editing.contexts import context_prefixes
from editing.edit import Edit
from editing.layout import layout_of
from editing.linear import fast_linear
from editing.methods.memit import MemitConfig
from editing.models import LoadedModel
from editing.search.values import SearchedValue, search_values
from tests.benchmarks.timing import ratio, timed
from tests.reference import plain_search

LAYER = 5
STEPS = 20
PUBLISHED = ValueSearchConfig(steps=25, optimiser="adam", products="weights")
"""With the early stop at a loss of 0.05."""
PUBLISHED_CONTEXTS = 6, 10
"""Contexts, the bare prompt included, and sampled tokens of each."""


def bench_equal_steps(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """The same edits, contexts, steps and arithmetic: float32, no early stop, Adam."""
    config = PUBLISHED.model_copy(update={"steps": STEPS, "stop_loss": 0.0, "edits_at_once": 20})
    prefixes = context_prefixes(loaded.model, loaded.tokenizer, *PUBLISHED_CONTEXTS, seed=0)
    fast, slow = [], []
    for _ in range(rounds):
        seconds, found = timed(lambda: _search(loaded, edits, config, prefixes))
        fast.append(seconds)
        seconds, plain = timed(
            lambda: [plain_search(loaded.model, loaded.tokenizer, edit, LAYER, config, prefixes) for edit in edits]
        )
        slow.append(seconds)
    difference = max(float((value.z_star - z).norm() / z.norm()) for value, z in zip(found, plain, strict=True))
    each = [statistics.median(times) / len(edits) / STEPS for times in (fast, slow)]
    print(f"value search, equal steps: {each[0]:.3f} s an edit and step, published {each[1]:.3f} s;", ratio(slow, fast))
    print(f"    largest relative difference of z*: {difference:.1e}")
    with FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: _linear_flops}) as ours:
        _search(loaded, edits, config, prefixes)
    with FlopCounterMode(display=False) as theirs:
        plain_search(loaded.model, loaded.tokenizer, edits[0], LAYER, config, prefixes)
    count, published = ours.get_total_flops() / len(edits) / STEPS / 1e9, theirs.get_total_flops() / STEPS / 1e9
    rate = product_rate(loaded, torch.float32)
    print(
        f"    operations an edit and step: {count:.1f} GFLOP, published {published:.1f} (first edit). The "
        f"{rate:.0f} GFLOP/s of float32 products here allow {count / rate:.3f} s: {100 * count / rate / each[0]:.0f} %"
    )


def bench_as_used(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """Our defaults against the published ones: each with its own contexts, steps and early stop."""
    config = MemitConfig()
    ours = context_prefixes(loaded.model, loaded.tokenizer, config.contexts, config.context_tokens, seed=0)
    theirs = context_prefixes(loaded.model, loaded.tokenizer, *PUBLISHED_CONTEXTS, seed=0)
    fast, slow = [], []
    for _ in range(rounds):
        seconds, found = timed(lambda: _search(loaded, edits, config.search, ours))
        fast.append(seconds)
        seconds, _ = timed(
            lambda: [plain_search(loaded.model, loaded.tokenizer, edit, LAYER, PUBLISHED, theirs) for edit in edits]
        )
        slow.append(seconds)
    steps = statistics.mean(value.steps for value in found)
    each = [statistics.median(times) / len(edits) for times in (fast, slow)]
    print(f"value search, as used: {each[0]:.2f} s an edit ({steps:.1f} steps), published {each[1]:.2f} s;", end=" ")
    print(ratio(slow, fast))
    published = _search(loaded, edits, PUBLISHED, theirs)
    for name, values in (("ours", found), ("published", published)):
        losses = [value.loss for value in values]
        print(f"    loss at the end, {name}: median {statistics.median(losses):.3f}, largest {max(losses):.3f}")


def _linear_flops(x: Sequence[int], W: Sequence[int], *rest: object, out_val: object = None, **more: object) -> int:
    return 2 * math.prod(x) * W[0]


def product_rate(loaded: LoadedModel, dtype: torch.dtype, tokens: int = 256) -> float:
    """GFLOP/s of a product as wide as the model's MLP, by the library that the search uses."""
    W = torch.randn(4 * 576, 576, dtype=dtype)
    x = torch.randn(tokens, 576, dtype=dtype)
    with torch.inference_mode(), fast_linear(loaded.model):
        seconds = statistics.median(timed(lambda: torch.nn.functional.linear(x, W))[0] for _ in range(50))
    return 2 * x.numel() * W.shape[0] / seconds / 1e9


def _search(
    loaded: LoadedModel, edits: Sequence[Edit], config: ValueSearchConfig, prefixes: Sequence[str]
) -> list[SearchedValue]:
    return search_values(loaded.model, loaded.tokenizer, layout_of(loaded.model), edits, LAYER, config, prefixes)
