"""Bytes under their own digest: what is got is what was put, or nothing."""

from editing.digests import sha256
from tasks.stores.errors import DigestMismatch
from tasks.stores.objects import ObjectStore


class Blobs:
    """The objects `<folder>/<sha256><suffix>` of a store."""

    def __init__(self, store: ObjectStore, folder: str, suffix: str = ".safetensors") -> None:
        self.store, self.folder, self.suffix = store, folder, suffix

    def key(self, digest: str) -> str:
        return f"{self.folder}/{digest}{self.suffix}"

    def put(self, data: bytes) -> str:
        """Store the bytes, over whatever lies there; returns their digest."""
        digest = sha256(data)
        self.store.put(self.key(digest), data)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes with this digest, verified.

        Raises:
            ObjectNotFound: there are none.
            DigestMismatch: what lies there is something else.
        """
        data, _ = self.store.get(self.key(digest))
        if (found := sha256(data)) != digest:
            raise DigestMismatch(
                f"'{self.key(digest)}' in '{self.store.uri}': expected sha256 {digest}, found {found}; "
                "restore it from a copy of the store"
            )
        return data

    def exists(self, digest: str) -> bool:
        """Whether something lies there; whether it is whole, `get` says."""
        return self.store.exists(self.key(digest))

    def list(self, prefix: str = "") -> list[str]:
        """The digests that begin with `prefix`, sorted; names of strays with the same suffix among them."""
        keys = self.store.list(f"{self.folder}/{prefix}")
        names = [key.removeprefix(f"{self.folder}/") for key in keys]
        return [name.removesuffix(self.suffix) for name in names if name.endswith(self.suffix)]

    def delete(self, digest: str) -> None:
        """Remove a blob, or a stray of this name; one that is not there is no error."""
        self.store.delete(self.key(digest))
