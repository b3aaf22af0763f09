"""Key statistics: C = E[k kᵀ], the uncentred second moment of the keys of each edited layer.

Meng et al., MEMIT, eq. 15 (C₀ there is λ times this). Shapes: d = key size.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.body import run_body
from editing.digests import sha256
from editing.errors import StatisticsError
from editing.keys import capture_inputs, stop_before
from editing.layout import ModelLayout
from editing.onednn import fast_linear
from editing.tokens import align_rows, pad_token

WINDOW = 128
"""Tokens of one row of text."""
ROWS_AT_ONCE = 8
SUMMED_AT_ONCE = 2048
"""Tokens whose keys are multiplied together."""
BLOCK = 256
"""Width of the blocks in which the upper triangle is computed."""
SUMMATION = 2
"""Raised when the numbers that the same text gives change: cached statistics are of one summation."""


@dataclass(frozen=True)
class KeyStatistics:
    """Second moments of keys, with what they belong to."""

    moments: dict[int, Tensor]
    """C by layer, (d, d) float64 on the CPU."""
    tokens: int
    base_digest: str
    source: str
    """What the text was: a digest of it, or how it was sampled."""
    spectra: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `spectrum` has computed so far."""

    def moment(self, layer: int, size: int) -> Tensor:
        """C of a layer, (d, d). Raises StatisticsError when there is none, or keys here have another size."""
        C_dd = self.moments.get(layer)
        if C_dd is None or len(C_dd) != size:
            found = f"only of layers {sorted(self.moments)}" if C_dd is None else f"for keys of size {len(C_dd)}"
            raise StatisticsError(
                f"there are no key statistics of layer {layer} for keys of size {size}, {found}; collect them on this "
                "model and these layers"
            )
        return C_dd

    def spectrum(self, layer: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Eigenvalues of C, rising (d,), and its eigenvectors as columns (d, d): computed once a layer."""
        if layer not in self.spectra:
            self.spectra[layer] = torch.linalg.eigh(self.moments[layer].to(device, torch.float64))
        eigenvalues_d, U_dd = self.spectra[layer]
        return eigenvalues_d, U_dd

    def merge(self, other: "KeyStatistics") -> "KeyStatistics":
        """Statistics of both texts together, as if they had been collected in one go.

        Raises:
            StatisticsError: they belong to different models or layers.
        """
        if self.base_digest != other.base_digest or self.moments.keys() != other.moments.keys():
            raise StatisticsError(
                f"statistics of base {self.base_digest[:12]} layers {sorted(self.moments)} cannot be merged with "
                f"base {other.base_digest[:12]} layers {sorted(other.moments)}; collect both on the same model"
            )
        total = self.tokens + other.tokens
        moments = {
            layer: (C * self.tokens + other.moments[layer] * other.tokens) / total for layer, C in self.moments.items()
        }
        return KeyStatistics(moments, total, self.base_digest, f"{self.source}+{other.source}")

    def check(self, base_digest: str, layers: Sequence[int]) -> None:
        """Raises StatisticsError unless these are finite statistics of this base and cover `layers`."""
        if self.base_digest != base_digest:
            raise StatisticsError(
                f"key statistics belong to base {self.base_digest[:12]}, the model is {base_digest[:12]}; "
                "collect them again for this model"
            )
        missing = sorted(set(layers) - self.moments.keys())
        if missing:
            raise StatisticsError(
                f"key statistics lack layers {missing}; they have {sorted(self.moments)}. Collect those layers too"
            )
        for layer in layers:
            if not self.moments[layer].isfinite().all():
                raise StatisticsError(f"key statistics of layer {layer} are not finite; choose another layer")

    def to_bytes(self) -> bytes:
        """What a file of them holds: safetensors."""
        about = {"tokens": str(self.tokens), "base_digest": self.base_digest, "source": self.source}
        tensors = {f"C.{layer}": C.contiguous() for layer, C in self.moments.items()}
        return bytes(save(tensors, about))

    @staticmethod
    def load(path: Path) -> "KeyStatistics":
        """Raises StatisticsError when the file is missing or broken."""
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                moments = {int(name.removeprefix("C.")): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return KeyStatistics(moments, int(about["tokens"]), about["base_digest"], about["source"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise StatisticsError(f"cannot read key statistics {path}: {error}; delete the file") from error


def text_digest(texts: Iterable[str]) -> str:
    """sha256 over texts, with their borders."""
    return sha256(json.dumps(text).encode() for text in texts)


@torch.no_grad()
def collect_statistics(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layout: ModelLayout,
    layers: tuple[int, ...],
    texts: Iterable[str],
    *,
    base_digest: str,
    source: str,
    max_tokens: int,
    on_progress: Callable[[int], None] = lambda tokens: None,
) -> KeyStatistics:
    """Stream `texts` through the layers up to the last edited one and average k kᵀ over at most `max_tokens` tokens.

    Texts are cut into windows; `on_progress` hears the tokens done.

    Raises:
        StatisticsError: there is no text, or the keys are not finite.
    """
    modules = {layer: layout.projection(model, layer) for layer in layers}
    sums = {layer: _Sum(layout.key_size(model, layer), model.device) for layer in layers}
    done = 0
    with fast_linear(model):
        for rows in _batches(_windows(tokenizer, texts, max_tokens), ROWS_AT_ONCE):
            aligned = align_rows(rows, [0] * len(rows), pad_token(tokenizer)).to(model.device)
            with capture_inputs(modules) as inputs, stop_before(modules[layers[-1]]):
                run_body(model, **aligned.inputs)
            real = aligned.attention_mask.bool()
            for layer in layers:
                sums[layer].add(inputs[layer][real])
            done += int(real.sum())
            on_progress(done)
        if done == 0:
            raise StatisticsError(f"no text to collect key statistics from ({source}); give a text with words in it")
        moments = {layer: total.matrix().div_(done).cpu() for layer, total in sums.items()}
    statistics = KeyStatistics(moments, done, base_digest, source)
    statistics.check(base_digest, layers)
    return statistics


class _Sum:
    """Σ k kᵀ of one layer, symmetric: only blocks on and above the diagonal are computed, half of the products.

    Products run in float32 over a block of many tokens, where they are fast; blocks are summed in float64.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.waiting_td = torch.empty(SUMMED_AT_ONCE, size, device=device)
        self.count = 0
        self.upper_dd = torch.zeros(size, size, dtype=torch.float64, device=device)

    def add(self, keys_td: Tensor) -> None:
        """Keys of further tokens, in any precision."""
        while len(keys_td):
            fitting = keys_td[: SUMMED_AT_ONCE - self.count]
            self.waiting_td[self.count : self.count + len(fitting)] = fitting
            self.count += len(fitting)
            keys_td = keys_td[len(fitting) :]
            if self.count == SUMMED_AT_ONCE:
                self._sum_up()

    def matrix(self) -> Tensor:
        """Σ k kᵀ, (d, d) float64; nothing can be added any more."""
        if self.count:
            self._sum_up()
        upper_dd = self.upper_dd.triu_()
        return upper_dd.add_(upper_dd.triu(1).T)

    def _sum_up(self) -> None:
        keys_dt, self.count = self.waiting_td[: self.count].T.contiguous(), 0
        for start in range(0, len(keys_dt), BLOCK):
            product = nn.functional.linear(keys_dt[start : start + BLOCK], keys_dt[start:])  # x Wᵀ, which may run fast
            self.upper_dd[start : start + BLOCK, start:] += product


def _windows(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], max_tokens: int) -> Iterable[list[int]]:
    left = max_tokens
    for text in texts:
        ids = tokenizer(text, verbose=False)["input_ids"]
        for start in range(0, len(ids), WINDOW):
            if left <= 0:
                return
            window = ids[start : start + min(WINDOW, left)]
            left -= len(window)
            yield window


def _batches(rows: Iterable[list[int]], size: int) -> Iterable[list[list[int]]]:
    batch: list[list[int]] = []
    for row in rows:
        if row:
            batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
