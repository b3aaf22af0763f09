"""What a root stores: all its facts in one update, its values apart, and where the values of facts are found again.

update.safetensors   B/<weight> and A/<weight>, or T/<weight>, the finished tensors, where these are smaller
values.safetensors   K/<layer>, S/<weight>, z_star, z_base and missing: what a job needs and a server does not
"""

from collections.abc import Iterable, Mapping
from functools import cached_property

from torch import Tensor

from editing.methods.shared.interface import BatchUpdate
from editing.placed import tensor_of
from editing.weights import EditedWeights
from tasks.stores.batches import FINISHED, pack
from tasks.stores.manifest import Manifest
from tasks.stores.snapshots import SnapshotStore

SUMMED = ("A/", "B/", FINISHED)


def pack_root(
    made: BatchUpdate, z_star_nm: Tensor, more: Mapping[str, Tensor], weights: EditedWeights
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The two files of a root that stands in the weights: what is summed, or the finished tensors, and the rest."""
    packed = pack(made, z_star_nm, more)
    update = {name: tensor for name, tensor in packed.items() if name.startswith(SUMMED)}
    finished = {f"{FINISHED}{name}": tensor_of(weights.model, name) for name in made.update}
    rest = {name: tensor for name, tensor in packed.items() if name not in update}
    return (finished if _bytes(finished) < _bytes(update) else update), rest


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


class StoredValues:
    """z* by what it is known by, of all versions of a line, those that never came into service included.

    The one that was made first is the record: a search is not bit for bit a function of the facts.
    """

    def __init__(self, store: SnapshotStore, manifests: Iterable[Manifest]) -> None:
        self._store, self._manifests = store, list(manifests)
        self._read: dict[str, Tensor] = {}

    @cached_property
    def _places(self) -> dict[str, tuple[Manifest, int]]:
        found: dict[str, tuple[Manifest, int]] = {}
        for manifest in self._manifests:
            for row, digest in enumerate(manifest.values):
                found.setdefault(digest, (manifest, row))
        return found

    def get(self, digest: str) -> Tensor | None:
        """The value (m,) of the facts that are known by `digest`, or None.

        Raises:
            DigestMismatch, ObjectNotFound: the version that holds it cannot be read.
        """
        if digest not in self._read and digest in self._places:
            manifest, _ = self._places[digest]
            z_star_nm = self._store.tensors(manifest)["z_star"]
            for name, value in zip(manifest.values, z_star_nm, strict=True):
                if self._places[name][0] is manifest and name not in self._read:
                    self._read[name] = value.clone()
        return self._read.get(digest)
