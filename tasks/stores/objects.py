"""Objects under keys: what a store offers, with the two conditional writes that everything durable here rests on.

`put_if_absent` is the commit of a version, `put_if_match` moves HEAD and renews a lease. Both treat bytes
that are already stored as given as written: after a lost answer and a retry, the conflict that a writer
sees can be its own success. Where two writers must never both win, their bytes have to differ (an owner,
a random token).
"""

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from tasks.stores.errors import StorageError

READERS = 8
"""Objects that are read at once: a long line on S3 waits for the network, not for the processor."""

K = TypeVar("K")
T = TypeVar("T")
_SEGMENT = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,199}")


@dataclass(frozen=True)
class Entry:
    """An object as a listing shows it."""

    key: str
    size: int
    written: datetime
    """UTC, by the store's own clock; an object that is put again is written anew, whatever its bytes are."""


class ObjectStore(Protocol):
    """What the storage of a line has to offer. Raises StorageError for whatever is not said below."""

    uri: str

    def get(self, key: str) -> tuple[bytes, str]:
        """The bytes and their etag. Raises ObjectNotFound."""
        ...

    def put(self, key: str, data: bytes) -> str:
        """Store whatever was there before; for blobs addressed by their content. Returns the etag."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> str:
        """Create the object. Raises ObjectConflict when other bytes are there."""
        ...

    def put_if_match(self, key: str, data: bytes, etag: str) -> str:
        """Replace exactly the object that `etag` names. Raises ObjectConflict when it is another or gone."""
        ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there is no error. Only for what can be made again."""
        ...

    def entries(self, prefix: str) -> list[Entry]:
        """Size and time of all objects whose keys begin with `prefix`, sorted: for whoever looks for what is old."""
        ...

    def list(self, prefix: str, after: str = "") -> list[str]:
        """All keys that begin with `prefix`, sorted; those that come after `after` alone, whether it exists or not."""
        ...


def at_once(read: Callable[[K], T], keys: Iterable[K]) -> list[T]:
    """What `read` says of each, in their order, several at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, keys))


def check_key(key: str) -> str:
    """A relative key of plain segments; refuses '..', absolute keys and hidden names."""
    if len(key) > 900 or not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise StorageError(
            f"key {key[:80]!r}: segments of letters, digits and '._=-' between single '/', none of them hidden"
        )
    return key
