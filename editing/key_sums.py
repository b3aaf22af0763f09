"""Sums over the keys of many tokens: Σ k kᵀ and Σ |k|⁴ of each layer, which can be kept and gone on with.

They are taken in parts with fixed borders, which are added in their order: so it makes no difference to any bit which
process summed a part. Shapes: d = key size, t = tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SUMMED_AT_ONCE = 2048
"""Tokens whose keys are multiplied together."""
BLOCK = 256
"""Width of the blocks in which the upper triangle is computed."""
STEP_BATCHES = 4
"""Batches of rows after which sums are complete, and can be kept: seconds of work on a small processor."""
PART_BATCHES = 8 * STEP_BATCHES
"""Batches of a part. Changed, sums of more than one come to other bits."""


@dataclass(frozen=True)
class PartSums:
    """The sums of one part."""

    batches: int
    tokens: int
    fourth_powers: Mapping[int, float]
    """Σ |k|⁴ by layer."""
    upper: Callable[[int], Tensor]
    """Σ k kᵀ of a layer, (d, d) float32, read when it is wanted; below the diagonal stands anything."""


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

    def begin_part(self) -> None:
        """What comes now is summed by itself; only of complete sums."""
        for total in self.layers.values():
            total.close()

    def part(self) -> PartSums:
        """All of it as one part, which it is where no other was begun; nothing can be added any more."""
        for total in self.layers.values():
            total.complete()
        powers = {layer: total.fourth_power.item() for layer, total in self.layers.items()}
        return PartSums(self.batches, self.tokens, powers, lambda layer: self.layers[layer].upper_dd.cpu())

    def take(self, part: PartSums) -> None:
        """Sums of a part that begins here, found by whomever. Whatever `upper` raises is raised, and nothing changed.

        Raises:
            ValueError: they are of other layers or sizes, or not finite.
        """
        try:
            for layer, total in self.layers.items():
                upper_dd, power = part.upper(layer), torch.tensor(part.fourth_powers[layer], dtype=torch.float64)
                if not (_alike(upper_dd, total.upper_dd) and bool(power.isfinite())):
                    raise ValueError(f"the sums of layer {layer} are none of {len(total.upper_dd)} finite numbers each")
                total.upper_dd.copy_(upper_dd)
                total.fourth_power.copy_(power)
        except BaseException:
            for total in self.layers.values():
                total.upper_dd.zero_()
                total.fourth_power.zero_()
            raise
        self.batches, self.tokens = self.batches + part.batches, self.tokens + part.tokens

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes; only of complete sums, and only until more is added: they may be gigabytes."""
        tensors = {f"{name}.{layer}": tensor.cpu() for layer, total in self.layers.items() for name, tensor in total}
        return tensors | {"done": torch.tensor([self.batches, self.tokens])}

    def restore(self, state: dict[str, Tensor]) -> bool:
        """Go on from what `state` gave; False, and nothing changes, where that is of other layers or not finite."""
        batches, tokens = state["done"].tolist() if "done" in state else (0, 0)
        expected = {f"{name}.{layer}": tensor for layer, total in self.layers.items() for name, tensor in total}
        parts = any(name.startswith("before ") for name in state)
        earlier = {f"before {name}": tensor for name, tensor in expected.items()} if parts else {}
        expected |= earlier
        fits = state.keys() == expected.keys() | {"done"} and all(
            _alike(state[name], tensor) for name, tensor in expected.items()
        )
        if not fits or batches % STEP_BATCHES:
            return False
        self.batches, self.tokens = batches, tokens
        for layer, total in self.layers.items():
            if earlier:
                total.close()
            for name, tensor in total:
                tensor.copy_(state[f"{name}.{layer}"])
        return True

    def means(self) -> dict[int, Tensor]:
        """C by layer, (d, d) float32 on the CPU; nothing can be added any more."""
        return {layer: total.matrix().div_(self.tokens).cpu() for layer, total in self.layers.items()}

    def fourth_powers(self) -> dict[int, float]:
        """Σ |k|⁴ by layer; only of complete sums."""
        return {layer: total.fourth_powers.item() for layer, total in self.layers.items()}


def _alike(tensor: Tensor, mine: Tensor) -> bool:
    return tensor.shape == mine.shape and tensor.dtype == mine.dtype and bool(tensor.isfinite().all())


class _Sum:
    """Σ k kᵀ of one layer, symmetric: only blocks on and above the diagonal are computed, half of the products.

    Products run over a block of many tokens, where they are fast. Those of the part at hand and those of parts before
    it stand apart; of a single part there is one matrix.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.waiting_td = torch.empty(SUMMED_AT_ONCE, size, device=device)
        self.count = 0
        self.upper_dd = torch.zeros(size, size, device=device)
        self.fourth_power = torch.zeros((), dtype=torch.float64, device=device)
        self.before: tuple[Tensor, Tensor] | None = None
        """The same two of the parts before."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """What it consists of, by name."""
        yield from {"upper": self.upper_dd, "fourth": self.fourth_power}.items()
        if self.before is not None:
            yield from zip(("before upper", "before fourth"), self.before, strict=True)

    def close(self) -> None:
        """The part at hand has ended: another begins."""
        self.complete()
        if self.before is None:
            self.before = self.upper_dd, self.fourth_power
            self.upper_dd, self.fourth_power = torch.zeros_like(self.upper_dd), torch.zeros_like(self.fourth_power)
            return
        for before, mine in zip(self.before, (self.upper_dd, self.fourth_power), strict=True):
            before += mine
            mine.zero_()

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
        upper_dd = self.upper_dd if self.before is None else self.before[0].add_(self.upper_dd)
        return upper_dd.triu_().add_(upper_dd.triu(1).T)

    @property
    def fourth_powers(self) -> Tensor:
        """Σ |k|⁴, of all parts."""
        return self.fourth_power if self.before is None else self.before[1] + self.fourth_power
