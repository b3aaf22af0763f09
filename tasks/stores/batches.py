"""A batch of edits as the tensors of a snapshot, and a model brought to the state of one."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from editing.layout import layout_of
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import BatchUpdate
from editing.models import LoadedModel
from editing.rounding import rounded, rounded_by_way_of_float32
from editing.shortage import LAYERS, within_memory
from editing.weights import EditedWeights, Factors, Rounding, Undo, WeightUpdate, concatenate
from tasks.meter import Meter
from tasks.stores.errors import DigestMismatch
from tasks.stores.manifest import Manifest, members
from tasks.stores.snapshots import SnapshotStore

FINISHED = "T/"
"""Before the name of a weight whose finished tensor a root holds."""


def finished_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The finished tensors that a root stores in the place of factors, by their weights."""
    return _under(FINISHED, tensors)


def read_each(
    manifests: Sequence[Manifest], read: Callable[[Manifest], dict[str, Tensor]]
) -> Iterator[tuple[Manifest, dict[str, Tensor]]]:
    """Versions with their tensors, each read when it is asked for; progress tells how many were."""
    with Meter("versions read", len(manifests)) as meter:
        for manifest in manifests:
            tell = meter.part(1)
            tensors = read(manifest)
            tell(1, 1)
            yield manifest, tensors


def apply(weights: EditedWeights, update: WeightUpdate, rounding: Rounding = rounded) -> Undo:
    """`EditedWeights.apply`; progress tells how many changes of rank one were summed."""
    size = sum(factors.B.shape[1] for factors in update.values())
    with Meter("weights", size) as meter:
        return weights.apply(update, rounding, meter.part(size))


@within_memory(LAYERS)
def restore_weights(
    loaded: LoadedModel,
    weights: EditedWeights,
    history: KeyHistory | None,
    versions: Iterable[tuple[Manifest, dict[str, Tensor]]],
) -> list[str]:
    """Apply further versions, oldest first; returns the ids of the requests that they hold.

    The sum of all factors is taken once, in their order, so its bits are those of one version after the other; a root
    begins anew from the base, and later factors are added to its finished tensors, where it holds these. What must
    come out is what the last of them recorded; that each one's bytes are the stored ones is the store's to say.
    A version that release 0.1 wrote on a model of 16 bits comes out as it was, rounded as it was.

    Raises:
        DigestMismatch: a version is of another base, or the tensors are not the recorded ones; nothing is changed.
    """
    manifests: list[Manifest] = []
    batches: list[BatchUpdate] = []
    finished: dict[str, Tensor] = {}
    anew = False
    for manifest, tensors in versions:
        if manifest.base_digest != loaded.digest:
            raise DigestMismatch(
                f"{_named(manifest)} was made on base {manifest.base_digest[:12]}, this is {loaded.digest[:12]}; "
                f"load '{manifest.base}' as it was, with the same dtype"
            )
        if manifest.live is not None:
            batches, anew = [], True
            finished = finished_in(tensors)
        batches.append(unpack(tensors))
        manifests.append(manifest)
    if not manifests:
        return []
    update, last = concatenate([batch.update for batch in batches]), manifests[-1]
    before = weights.to_base() if anew else None
    wrong = _apply(weights, finished, update, rounded, last.tensor_digests)
    narrow = torch.finfo(loaded.model.dtype).bits < 32
    if wrong and (not narrow or _apply(weights, finished, update, rounded_by_way_of_float32, last.tensor_digests)):
        if before is not None:
            weights.revert(before)
        raise DigestMismatch(f"{_named(last)} gives other tensors than recorded: {', '.join(wrong)}; restore its files")
    if history is not None:
        if anew:
            history.clear()
        for batch in batches:
            history.add(batch.keys, batch.moments, batch.gone)
    return list(members(manifests))


class Travelling:
    """A model in memory that goes from version to version of its line; what was added last is all that is read."""

    def __init__(self, loaded: LoadedModel, store: SnapshotStore) -> None:
        self.loaded, self.store = loaded, store
        self.weights = EditedWeights(loaded.model, layout_of(loaded.model))
        self._standing: list[Manifest] = []

    def to(self, snapshot: str | None) -> None:
        """Stand at this version; None is the base.

        Raises:
            DigestMismatch, ObjectNotFound: it cannot be loaded; then the model is the base.
        """
        chain = self.store.chain(snapshot)
        if chain[: len(self._standing)] != self._standing:  # it does not build on the one before
            self.to_base()
        further, standing = chain[len(self._standing) :], self._standing
        self._standing = []  # what fails half-way is no version
        try:
            stored = read_each(further, partial(self.store.tensors, values=False))
            restore_weights(self.loaded, self.weights, None, stored)
        except BaseException:
            self.to_base()
            raise
        self._standing = [*standing, *further]

    def to_base(self) -> None:
        self.weights.revert(Undo(dict(self.weights.base), {}))
        self._standing = []


def _apply(
    weights: EditedWeights,
    finished: Mapping[str, Tensor],
    update: WeightUpdate,
    rounding: Rounding,
    recorded: Mapping[str, str],
) -> list[str]:
    """Put tensors and add an update; where others come out than recorded, take all back and return their names."""
    stood = weights.put(finished)
    undo = apply(weights, update, rounding)
    known = {name for name, _ in weights.model.named_parameters()}
    found = weights.digests(recorded.keys() & known)
    wrong = sorted(name for name, digest in recorded.items() if found.get(name) != digest)
    if wrong:
        weights.revert(undo)
        weights.revert(stood)
    return wrong


def _named(manifest: Manifest) -> str:
    return f"version {manifest.version} of line '{manifest.line}'"


def pack(batch: BatchUpdate, z_star_nm: Tensor, more: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Tensors of a batch as a snapshot stores them: factors, keys, moments and z*, enough to rebuild it in any way.

    `more` has a row a fact, as z* has.
    """
    tensors = {"z_star": z_star_nm.float().contiguous(), **(more or {})}
    for name, factors in batch.update.items():
        tensors[f"B/{name}"], tensors[f"A/{name}"] = factors.B, factors.A
    for sign, by_layer in (("K", batch.keys), ("G", batch.gone)):
        tensors |= {f"{sign}/{layer}": keys.contiguous() for layer, keys in by_layer.items()}
    return tensors | {f"S/{name}": sums for name, sums in batch.moments.items()}


def unpack(tensors: Mapping[str, Tensor]) -> BatchUpdate:
    """The batch out of what `pack` made."""
    keys, gone = ({int(name): one for name, one in _under(prefix, tensors).items()} for prefix in ("K/", "G/"))
    update = {name: Factors(B, tensors[f"A/{name}"]) for name, B in sorted(_under("B/", tensors).items())}
    return BatchUpdate(update, keys, _under("S/", tensors), gone)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
