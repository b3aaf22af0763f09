"""What later batches must know of the live facts: their keys, and the moments of their features.

Shapes: d = key size, m = value size, n = facts, u = facts not yet in the Gram matrix.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editing.methods.shared.blocks import add_gram
from editing.methods.shared.growing import GrowingFactor

RECENT_SHARE = 8
"""Recent keys are added to the Gram matrix when there are d / RECENT_SHARE of them: a factorisation of d³ / 3 then
serves as many facts, and what the recent keys cost a batch stays below what d costs."""


@dataclass(frozen=True)
class _Known:
    """A factor and what it was made from."""

    factor: GrowingFactor
    source: object
    about: tuple[object, ...]


@dataclass
class KeyHistory:
    """Σ k kᵀ by layer, the recent keys apart, one factor of a matrix made of it, and sums of features by weight.

    The memory is the same at any n. What a batch did that was not kept is never added, so undoing needs nothing here.
    """

    grams: dict[int, Tensor] = field(default_factory=dict)
    recent: dict[int, Tensor] = field(default_factory=dict)
    """Keys that are not in `grams` yet, (u, d) float32 on the CPU."""
    moments: dict[str, Tensor] = field(default_factory=dict)
    """Σ 1, Σ z and Σ z² of a weight's features z, (3, d + m) float64."""
    count: int = 0
    _known: dict[int, _Known] = field(default_factory=dict, repr=False)

    def add(
        self,
        keys: dict[int, Tensor],
        moments: Mapping[str, Tensor] | None = None,
        gone: Mapping[int, Tensor] | None = None,
    ) -> None:
        """Remember the keys of a batch that was kept, {layer: (n, d)}, and the moments of its features.

        The keys that are `gone` are forgotten.
        """
        for layer, K_nd in (gone or {}).items():
            self._forget(layer, K_nd)
        for layer, K_nd in keys.items():
            K = torch.cat([self.recent.get(layer, K_nd[:0]), K_nd])
            if len(K) * RECENT_SHARE >= K.shape[1]:
                self.grams[layer], K = _plus(self.grams.get(layer), K), K[:0]
                self._known.pop(layer, None)
            self.recent[layer] = K
        for name, sums in (moments or {}).items():
            self.moments[name] = self.moments[name] + sums if name in self.moments else sums
        self.count += len(next(iter(keys.values()))) if keys else 0

    @contextmanager
    def without(self, layer: int, gone: Tensor | None) -> Iterator[None]:
        """A layer's history as it is once it has forgotten these keys."""
        if gone is None:
            yield
            return
        before = dict(self.grams), dict(self.recent), dict(self._known)
        if layer in self.grams:
            self.grams[layer] = self.grams[layer].clone()
        self._forget(layer, gone)
        try:
            yield
        finally:
            self.grams, self.recent, self._known = before

    def _forget(self, layer: int, gone: Tensor) -> None:
        """Take keys out of the Gram matrix, in its memory; the recent ones are added to it first."""
        H_dd = _plus(self.grams.get(layer), self.recent.get(layer, gone[:0]))
        self.grams[layer], self.recent[layer] = add_gram(H_dd, gone, -1), gone[:0]
        self._known.pop(layer, None)

    def clear(self) -> None:
        """Forget all facts: they are not in the weights any more."""
        self.grams, self.recent, self.moments, self.count, self._known = {}, {}, {}, 0, {}

    def gram(self, layer: int, size: int) -> Tensor:
        """H = Σ k kᵀ of a layer, (d, d) float64; zero when there are no facts yet. It is not to be written to."""
        H_dd, recent = self.grams.get(layer), self.recent.get(layer)
        if recent is not None and len(recent):
            return _plus(None if H_dd is None else H_dd.clone(), recent)
        return torch.zeros(size, size, dtype=torch.float64) if H_dd is None else H_dd

    def factored(
        self,
        layer: int,
        source: object,
        about: tuple[object, ...],
        matrix: Callable[[Tensor | None], Tensor],
        project: Callable[[Tensor], Tensor] = lambda K_dn: K_dn,
    ) -> GrowingFactor:
        """The factor of M(H) of a layer, where M(H + k kᵀ) = M(H) + p pᵀ and p = `project`(k), brought up to date.

        `matrix` is M, given None for H = 0. It is called again only when many keys came since, or when `source` (by
        identity) or `about` (by value), which say what M is made of, are others than the last time.

        Raises:
            SolveError: M(H) is singular or not finite.
        """
        known = self._known.get(layer)
        if known is None or known.source is not source or known.about != about:
            self._known.pop(layer, None)  # first, so that two factors never stand in memory
            known = _Known(GrowingFactor.of(matrix(self.grams.get(layer))), source, about)
            self._known[layer] = known
        recent = self.recent.get(layer)
        if recent is not None and len(recent) > known.factor.count:
            known.factor.add(project(recent[known.factor.count :].T))
        return known.factor


def _plus(H_dd: Tensor | None, K_nd: Tensor) -> Tensor:
    """H + Σ k kᵀ, in the memory of H."""
    H = K_nd.new_zeros((K_nd.shape[1],) * 2, dtype=torch.float64) if H_dd is None else H_dd
    return add_gram(H, K_nd)
