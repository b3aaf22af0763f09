"""Objects as files below one folder, for the processes of one machine (Linux and macOS)."""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from editing.digests import sha256
from editing.files import flush
from tasks.stores.errors import ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.objects import Entry, check_key

_STALE_SECONDS = 24 * 3600.0
_LOCK_SECONDS = 60.0
_POLL_SECONDS = 0.002
_REMEDIES = {
    errno.EACCES: "give this user the right to, or choose another folder",
    errno.EPERM: "give this user the right to, or choose another folder",
    errno.EROFS: "mount it writable, or choose another folder",
    errno.ENOSPC: "free some space and repeat",
    errno.EDQUOT: "free some space and repeat",
    errno.ENOTDIR: "a file stands where a folder belongs; move it away",
    errno.EEXIST: "a file stands where a folder belongs; move it away",
    errno.EISDIR: "a folder stands where a file belongs; move it away",
    errno.ELOOP: "a link stands where a file belongs; put the file itself there",
    errno.ENOSYS: "this file system has no locks; choose a folder on another one",
    errno.ENOTSUP: "this file system has no locks; choose a folder on another one",
}


class FolderStore:
    """Objects as files below one folder; safe for several processes of one machine.

    A file appears under its name whole or not at all: it is written beside, synced, then renamed. The two conditional
    writes look and rename under one lock, which the kernel takes from a killed process; no file is written while it
    is held. What a killed writer leaves lies in `.tmp`, is never listed, and is swept after a day.

    Raises:
        StorageError: the folder is missing; `create` makes it.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self.root = root
        self.uri = str(root)
        if create:
            with _explained(root, "made"):
                root.mkdir(parents=True, exist_ok=True)
        self._check_root()
        self._sweep()

    def get(self, key: str) -> tuple[bytes, str]:
        path = self._path(key)
        with _explained(path, "read"):
            try:
                with open(path, "rb", opener=_no_link) as file:
                    data = file.read()
            except (FileNotFoundError, IsADirectoryError) as error:
                self._check_root()  # a folder that is not mounted must not look like an empty one
                raise ObjectNotFound(f"no object '{key}' in '{self.uri}'") from error
        return data, sha256(data)

    def put(self, key: str, data: bytes) -> str:
        path = self._path(key)
        with self._written(path, data) as temporary:
            os.replace(temporary, path)
        return sha256(data)

    def put_if_absent(self, key: str, data: bytes) -> str:
        path = self._path(key)
        with self._written(path, data) as temporary, self._locked():
            taken = path.is_file()
            if not taken:
                os.replace(temporary, path)
        if taken and self.get(key)[0] != data:
            raise ObjectConflict(f"object '{key}' in '{self.uri}' exists with other content")
        return sha256(data)

    def put_if_match(self, key: str, data: bytes, etag: str) -> str:
        path = self._path(key)
        with self._written(path, data) as temporary, self._locked():
            found = self.get(key)[1] if path.is_file() else None
            if found == sha256(data):
                return found
            if found != etag:
                raise ObjectConflict(f"object '{key}' in '{self.uri}' was changed by another writer")
            os.replace(temporary, path)
        return sha256(data)

    def exists(self, key: str) -> bool:
        path = self._path(key)
        self._check_root()
        return path.is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        self._check_root()
        with _explained(path, "removed"):
            path.unlink(missing_ok=True)

    def entries(self, prefix: str) -> list[Entry]:
        found = []
        for key in self.list(prefix):
            path = self.root / key
            with _explained(path, "looked at"), contextlib.suppress(FileNotFoundError):  # removed since it was listed
                stat = path.stat()
                found.append(Entry(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)))
        return found

    def list(self, prefix: str, after: str = "") -> list[str]:
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        self._check_root()
        keys = []
        with _explained(start, "listed"):
            for parent, folders, files in os.walk(start, onerror=_raise_unless_missing):
                folders[:] = [name for name in folders if not name.startswith(".")]
                base = Path(parent).relative_to(self.root)
                keys += [(base / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(key for key in keys if key.startswith(prefix) and key > after)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _check_root(self) -> None:
        if not self.root.is_dir():
            raise StorageError(f"store '{self.uri}' is no folder: create it (mkdir -p) or mount it, then repeat")

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes) -> Iterator[Path]:
        """A synced temporary file with the data; the caller gives it its name, which is then synced too."""
        self._check_root()
        temporary = self.root / ".tmp" / uuid.uuid4().hex
        with _explained(path, "written"):
            _make_folder(temporary.parent)
            _make_folder(path.parent)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary
                flush(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One conditional write at a time."""
        # A lock of its own for each call: threads of one process exclude each other, too. Where the file system has
        # no locks of the kernel's, a file that stands for one would outlive a killed process: that is refused.
        lock = FileLock(self.root / ".lock", _LOCK_SECONDS, poll_interval=_POLL_SECONDS, fallback_to_soft=False)
        try:
            with lock:
                yield
        except Timeout as error:
            raise StorageError(
                f"'{lock.lock_file}' was locked by another process for {_LOCK_SECONDS:g} s: end the process that hangs"
            ) from error

    def _sweep(self) -> None:
        """Remove what killed writers left a day ago or earlier; a store that is only read is left as it is."""
        with contextlib.suppress(OSError):
            for path in (self.root / ".tmp").iterdir():
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink(missing_ok=True)


def _no_link(path: str, flags: int) -> int:
    """Opens a file of the store itself: a link would bring in bytes of elsewhere."""
    return os.open(path, flags | os.O_NOFOLLOW)


def _make_folder(path: Path) -> None:
    """A folder whose name survives a power cut; its parents too."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    flush(path.parent)


def _raise_unless_missing(error: OSError) -> None:
    if error.errno != errno.ENOENT:
        raise error


@contextlib.contextmanager
def _explained(path: Path, verb: str) -> Iterator[None]:
    """Turn an error of the operating system into one line."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check the disk and the mount, then repeat")
        raise StorageError(f"'{path}' cannot be {verb} ({error.strerror}): {remedy}") from error
