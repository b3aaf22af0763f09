"""What later batches must know of the live facts: their keys, and the moments of their features.

Shapes: d = key size, m = value size, n = facts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class KeyHistory:
    """Running Σ k kᵀ by layer, d² each, and running sums of features by weight: the memory is the same at any n."""

    grams: dict[int, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    """Σ 1, Σ z and Σ z² of a weight's features z, (3, d + m) float64."""
    count: int = 0

    def add(self, keys: dict[int, Tensor], moments: Mapping[str, Tensor] | None = None) -> None:
        """Remember the keys of a batch that was kept, {layer: (n, d)}, and the moments of its features."""
        for layer, K_nd in keys.items():
            K = K_nd.double()
            gram = self.grams.get(layer)
            self.grams[layer] = K.T @ K if gram is None else gram.addmm_(K.T, K)
        for name, sums in (moments or {}).items():
            self.moments[name] = self.moments[name] + sums if name in self.moments else sums
        self.count += len(next(iter(keys.values()))) if keys else 0

    def gram(self, layer: int, size: int) -> Tensor:
        """H = Σ k kᵀ of a layer, (d, d) float64; zero when there are no facts yet."""
        return self.grams.get(layer, torch.zeros(size, size, dtype=torch.float64))
