"""All facts written together from the base, their values given: `--data counterfact_dev.parquet --edits 1000`."""

import time
from unittest.mock import patch

import torch

from editing.contexts import context_prefixes
from editing.edit import Edit
from editing.layout import layout_of
from editing.methods import compute_rebase
from editing.methods.located import locate
from editing.methods.memit import MemitConfig
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.models import LoadedModel
from editing.weights import EditedWeights
from tests.benchmarks.statistics import preset_layers, statistics_of_text
from tests.benchmarks.timing import timed, timing

NOISE = 0.3
"""How far a synthetic z* is from the state there is, as a share of its norm."""


def bench_rebase(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """Seconds by part: keys and residuals, solves, and writing the weights; one round, for there is much of it."""
    config, layout, layers = MemitConfig(), layout_of(loaded.model), preset_layers(loaded.model)
    prefixes = context_prefixes(loaded.model, loaded.tokenizer, config.contexts, config.context_tokens, config.seed)
    statistics = statistics_of_text(loaded, layers)
    given = MethodInput(loaded.model, loaded.tokenizer, layout, layers, statistics, KeyHistory(), tuple(prefixes))
    hidden = loaded.model.config.get_text_config().hidden_size
    present_nm = -locate(given, edits, torch.zeros(len(edits), hidden), layers[-1], [{}] * len(edits)).missing_nm
    noise_nm = torch.randn(present_nm.shape, generator=torch.Generator().manual_seed(0))
    z_star_nm = present_nm + NOISE * present_nm.norm(dim=1, keepdim=True) * noise_nm / hidden**0.5
    reading: list[float] = []
    started = time.process_time()
    with patch("editing.methods.locate.locate", timing(locate, reading)):
        computing, made = timed(lambda: compute_rebase(given, edits, z_star_nm, config))
    weights = EditedWeights(loaded.model, layout)
    writing, undo = timed(lambda: weights.apply(made.update))
    processor = time.process_time() - started
    weights.revert(undo)
    keys = sum(reading)
    print(
        f"rebase of {len(edits)} facts, layers {list(layers)}, {len(prefixes)} contexts: {computing + writing:.1f} s: "
        f"keys {keys:.1f} s ({', '.join(f'{s:.1f}' for s in reading)}), solve {computing - keys:.2f} s, "
        f"apply {writing:.2f} s; {processor:.1f} s of processor time on {torch.get_num_threads()} threads"
    )
