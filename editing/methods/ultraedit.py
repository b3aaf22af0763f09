"""UltraEdit: one step in closed form from the inputs and gradients of a few weights, normalised over all edits so far.

Gu et al., "UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language Models", 2025,
https://arxiv.org/abs/2505.14679, section 3:

    z  = [h ‖ g]                     input and output gradient of a weight, where a token of the target is predicted
    ẑ  = (z − μ) / σ                 mean and deviation over the features of all edits so far, these included
    v  = −η |ĥ|² ĝ                   the wanted change of the output
    Δ  = argmin |Δ Hᵀ − V|² + λ |Δ|²  =  V (H Hᵀ + λI)⁻¹ H

μ and σ follow from Σ 1, Σ z and Σ z², which add up over batches of any size: μ and σ after batches of 4, 4 and 2 are
those of all 10 at once. A single feature has no deviation: it is divided by its absolute value, which leaves its signs.
Every edit's loss is its own mean over its target, so that a feature does not depend on the size of its batch. Each
weight has statistics of its own. Neither key statistics nor a value search take part.

Shapes: d = key size, m = value size, t = tokens of the targets.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from editing.config import MethodConfig
from editing.edit import Edit
from editing.methods.gradients.features import at_places, feature_moments, gradient_parts
from editing.methods.gradients.targets import encode_targets
from editing.methods.restrain import spared_directions
from editing.methods.shared.interface import BatchUpdate, Method, MethodInput
from editing.methods.shared.solve import factors
from editing.progress import counted
from editing.weights import Factors, WeightUpdate

EDITS_AT_ONCE = 16
CONSTANT = 1e-7
"""A coordinate that varies by less than this share of its size is constant: what is left of it is rounding."""


class UltraEditConfig(MethodConfig):
    late_layers: ClassVar[bool] = True
    makes_up: ClassVar[bool] = True

    method: Literal["ultraedit"] = "ultraedit"
    projections: tuple[str, ...] = Field(
        (), description="Edited modules of a layer, e.g. mlp.up_proj; none: the MLP's down projection."
    )
    scale: float = Field(1e-3, gt=0, description="η: length of the step; the paper's for models of 7B is 1e-6.")
    ridge: float = Field(1.0, gt=0, description="λ: weight of |Δ|² in the least squares.")


Features = list[dict[str, tuple[Tensor, Tensor]]]
"""For each edit, by weight: H (t, d) and G (t, m), float64."""


def compute_update(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: UltraEditConfig
) -> BatchUpdate:
    """The update of `edits` together, and the moments of their features; `z_star_nm` is not looked at.

    Raises:
        SearchError: the loss is NaN or infinite.
        InvalidEdit: a subject is lost in tokenisation.
        ModelError: a layer has no such projection.
    """
    return _update(given, _features(given, edits, config), config)


def compute_independent_updates(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: UltraEditConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone, as the only one after those that are kept."""
    return [_update(given, [one], config).update for one in _features(given, edits, config)]


def _features(given: MethodInput, edits: Sequence[Edit], config: UltraEditConfig) -> Features:
    """h and g of each edit, all weights in one forward and backward pass of the model as it stands."""
    modules = given.layout.projections(given.model, given.layers, config.projections)
    found: Features = []
    done = counted(given.on_progress, len(edits))
    for start in range(0, len(edits), EDITS_AT_ONCE):
        chunk = edits[start : start + EDITS_AT_ONCE]
        targets = encode_targets(given.model, given.tokenizer, chunk)
        parts = gradient_parts(given.model, modules, targets)
        gathered = {name: (at_places(u, targets), at_places(g, targets)) for name, (u, g) in parts.items()}
        for row in range(len(chunk)):
            own = targets.places[:, 0] == row
            found.append({name: (H[own], G[own]) for name, (H, G) in gathered.items()})
        done(len(chunk))
    return found


def _update(given: MethodInput, features: Features, config: UltraEditConfig) -> BatchUpdate:
    update: dict[str, Factors] = {}
    moments: dict[str, Tensor] = {}
    for name in features[0]:
        H_td, G_tm = (torch.cat(parts) for parts in zip(*(one[name] for one in features), strict=True))
        own = feature_moments(torch.cat([H_td, G_tm], dim=1))
        before = given.history.moments.get(name)
        mean, deviation = mean_and_deviation(own if before is None else before.to(own.device) + own)
        V_dk = spared_directions(given.weights, name, config)
        update[name] = closed_form(H_td, G_tm, mean, deviation, config, V_dk)
        moments[name] = own.cpu()
    return BatchUpdate(update, {}, moments)


def mean_and_deviation(moments: Tensor) -> tuple[Tensor, Tensor]:
    """μ and σ (d + m,), σ² unbiased; 0 and |z| of a single feature. Where nothing varies σ is tiny, never zero."""
    count, total, squares = moments
    size = (squares / count).sqrt()
    if count[0] < 2:
        mean, deviation = torch.zeros_like(total), size
    else:
        mean = total / count
        deviation = ((squares - mean * total).clamp(min=0) / (count - 1)).sqrt()
    return mean, torch.maximum(deviation, CONSTANT * size).clamp(min=torch.finfo(size.dtype).tiny)


def closed_form(
    H_td: Tensor, G_tm: Tensor, mean: Tensor, deviation: Tensor, config: UltraEditConfig, V_dk: Tensor | None = None
) -> Factors:
    """Δ as V times (H Hᵀ + λI)⁻¹ H: a solve of size t, where the normal equations have size d.

    V (d, k): protected directions that the solve is to keep out of: `spared_gain` for M = HᵀH + λI, where it comes to
    the same solve of H (I − V Vᵀ).
    """
    Z = (torch.cat([H_td, G_tm], dim=1) - mean) / deviation
    H_hat, G_hat = Z[:, : H_td.shape[1]], Z[:, H_td.shape[1] :]
    V_tm = -config.scale * H_hat.square().sum(1, keepdim=True) * G_hat
    gain_td = _gain(H_td, config.ridge)
    if V_dk is not None:
        Q_dk = V_dk.to(H_td)
        gain_td = torch.lerp(gain_td, _gain(H_td - (H_td @ Q_dk) @ Q_dk.T, config.ridge), config.protect_strength)
    return factors(V_tm.T, gain_td)


def _gain(H_td: Tensor, ridge: float) -> Tensor:
    M_tt = H_td @ H_td.T
    M_tt.diagonal().add_(ridge)
    solved: Tensor = torch.linalg.solve(M_tt, H_td)
    return solved


ULTRAEDIT = Method(
    "ultraedit",
    UltraEditConfig,
    compute_update,
    compute_independent_updates,
)
