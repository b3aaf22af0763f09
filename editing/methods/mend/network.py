"""MEND's hypernetwork: from what a gradient is made of to an update of the weight, token by token.

Mitchell et al., "Fast Model Editing at Scale", ICLR 2022, https://arxiv.org/abs/2110.11309, section 3.2:

    z  = [u ‖ δ],  ẑ = (z − μ) / σ       input of the weight and gradient at its output; μ, σ over the training stream
    h  = ẑ + ReLU(s₁ ⊙ (U₁ V₁ ẑ + b₁) + o₁)
    g  = h + s₂ ⊙ (U₂ V₂ h + b₂) + o₂
    Δ  = −α Σ_t δ̃ ũᵀ,  [ũ ‖ δ̃] = z + σ ⊙ (g − ẑ)

The last block has no ReLU, as in the authors' experiments (the paper's equation has one there, too): what is only ever
added to can lose no direction, and which directions of u other texts share is what locality hangs on.

U, V and b are shared by all weights of one shape; s, o, α, μ and σ are each weight's own. U, b and o are zero at first,
so that the first update is a step along the plain gradient; as g − ẑ is brought back to the units of z, this holds
whatever μ and σ are (published: the normalised g itself is the output). α is learnt by its logarithm: it keeps its
sign, and a step changes it by a share of its size.

Shapes: d = key size, m = value size, z = d + m, r = rank, t = tokens.
"""

import math
from collections.abc import Mapping
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from editing.config import Config
from editing.errors import HypernetworkError
from editing.methods.gradients.features import TokenGradients, feature_moments
from editing.weights import Factors

RIDGE = 1e-3
CONSTANT = 1e-3
"""Coordinates that vary less than this share of what their neighbors do are not enlarged any further."""


class MendSpec(Config):
    """What a hypernetwork is made for."""

    base_digest: str
    shapes: dict[str, tuple[int, int]] = Field(description="(m, d) of each weight by its name.")
    rank: int = Field(ge=1, description="Largest r of the shared blocks.")
    ridge: float | None = Field(RIDGE, gt=0, description="Of several edits' updates as one; none: their plain sum.")

    def check(self, base_digest: str, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Raises HypernetworkError unless it was made for this base and exactly these weights."""
        if self.base_digest != base_digest:
            raise HypernetworkError(
                f"the hypernetwork belongs to base {self.base_digest[:12]}, the model is {base_digest[:12]}; train one "
                "on this model in this dtype, or load the model that it was trained on"
            )
        if self.shapes != dict(shapes):
            raise HypernetworkError(
                f"the hypernetwork belongs to the weights {_named(self.shapes)}; asked for are {_named(shapes)}: give "
                "the layers and projections that it was trained for, or train one for these"
            )


def _named(shapes: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


class Block(nn.Module):
    """s ⊙ (U V x + b) + o: one residual of low rank, with s and o of each weight."""

    def __init__(self, size: int, rank: int, weights: int, generator: torch.Generator) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.zeros(size, rank))
        self.V = nn.Parameter(torch.randn(rank, size, generator=generator) / size**0.5)
        self.bias = nn.Parameter(torch.zeros(size))
        self.scale = nn.Parameter(torch.ones(weights, size))
        self.offset = nn.Parameter(torch.zeros(weights, size))

    def forward(self, x_tz: Tensor, weight: int) -> Tensor:
        return self.scale[weight] * (x_tz @ self.V.T @ self.U.T + self.bias) + self.offset[weight]


class Transform(nn.Module):
    """g and what goes with it, for all weights of one shape."""

    moments: Tensor

    def __init__(
        self, shape: tuple[int, int], rank: int, weights: int, step_size: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.m, self.d = shape
        size = self.d + self.m
        self.blocks = nn.ModuleList(Block(size, min(rank, size), weights, generator) for _ in range(2))
        self.log_step = nn.Parameter(torch.full((weights,), step_size).log())
        self.register_buffer("moments", torch.zeros(weights, 3, size, dtype=torch.float64))

    def forward(self, z_tz: Tensor, weight: int) -> tuple[Tensor, Tensor]:
        """ũ (t, d) and −α δ̃ (t, m) of one weight."""
        mean, deviation = self.normal(weight)
        x_tz = (z_tz - mean) / deviation
        first, last = self.blocks
        residual_tz = first(x_tz, weight).clamp(min=0)  # unlike relu's, its gradient at zero is one: it can be left
        residual_tz = residual_tz + last(x_tz + residual_tz, weight)
        z_tz = z_tz + deviation * residual_tz
        return z_tz[:, : self.d], -self.log_step[weight].exp() * z_tz[:, self.d :]

    def normal(self, weight: int) -> tuple[Tensor, Tensor]:
        """μ and σ (z,) float32; 0 and 1 where nothing was seen yet."""
        count, total, squares = self.moments[weight]
        if count[0] < 2:
            return torch.zeros_like(total).float(), torch.ones_like(total).float()
        mean = total / count
        variance = ((squares - mean * total) / (count - 1)).clamp(min=0)
        parts = [part.clamp(min=CONSTANT**2 * float(part.mean())) for part in variance.split([self.d, self.m])]
        return mean.float(), torch.cat(parts).sqrt().float().clamp(min=torch.finfo(torch.float32).tiny)


class MendNetwork(nn.Module):
    """The hypernetwork of some weights of one base. It holds nothing of the model that it edits."""

    def __init__(self, spec: MendSpec, step_size: float = 1e-2, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        by_shape: dict[tuple[int, int], list[str]] = {}
        for name, shape in spec.shapes.items():
            by_shape.setdefault(shape, []).append(name)
        self._place = {name: (shape, i) for shape, names in by_shape.items() for i, name in enumerate(names)}
        generator = torch.Generator().manual_seed(seed)
        self.transforms = nn.ModuleDict(
            {
                _key(shape): Transform(shape, spec.rank, len(names), step_size, generator)
                for shape, names in by_shape.items()
            }
        )

    def updates(self, gradients: Mapping[str, TokenGradients]) -> list[dict[str, Factors]]:
        """The update of each row of tokens, one rank a token, where the gradients are; differentiable."""
        found: list[dict[str, Factors]] = []
        for name, one in gradients.items():
            transform, weight = self._transform(name)
            u_td, step_tm = transform(torch.cat([one.u_td, one.delta_tm], dim=1), weight)
            found = found or [{} for _ in one.lengths]
            rows = zip(found, u_td.split(one.lengths), step_tm.split(one.lengths), strict=True)
            for update, A_td, B_tm in rows:
                update[name] = Factors(B_tm.T, A_td)
        return found

    @torch.no_grad()
    def observe(self, gradients: Mapping[str, TokenGradients]) -> None:
        """Let μ and σ know of further tokens."""
        for name, one in gradients.items():
            transform, weight = self._transform(name)
            transform.moments[weight] += feature_moments(torch.cat([one.u_td, one.delta_tm], dim=1))

    def step_sizes(self) -> dict[str, float]:
        """α by weight."""
        return {
            name: float(t.log_step.detach()[i].exp()) for name in self.spec.shapes for t, i in [self._transform(name)]
        }

    @torch.no_grad()
    def set_step_size(self, step_size: float) -> None:
        """Give every weight the same α."""
        for name in self.spec.shapes:
            transform, weight = self._transform(name)
            transform.log_step[weight] = math.log(step_size)

    def _transform(self, name: str) -> tuple[Transform, int]:
        shape, weight = self._place[name]
        return cast(Transform, self.transforms[_key(shape)]), weight


def _key(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
