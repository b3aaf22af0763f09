"""Sums over the keys of many tokens: Σ k kᵀ and Σ |k|⁴ of each layer, which can be kept and gone on with.

Shapes: d = key size, t = tokens.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

SUMMED_AT_ONCE = 2048
"""Tokens whose keys are multiplied together."""
BLOCK = 256
"""Width of the blocks in which the upper triangle is computed."""
STEP_BATCHES = 4
"""Batches of rows after which sums are complete, and can be kept: seconds of work on a small processor."""


class KeySums:
    """Of each layer Σ k kᵀ and Σ |k|⁴, over the batches so far.

    After every STEP_BATCHES batches they are complete: no key waits for others to be multiplied with. This happens
    whether or not they are kept there, so that what is kept makes no difference.
    """

    def __init__(self, sizes: dict[int, int], device: torch.device) -> None:
        self.layers = {layer: _Sum(size, device) for layer, size in sizes.items()}
        self.batches = self.tokens = 0

    @property
    def is_complete(self) -> bool:
        return self.batches % STEP_BATCHES == 0

    def add(self, inputs: Mapping[int, Tensor], real: Tensor) -> None:
        """Keys of one batch, (rows, columns, d) by layer, of which those are of tokens where `real` says so."""
        self.batches += 1
        self.tokens += int(real.sum())
        for layer, total in self.layers.items():
            total.add(inputs[layer][real])
            if self.is_complete:
                total.complete()

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes; only of complete sums, and only until more is added: they may be gigabytes."""
        tensors = {f"upper.{layer}": total.upper_dd.cpu() for layer, total in self.layers.items()}
        powers = {f"fourth.{layer}": total.fourth_power.cpu() for layer, total in self.layers.items()}
        return tensors | powers | {"done": torch.tensor([self.batches, self.tokens])}

    def restore(self, state: dict[str, Tensor]) -> bool:
        """Go on from what `state` gave; False, and nothing changes, where that is of other layers or not finite."""
        mine = self.state()
        fits = state.keys() == mine.keys() and all(
            tensor.shape == mine[name].shape and tensor.dtype == mine[name].dtype and bool(tensor.isfinite().all())
            for name, tensor in state.items()
        )
        if not fits or int(state["done"][0]) % STEP_BATCHES:
            return False
        self.batches, self.tokens = state["done"].tolist()
        for layer, total in self.layers.items():
            total.upper_dd.copy_(state[f"upper.{layer}"])
            total.fourth_power.copy_(state[f"fourth.{layer}"])
        return True

    def means(self) -> dict[int, Tensor]:
        """C by layer, (d, d) float32 on the CPU; nothing can be added any more."""
        return {layer: total.matrix().div_(self.tokens).cpu() for layer, total in self.layers.items()}

    def fourth_powers(self) -> dict[int, float]:
        """Σ |k|⁴ by layer; only of complete sums."""
        return {layer: total.fourth_power.item() for layer, total in self.layers.items()}


class _Sum:
    """Σ k kᵀ of one layer, symmetric: only blocks on and above the diagonal are computed, half of the products.

    Products run in float32 over a block of many tokens, where they are fast; blocks are summed in float64.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.waiting_td = torch.empty(SUMMED_AT_ONCE, size, device=device)
        self.count = 0
        self.upper_dd = torch.zeros(size, size, device=device)
        self.fourth_power = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, keys_td: Tensor) -> None:
        """Keys of further tokens, in any precision."""
        while len(keys_td):
            fitting = keys_td[: SUMMED_AT_ONCE - self.count]
            self.waiting_td[self.count : self.count + len(fitting)] = fitting
            self.count += len(fitting)
            keys_td = keys_td[len(fitting) :]
            if self.count == SUMMED_AT_ONCE:
                self.complete()

    def complete(self) -> None:
        """Multiply the keys that wait."""
        keys_td, self.count = self.waiting_td[: self.count], 0
        if not len(keys_td):
            return
        self.fourth_power += keys_td.double().square_().sum(1).square().sum()
        keys_dt = keys_td.T.contiguous()
        for start in range(0, len(keys_dt), BLOCK):
            product = nn.functional.linear(keys_dt[start : start + BLOCK], keys_dt[start:])  # x Wᵀ, which may run fast
            self.upper_dd[start : start + BLOCK, start:] += product

    def matrix(self) -> Tensor:
        """Σ k kᵀ, (d, d) float32; nothing can be added any more."""
        self.complete()
        upper_dd = self.upper_dd.triu_()
        return upper_dd.add_(upper_dd.triu(1).T)
