"""Key statistics: C = E[k kᵀ], the uncentred second moment of the keys of each edited layer.

Meng et al., MEMIT, eq. 15 (C₀ there is λ times this). Of few tokens C is noisy where keys are rare; it is then shrunk
towards a multiple of the identity as Ledoit and Wolf do (J. Multivariate Analysis 88, 2004), for moments about zero.
Shapes: d = key size.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from editing.digests import sha256, tensors_digest
from editing.errors import StatisticsError
from editing.streamed import save_tensors


@dataclass(frozen=True)
class KeyStatistics:
    """Second moments of keys, with what they belong to."""

    moments: dict[int, Tensor]
    """C by layer, (d, d) float32 on the CPU, as the products are that it is made of."""
    tokens: int
    """How many keys they are the means of."""
    base_digest: str
    source: str
    """What the text was: a digest of it, or how it was sampled."""
    fourth_powers: dict[int, float] = field(default_factory=dict)
    """Σ |k|⁴ over the tokens, by layer: how far single tokens are from C. Shrunk moments have none."""
    spectra: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `spectrum` has computed so far."""

    @cached_property
    def digest(self) -> str:
        """sha256 of the moments: what is solved with them is a function of their bits."""
        return tensors_digest({str(layer): C_dd for layer, C_dd in self.moments.items()})

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

    def shrunk(self, *, in_place: bool = False) -> "KeyStatistics":
        """The same with each C moved towards tr(C)/d · I, as far as its error for so few tokens is to be expected.

        (1 - α) C + α tr(C)/d I with α = min(1, E|C - E C|² / |C - tr(C)/d I|²), Frobenius norms; of n tokens the error
        is estimated as (Σ |k|⁴ / n - |C|²) / n. `in_place`: each C itself is moved, and these are not to be used again.

        Raises:
            StatisticsError: there is no Σ |k|⁴ of a layer, as in what is shrunk already.
        """
        self._check_unshrunk()
        moments = {}
        for layer, C_dd in self.moments.items():
            mean = C_dd.diagonal().double().mean().item()
            squared_norm = float(torch.linalg.vector_norm(C_dd, dtype=torch.float64)) ** 2
            distance = squared_norm - len(C_dd) * mean**2
            error = (self.fourth_powers[layer] / self.tokens - squared_norm) / self.tokens
            alpha = min(error, distance) / distance if distance > 0 else 0.0
            moments[layer] = C_dd.mul_(1 - alpha) if in_place else (1 - alpha) * C_dd
            moments[layer].diagonal().add_(alpha * mean)
        return KeyStatistics(moments, self.tokens, self.base_digest, f"{self.source}, shrunk")

    def merge(self, other: "KeyStatistics") -> "KeyStatistics":
        """Statistics of both texts together, as if they had been collected in one go.

        Raises:
            StatisticsError: they belong to different models or layers, or are shrunk.
        """
        self._check_unshrunk()
        other._check_unshrunk()
        if self.base_digest != other.base_digest or self.moments.keys() != other.moments.keys():
            raise StatisticsError(
                f"statistics of base {self.base_digest[:12]} layers {sorted(self.moments)} cannot be merged with "
                f"base {other.base_digest[:12]} layers {sorted(other.moments)}; collect both on the same model"
            )
        total = self.tokens + other.tokens
        moments = {
            layer: torch.lerp(C, other.moments[layer].to(C), other.tokens / total) for layer, C in self.moments.items()
        }
        fourth_powers = {layer: power + other.fourth_powers[layer] for layer, power in self.fourth_powers.items()}
        return KeyStatistics(moments, total, self.base_digest, f"{self.source}+{other.source}", fourth_powers)

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

    def _check_unshrunk(self) -> None:
        """Raises StatisticsError unless all of what the text gave is there."""
        if self.fourth_powers.keys() != self.moments.keys():
            raise StatisticsError(
                f"key statistics ({self.source}) have no sums of |k|⁴ of layers "
                f"{sorted(self.moments.keys() - self.fourth_powers.keys())}; merge first and shrink once, at the end"
            )

    def save(self, path: Path) -> None:
        """Write them as a file of safetensors. Raises OSError."""
        powers = json.dumps(self.fourth_powers)
        about = {"tokens": str(self.tokens), "base_digest": self.base_digest, "source": self.source}
        tensors = {f"C.{layer}": C.contiguous() for layer, C in self.moments.items()}
        save_tensors(path, tensors, about | {"fourth_powers": powers})

    @staticmethod
    def load(path: Path) -> "KeyStatistics":
        """Raises StatisticsError when the file is missing or broken."""
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                moments = {int(name.removeprefix("C.")): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            powers = {int(layer): float(power) for layer, power in json.loads(about["fourth_powers"]).items()}
            return KeyStatistics(moments, int(about["tokens"]), about["base_digest"], about["source"], powers)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise StatisticsError(f"cannot read key statistics {path}: {error}; delete the file") from error


def text_digest(texts: Iterable[str]) -> str:
    """sha256 over texts, with their borders."""
    return sha256(json.dumps(text).encode() for text in texts)
