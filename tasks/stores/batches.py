"""A batch of edits as the tensors of a snapshot, and a model brought to the state of one."""

from collections.abc import Iterable

from torch import Tensor

from editing.methods.base import BatchUpdate
from editing.methods.history import KeyHistory
from editing.models import LoadedModel
from editing.weights import EditedWeights, Factors, concatenate
from tasks.stores.errors import DigestMismatch
from tasks.stores.manifest import Manifest, live_requests


def restore_weights(
    loaded: LoadedModel,
    weights: EditedWeights,
    history: KeyHistory | None,
    versions: Iterable[tuple[Manifest, dict[str, Tensor]]],
) -> list[str]:
    """Apply further versions, oldest first; returns the ids of the requests that they hold.

    The sum of all factors is taken once, in their order, so its bits are those of one version after the other. What
    must come out is what the last of them recorded; that each one's bytes are the stored ones is the store's to say.

    Raises:
        DigestMismatch: a version is of another base, or the tensors are not the recorded ones; nothing is changed.
    """
    manifests: list[Manifest] = []
    batches: list[BatchUpdate] = []
    for last, tensors in versions:
        if last.base_digest != loaded.digest:
            raise DigestMismatch(
                f"{_named(last)} was made on base {last.base_digest[:12]}, this is {loaded.digest[:12]}; "
                f"load '{last.base}' as it was, with the same dtype"
            )
        batches.append(unpack(tensors))
        manifests.append(last)
    if not manifests:
        return []
    undo = weights.apply(concatenate([batch.update for batch in batches]))
    found = weights.digests()
    if wrong := sorted(k for k, v in manifests[-1].tensor_digests.items() if found.get(k) != v):
        weights.revert(undo)
        raise DigestMismatch(
            f"{_named(manifests[-1])} gives other tensors than recorded: {', '.join(wrong)}; restore its files"
        )
    if history is not None:
        for batch in batches:
            history.add(batch.keys, batch.moments)
    return live_requests(manifests)


def _named(manifest: Manifest) -> str:
    return f"version {manifest.version} of line '{manifest.line}'"


def pack(batch: BatchUpdate, z_star_nm: Tensor) -> dict[str, Tensor]:
    """Tensors of a batch as a snapshot stores them: factors, keys, moments and z*, enough to rebuild it in any way."""
    tensors = {"z_star": z_star_nm.float().contiguous()}
    for name, factors in batch.update.items():
        tensors[f"B/{name}"], tensors[f"A/{name}"] = factors.B, factors.A
    for layer, keys in batch.keys.items():
        tensors[f"K/{layer}"] = keys.contiguous()
    return tensors | {f"S/{name}": sums for name, sums in batch.moments.items()}


def unpack(tensors: dict[str, Tensor]) -> BatchUpdate:
    """The batch out of what `pack` made."""
    names = sorted(name.removeprefix("B/") for name in tensors if name.startswith("B/"))
    keys = {int(name.removeprefix("K/")): tensor for name, tensor in tensors.items() if name.startswith("K/")}
    moments = {name.removeprefix("S/"): tensor for name, tensor in tensors.items() if name.startswith("S/")}
    return BatchUpdate({name: Factors(tensors[f"B/{name}"], tensors[f"A/{name}"]) for name in names}, keys, moments)
