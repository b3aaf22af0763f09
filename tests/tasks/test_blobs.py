"""Laws of blobs: what is got is what was put; each held against a folder, moto and SeaweedFS."""

import pytest

from editing.digests import sha256
from tasks.stores.blobs import Blobs
from tasks.stores.errors import DigestMismatch, ObjectNotFound


def test_what_was_put_is_got_by_its_digest_alone(store):
    blobs = Blobs(store, "blobs")
    digest = blobs.put(b"tensors")
    assert digest == sha256(b"tensors") and store.list("") == [f"blobs/{digest}.safetensors"]
    assert blobs.get(digest) == b"tensors" and blobs.exists(digest)


def test_one_changed_byte_is_refused_and_putting_again_mends_it(store):
    blobs = Blobs(store, "blobs")
    digest = blobs.put(b"tensors")
    store.put(blobs.key(digest), b"tensorz")
    with pytest.raises(DigestMismatch, match=f"expected sha256 {digest}, found {sha256(b'tensorz')}; restore it"):
        blobs.get(digest)
    assert blobs.get(blobs.put(b"tensors")) == b"tensors"


def test_they_are_listed_by_prefix_and_removed(store):
    blobs, other = Blobs(store, "a/blobs", ".json"), Blobs(store, "a/other", ".json")
    digests = sorted(blobs.put(b"%d" % number) for number in range(3))
    other.put(b"0")
    store.put("a/blobs/notes.txt", b"no blob")
    assert blobs.list() == digests and blobs.list(digests[0][:8]) == digests[:1]
    blobs.delete(digests[0])
    blobs.delete(digests[0])
    assert blobs.list() == digests[1:] and other.list() == [sha256(b"0")]
    with pytest.raises(ObjectNotFound):
        blobs.get(digests[0])
