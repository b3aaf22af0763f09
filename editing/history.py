"""The keys of live facts, which later batches must not disturb.

Shapes: d = key size, n = facts.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class KeyHistory:
    """Keys by layer, and their running Σ k kᵀ: memory d² a layer and n · d for the keys, linear in the facts."""

    grams: dict[int, Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, keys: dict[int, Tensor]) -> None:
        """Remember the keys of a batch that was kept, {layer: (n, d)}."""
        for layer, K_nd in keys.items():
            K = K_nd.double()
            gram = self.grams.get(layer)
            self.grams[layer] = K.T @ K if gram is None else gram.addmm_(K.T, K)
        self.count += len(next(iter(keys.values()))) if keys else 0

    def gram(self, layer: int, size: int) -> Tensor:
        """H = Σ k kᵀ of a layer, (d, d) float64; zero when there are no facts yet."""
        return self.grams.get(layer, torch.zeros(size, size, dtype=torch.float64))
