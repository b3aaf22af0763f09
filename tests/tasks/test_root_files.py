"""What a root stores comes back bit for bit, in whichever form is smaller, and without its values for who only asks."""

import pytest
import torch

from editing.layout import layout_of
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import BatchUpdate
from editing.weights import EditedWeights
from tasks.stores.batches import pack, restore_weights
from tasks.stores.errors import DigestMismatch
from tasks.stores.manifest import Manifest
from tasks.stores.roots import StoredValues, pack_root
from tasks.stores.snapshots import SnapshotStore
from tests.conftest import tiny_model
from tests.editing.test_weights import update_for


def made(seed: int, rank: int) -> tuple[BatchUpdate, torch.Tensor]:
    """An update of the tiny model with keys and values of two facts."""
    generator = torch.Generator().manual_seed(seed)
    keys = {layer: torch.randn(2, 64, generator=generator) for layer in (1, 2)}
    update = update_for(tiny_model("llama").model, seed, rank)
    return BatchUpdate(update, keys), torch.randn(2, 32, generator=generator)


def manifest(loaded, weights, number, parent, **more) -> Manifest:
    return Manifest(
        line="main", version=number, parent=parent, base="tiny", base_digest=loaded.digest, config={"method": "memit"},
        tensor_digests=weights.digests(), batch=number, **more,
    )  # fmt: skip


def rooted(store: SnapshotStore, dtype: torch.dtype, rank: int):
    """A line of a batch, a root of other facts in its place, and a batch on that; digests after each."""
    loaded = tiny_model("llama", dtype)
    weights = EditedWeights(loaded.model, layout_of(loaded.model))
    digests = []

    def published(number, parent, files, **more) -> str:
        digests.append(weights.digests())
        return store.publish(manifest(loaded, weights, number, parent, **more), *files).snapshot

    batch, z_star = made(0, 3)
    weights.apply(batch.update)
    first = published(1, None, [pack(batch, z_star)], request_ids=("a", "b"), values=("va", "vb"))
    weights.to_base()
    batch, z_star = made(1, rank)
    weights.apply(batch.update)
    files = pack_root(batch, z_star, {"missing": torch.zeros(2)}, weights)
    if any(name.startswith("T/") for name in files[0]):
        weights.settle(batch.update)
    more = {"live": ("b", "c"), "removed": ("a",), "request_ids": (), "after": first, "values": ("vb", "vc")}
    root = published(2, None, files, **more)
    batch, z_star = made(2, 3)
    weights.apply(batch.update)
    last = published(3, root, [pack(batch, z_star)], request_ids=("d", "e"), values=("vd", "ve"))
    return [first, root, last], digests, files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rank", "finished"), [(3, False), (60, True)])
def test_a_line_with_a_root_comes_back_bit_for_bit(folder, dtype, rank, finished):
    store = SnapshotStore(folder)
    [first, root, last], digests, files = rooted(store, dtype, rank)
    assert all(name.startswith("T/") for name in files[0]) is finished and files[0]
    assert not any(name.startswith(("K/", "z_star")) for name in files[0])
    loaded = tiny_model("llama", dtype)
    weights, history = EditedWeights(loaded.model, layout_of(loaded.model)), KeyHistory()
    for snapshot, then, facts in ((last, digests[2], 4), (root, digests[1], 2), (first, digests[0], 2)):
        weights.to_base()
        history.clear()
        chain = store.chain(snapshot)
        found = restore_weights(loaded, weights, history, ((one, store.tensors(one)) for one in chain))
        assert weights.digests() == then and len(found) == facts and history.count == facts
    # Step by step as a job does: what served, then the root in its place, then what was written on it.
    for one in (store.manifest(root), store.manifest(last)):
        restore_weights(loaded, weights, history, [(one, store.tensors(one))])
    assert weights.digests() == digests[2] and history.count == 4
    weights.to_base()
    asked = store.chain(last)
    restore_weights(loaded, weights, None, ((one, store.tensors(one, values=False)) for one in asked))
    assert weights.digests() == digests[2]


def test_a_root_that_comes_out_otherwise_leaves_what_stood(folder):
    store = SnapshotStore(folder)
    [first, root, _], digests, _ = rooted(store, torch.float32, 60)
    loaded = tiny_model("llama")
    weights = EditedWeights(loaded.model, layout_of(loaded.model))
    restore_weights(loaded, weights, None, [(store.manifest(first), store.tensors(store.manifest(first)))])
    found, tensors = store.manifest(root), store.tensors(store.manifest(root))
    name = next(name for name in tensors if name.startswith("T/"))
    with pytest.raises(DigestMismatch, match="version 2 of line 'main' gives other tensors than recorded"):
        restore_weights(loaded, weights, None, [(found, tensors | {name: tensors[name] + 1})])
    assert weights.digests() == digests[0]


def test_the_first_value_of_a_fact_is_the_record_and_is_read_only_where_it_is_asked_for(folder, monkeypatch):
    store = SnapshotStore(folder)
    snapshots, _, _ = rooted(store, torch.float32, 3)
    reads, real = [], store.tensors
    monkeypatch.setattr(store, "tensors", lambda one: reads.append(one.version) or real(one))
    values = StoredValues(store, [store.manifest(snapshot) for snapshot in snapshots])
    assert values.get("unknown") is None and reads == []
    assert torch.equal(values.get("vb"), made(0, 3)[1][1]) and torch.equal(values.get("vc"), made(1, 3)[1][1])
    assert values.get("vb") is not None and reads == [1, 2]
