"""Key statistics against a bare forward pass over the same text in the same batches."""

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from editing.body import run_body
from editing.collection import TOKENS_AT_ONCE, collect_statistics
from editing.config import PRESET_LAYERS
from editing.covariance import KeyStatistics
from editing.edit import Edit
from editing.key_sums import BLOCK
from editing.keys import stop_after
from editing.layout import layout_of
from editing.linear import fast_linear
from editing.models import LoadedModel
from editing.token_rows import batches, windows
from editing.tokens import Rows, pad_token
from editing.trees import lay_out
from tests.benchmarks.timing import timed

ROOT = Path(__file__).parents[2]
TEXTS = ("README.md", "LICENSE", "CHANGELOG.md", "constraints.txt")
TOKENS = 8192


def bench_statistics(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """Tokens a second: statistics of four layers, the pass up to the last of them, and the whole model's pass."""
    model, layout, layers, texts = loaded.model, layout_of(loaded.model), preset_layers(loaded.model), some_text()
    last = layout.layer_list(model)[layers[-1]]

    def bare(run: Callable[[Rows], object]) -> None:
        with torch.no_grad(), fast_linear(model):
            for rows in batches(windows(loaded.tokenizer, texts, TOKENS), TOKENS_AT_ONCE):
                run(lay_out([row.tree for row in rows], pad_token(loaded.tokenizer), model))

    def truncated(rows: Rows) -> None:
        with stop_after(last):
            whole(rows)

    def whole(rows: Rows) -> None:
        run_body(model, **rows.inputs)

    times = [
        [
            timed(lambda: statistics_of_text(loaded, layers))[0],
            timed(lambda: bare(truncated))[0],
            timed(lambda: bare(whole))[0],
        ]
        for _ in range(rounds)
    ]
    collected, short, full = (TOKENS / statistics.median(column) for column in zip(*times, strict=True))
    shares = [statistics.median(row[of] / row[0] for row in times) for of in (1, 2)]
    d = layout.key_size(model)
    forward = sum(p.numel() for p in last.parameters()) * (layers[-1] + 1) * 2 / 1e6
    products = len(layers) * sum(min(BLOCK, d - i) * (d - i) for i in range(0, d, BLOCK)) * 2 / 1e6
    print(
        f"key statistics of layers {list(layers)}: {collected:.0f} tokens/s; {shares[0]:.0%} of the bare pass through "
        f"the same layers ({short:.0f} tokens/s), {shares[1]:.0%} of the bare pass through the model's ({full:.0f})\n"
        f"    a token is {forward:.1f} MFLOP of layers and {products:.1f} of k kᵀ: "
        f"{forward / (forward + products):.0%} if both ran at one rate"
    )


def preset_layers(model: PreTrainedModel) -> tuple[int, ...]:
    """The layers that MEMIT edits."""
    config = model.config.get_text_config()
    return PRESET_LAYERS[config.model_type, config.num_hidden_layers, config.hidden_size]


def some_text() -> list[str]:
    """More than TOKENS tokens."""
    return [(ROOT / name).read_text() for name in TEXTS] * 4


def statistics_of_text(loaded: LoadedModel, layers: tuple[int, ...]) -> KeyStatistics:
    return collect_statistics(
        loaded.model,
        loaded.tokenizer,
        layout_of(loaded.model),
        layers,
        some_text(),
        base_digest=loaded.digest,
        source="the project's own texts",
        max_tokens=TOKENS,
    )
