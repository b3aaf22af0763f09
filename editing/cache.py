"""Results that are kept on the disk, each under the digest of what it is a function of."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from editing.digests import json_digest
from editing.errors import EditingError
from editing.files import whole_file

T = TypeVar("T")
Dumped = bytes | Callable[[Path], None]
"""What a file of the cache holds, or what writes it: a large one need not stand in memory twice."""

logger = logging.getLogger(__name__)

BROKEN = (OSError, ValueError, LookupError, TypeError, SafetensorError, EditingError)
"""What `load` may raise for an entry that is not there or not whole."""

USED_SECONDS = 24 * 3600.0
"""How exactly an entry's file tells when it was read last: file systems may keep no such time of their own."""


class Cache:
    """A folder of results: `KIND/AB/ABCDEF…`, named by the sha256 of what each is about.

    An entry is whole or absent. One that cannot be read is made anew, and where nothing can be written the work goes
    on without: that is said once. Several processes may use one folder. The time of an entry's file is that of its last
    use, to a day.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._warned = False

    def get(
        self,
        kind: str,
        about: object,
        make: Callable[[], T],
        dump: Callable[[T], Dumped],
        load: Callable[[Path], T],
    ) -> T:
        """The result of `kind` that is a function of `about`: read, or made now and written.

        Args:
            about: what JSON can hold, everything that the result depends on, the version of its computation included.
            load: reads a file that `dump` gave the bytes of, or wrote; raises one of BROKEN for any other.
        """
        [found] = self.get_all(kind, [about], lambda missing: [make()], dump, load)
        return found

    def get_all(
        self,
        kind: str,
        abouts: Sequence[object],
        make: Callable[[list[int]], Iterable[T]],
        dump: Callable[[T], Dumped],
        load: Callable[[Path], T],
    ) -> list[T]:
        """The same of several: `make` gives, in order, those whose numbers it is given, each written as it comes.

        `make` is not called where none is missing.
        """
        found = {}
        for number, about in enumerate(abouts):
            if (one := self.read(kind, about, load)) is not None:
                found[number] = one
        if missing := [number for number in range(len(abouts)) if number not in found]:
            for number, made in zip(missing, make(missing), strict=True):
                found[number] = made
                self.write(kind, abouts[number], dump(made))
        return [found[number] for number in range(len(abouts))]

    def read(self, kind: str, about: object, load: Callable[[Path], T]) -> T | None:
        """The result if it is there and whole."""
        path = self.path(kind, about)
        try:
            found = load(path)
            _used(path)
            return found
        except BROKEN as error:
            if not isinstance(error, FileNotFoundError):
                logger.debug("'%s' is made anew: %s", path, error)
            return None

    def write(self, kind: str, about: object, data: Dumped) -> None:
        """Keep what a result was dumped as, in the place of what is there."""
        try:
            with whole_file(self.path(kind, about)) as temporary:
                if isinstance(data, bytes):
                    temporary.write_bytes(data)
                else:
                    data(temporary)
        except OSError as error:
            self._warn(error)

    def drop(self, kind: str, about: object) -> None:
        """Forget a result, if it is there."""
        try:
            self.path(kind, about).unlink(missing_ok=True)
        except OSError as error:
            logger.debug("'%s' stays: %s", self.path(kind, about), error)

    def path(self, kind: str, about: object) -> Path:
        """Where the result is, if it is."""
        digest = json_digest(about)
        return self.folder / kind / digest[:2] / digest

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            logger.warning(
                "nothing can be kept in the cache '%s' (%s), so it will be computed again: make the folder writable, "
                "or choose another",
                self.folder,
                error.strerror or error,
            )
        self._warned = True


def _used(path: Path) -> None:
    with suppress(OSError):  # of another user, or gone
        if time.time() - path.stat().st_mtime > USED_SECONDS:
            os.utime(path)
