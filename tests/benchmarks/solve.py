"""What solving costs: against everything else that a batch takes, and as facts accumulate."""

import gc
import statistics
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from editing.contexts import context_prefixes
from editing.covariance import KeyStatistics
from editing.edit import Edit
from editing.layout import layout_of
from editing.methods import compute_update
from editing.methods.located import locate
from editing.methods.memit import MemitConfig
from editing.methods.shared.growing import GrowingFactor
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.methods.shared.solve import memit_gain
from editing.models import LoadedModel
from editing.search.values import search_values
from editing.weights import EditedWeights
from tests.benchmarks.statistics import preset_layers, statistics_of_text
from tests.benchmarks.timing import timed, timing

BATCH = 10
WEIGHT = 2000.0
SIZE, FACTS, STEP = 1536, 10_000, 1_000
LARGE = 8192


def bench_batch(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """One batch of the given edits, a batch before it kept: seconds of search, keys, solve and writing."""
    config, layout, layers = MemitConfig(), layout_of(loaded.model), preset_layers(loaded.model)
    prefixes = context_prefixes(loaded.model, loaded.tokenizer, config.contexts, config.context_tokens, config.seed)
    made = KeyHistory()
    given = MethodInput(
        loaded.model, loaded.tokenizer, layout, layers, statistics_of_text(loaded, layers), made, tuple(prefixes)
    )
    d = layout.key_size(loaded.model)
    made.add({layer: 0.1 * keys(BATCH, d, layer) for layer in layers})
    weights = EditedWeights(loaded.model, layout)
    rows = []
    for _ in range(rounds):
        searching, found = timed(
            lambda: search_values(
                loaded.model, loaded.tokenizer, layout, edits, layers[-1], config.search, given.prefixes
            )
        )
        z_star_nm, reading = torch.stack([value.z_star for value in found]), []
        with patch("editing.methods.locate.locate", timing(locate, reading)):
            computing, batch = timed(lambda z=z_star_nm: compute_update(given, edits, z, config))
        writing, undo = timed(lambda batch=batch: weights.apply(batch.update))
        weights.revert(undo)
        rows.append([searching, sum(reading), computing - sum(reading), writing])
    search, read, solve, write = (statistics.median(column) for column in zip(*rows, strict=True))
    whole = search + read + solve + write
    print(
        f"a batch of {len(edits)}, {len(layers)} layers: search {search:.2f} s, keys {read:.2f} s, "
        f"solve {solve:.3f} s, apply {write:.3f} s; "
        f"the solve is {solve / whole:.1%}, with keys and apply {1 - search / whole:.1%}"
    )


def bench_accumulation(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """10,000 synthetic facts in batches of ten at one layer: the time and memory of a batch stay as they are."""
    C_dd, history = moment(SIZE), KeyHistory()
    source = KeyStatistics({}, 0, "", "")
    print(f"{FACTS} facts in batches of {BATCH}, one layer, d = {SIZE}; {describe(SIZE)}")
    seconds = []
    for start in range(0, FACTS, BATCH):
        K_nd = keys(BATCH, SIZE, start)
        seconds.append(timed(lambda K_nd=K_nd: step(history, source, C_dd, K_nd))[0])
        if (start + BATCH) % STEP == 0:
            mean, middle = statistics.mean(seconds), statistics.median(seconds)
            print(
                f"    {start + BATCH:6d} facts: {mean * 1e3:5.1f} ms a batch (median {middle * 1e3:.1f}, longest "
                f"{max(seconds) * 1e3:.0f}), {resident():.0f} MB"
            )
            seconds = []
    direct = [
        timed(lambda: memit_gain(C_dd, history.gram(0, SIZE), keys(BATCH, SIZE, 1).T, WEIGHT))[0] for _ in range(5)
    ]
    print(f"    factored anew for each batch: {statistics.median(direct) * 1e3:.1f} ms")


def bench_large(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """The same at d = 8192, a few batches after a thousand facts."""
    gc.collect()
    C_dd, history = moment(LARGE), KeyHistory()
    source = KeyStatistics({}, 0, "", "")
    start = resident()
    print(f"one layer, d = {LARGE}, {LARGE**2 * 8 / 2**20:.0f} MB a matrix; {describe(LARGE)}")
    history.add({0: keys(LARGE // 8, LARGE, 7)})
    first, _ = timed(lambda: step(history, source, C_dd, keys(BATCH, LARGE, 0)))
    later = [timed(lambda i=i: step(history, source, C_dd, keys(BATCH, LARGE, i)))[0] for i in range(1, 6)]
    held = resident() - start
    direct, _ = timed(lambda: memit_gain(C_dd, history.gram(0, LARGE), keys(BATCH, LARGE, 9).T, WEIGHT))
    print(
        f"    {history.count} facts: {statistics.median(later):.2f} s a batch, {first:.1f} s when the factor is made; "
        f"factored anew for each batch: {direct:.1f} s; {held:.0f} MB beside C, peak of the process {peak():.0f} MB"
    )


def step(history: KeyHistory, source: object, C_dd: Tensor, K_nd: Tensor) -> None:
    """One batch as MEMIT solves it, and kept."""

    def matrix(H_dd: Tensor | None) -> Tensor:
        M_dd = WEIGHT * C_dd
        return M_dd if H_dd is None else M_dd.add_(H_dd)

    factor: GrowingFactor = history.factored(0, source, (WEIGHT,), matrix)
    factor.gain(K_nd.T)
    history.add({0: K_nd})


def moment(d: int) -> Tensor:
    """A C (d, d) float64 of full rank with some large directions."""
    Y = torch.randn(d, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    C_dd = Y @ Y.T
    C_dd.diagonal().add_(1.0)
    return C_dd


def keys(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def describe(d: int) -> str:
    """Operations of both ways."""
    return (
        f"factoring is {d**3 / 3e9:.1f} GFLOP in float64, a batch from a kept factor at most "
        f"{(2 * d * d * BATCH * 2 + 2 * d * (d // 8) ** 2) / 1e9:.2f}"
    )


def resident() -> float:
    """MB of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def peak() -> float:
    """The most that it ever was, MB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
