"""What a method is given, what it gives, and how the registry knows it.

Shapes: d = key size, m = value size, n = edits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.chat import ChatTemplate
from editing.config import LocatingConfig, MethodConfig
from editing.covariance import KeyStatistics
from editing.edit import Edit
from editing.errors import NoSuchModel, UsageError
from editing.groups import KeyGroup
from editing.layout import ModelLayout
from editing.methods.shared.history import KeyHistory
from editing.placed import device_of
from editing.progress import OnProgress, part_of, unheard
from editing.weights import EditedWeights, Factors, WeightUpdate

ConfigT = TypeVar("ConfigT", bound=MethodConfig)


def unrestrained(name: str, factors: Factors) -> Factors:
    """The update of a weight as a method made it."""
    return factors


@dataclass(frozen=True)
class MethodInput:
    """What a method works on: the model as it stands, and what belongs to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layout: ModelLayout
    layers: tuple[int, ...]
    statistics: KeyStatistics
    history: KeyHistory
    prefixes: tuple[str, ...]
    weights: EditedWeights | None = None
    """The model's edited weights: what restraints, an exact order and facts that are written anew want."""
    chat: ChatTemplate | None = None
    """The conversation in which facts are asked, too; none: as bare prompts alone."""
    groups: tuple[KeyGroup, ...] = ()
    """Of each edit the facts that share its key, it among them; none: each is alone. Set by `compute_update`."""
    spread: Literal["linear", "sqrt"] = "linear"
    restrain: Callable[[str, Factors], Factors] = unrestrained
    """What is done to the update of a weight, by name; set from the configuration, as `spread` is."""
    on_progress: OnProgress = unheard
    """Hears how far an update is, in units that take about the same time each."""

    def second_moment(self, layer: int) -> Tensor:
        """C of a layer, (d, d) float64, where the model is."""
        size = self.layout.key_size(self.model, layer)
        return self.statistics.moment(layer, size).to(device_of(self.model), torch.float64)

    def spectrum(self, layer: int) -> tuple[Tensor, Tensor]:
        """Eigenvalues of C, rising (d,), and its eigenvectors as columns (d, d), where the model is."""
        self.statistics.moment(layer, self.layout.key_size(self.model, layer))
        return self.statistics.spectrum(layer, device_of(self.model))

    def earlier_keys(self, layer: int) -> Tensor:
        """H = Σ k kᵀ over the live facts, (d, d) float64, where the model is."""
        return self.history.gram(layer, self.layout.key_size(self.model, layer)).to(device_of(self.model))


@dataclass(frozen=True)
class BatchUpdate:
    """An update that is not yet written, and the keys to remember if it is kept."""

    update: WeightUpdate
    keys: dict[int, Tensor]
    """{layer: (n, d)} float32 on the CPU."""
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """Sums over the batch's features by weight, (3, d + m) float64 on the CPU, of a method that normalises by them."""
    gone: Mapping[int, Tensor] = field(default_factory=dict)
    """Like `keys`: those of facts that the batch took out to write them anew, which the history is to forget."""


@dataclass(frozen=True)
class Method(Generic[ConfigT]):
    """One method as the registry knows it. Its functions leave the model as they find it."""

    name: str
    config: type[ConfigT]
    compute_update: Callable[[MethodInput, Sequence[Edit], Tensor, ConfigT], BatchUpdate]
    """(what it is given, edits, z* (n, m), config): the update that writes the edits as one batch."""
    compute_independent_updates: Callable[[MethodInput, Sequence[Edit], Tensor, ConfigT], list[WeightUpdate]] | None
    """The same arguments: for each edit the update that would write it alone; None where that is not possible."""
    rebases: bool = False
    """Whether `compute_update` takes any number of edits at once, in memory linear in them: rebase mode."""

    @property
    def searches(self) -> bool:
        """Whether it wants z*, key statistics and contexts.

        Otherwise it is given values of size zero, empty statistics and the bare context.
        """
        return issubclass(self.config, LocatingConfig)

    @property
    def modes(self) -> tuple[str, ...]:
        """What it can do: every method writes batches in sequence."""
        alone = ("independent",) if self.compute_independent_updates is not None else ()
        return ("sequential", *alone, *(("rebase",) if self.rebases else ()))


def one_by_one(given: MethodInput, edits: Sequence[Edit]) -> Iterator[tuple[MethodInput, Edit]]:
    """Each edit with what a method is given for it alone, which tells how far all are."""
    for number, edit in enumerate(edits):
        yield replace(given, on_progress=part_of(given.on_progress, number, 1, len(edits))), edit


def only_layer(given: MethodInput, method: str) -> int:
    """The one layer that is edited. Raises ModelError when there are more."""
    if len(given.layers) != 1:
        raise NoSuchModel(
            f"method '{method}' edits one layer, layers are {list(given.layers)}; give one, e.g. [{given.layers[-1]}]"
        )
    return given.layers[0]


def edited_weights(given: MethodInput, what: str) -> EditedWeights:
    """The model's edited weights. Raises UsageError when they are not given to `what` wants them."""
    if given.weights is None:
        raise UsageError(f"{what} needs the original weights; make the MethodInput with its EditedWeights")
    return given.weights
