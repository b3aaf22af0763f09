"""Objects under keys, in a folder or on S3, with the two conditional writes that everything durable here rests on.

`put_if_absent` is the commit of a version, `put_if_match` moves HEAD and renews a lease. Both treat bytes
that are already stored as given as written: after a lost answer and a retry, the conflict that a writer
sees can be its own success. Where two writers must never both win, their bytes have to differ (an owner,
a random token).
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from editing.errors import UsageError
from tasks.stores.errors import ObjectConflict, ObjectNotFound, StorageError

_SEGMENT = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,199}")
_LINE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_STALE_SECONDS = 24 * 3600.0


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

    def list(self, prefix: str) -> list[str]:
        """All keys that begin with `prefix`, sorted."""
        ...


def open_store(uri: str, *, endpoint_url: str | None = None, create: bool = False) -> ObjectStore:
    """The store at a folder path or `s3://bucket/prefix`; `create` makes a missing folder."""
    if uri.startswith("s3://"):
        # Imported here because a store in a folder does without boto3, which takes a while to import.
        from tasks.stores.s3 import S3Store

        return S3Store(uri, endpoint_url)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        raise StorageError(f"store '{uri}': unknown kind '{scheme}'; give a folder or s3://bucket/prefix")
    root = Path(rest if separator else uri).expanduser().absolute()
    if create:
        with _explained(root, "made"):
            root.mkdir(parents=True, exist_ok=True)
    return FolderStore(root)


def check_line(line: str) -> str:
    """The name of a line, refused with UsageError where it could not be part of a key."""
    if not _LINE.fullmatch(line) or ".." in line:
        raise UsageError(
            f"line {line[:80]!r}: a name has 1 to 63 characters of a-z, 0-9, '.', '_' and '-', "
            "and begins with a letter or digit; for example 'smollm2-memit'"
        )
    return line


def check_key(key: str) -> str:
    """A relative key of plain segments; refuses '..', absolute keys and hidden names."""
    if len(key) > 900 or not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise StorageError(
            f"key {key[:80]!r}: segments of letters, digits and '._=-' between single '/', none of them hidden"
        )
    return key


def canonical_json(value: Any) -> bytes:
    """One spelling for one value, so that equal values have equal digests. Raises ValueError on nan and inf."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def sha256(data: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()


class FolderStore:
    """Objects as files below one folder; safe for several processes of one machine.

    A file appears under its name whole or not at all: it is written beside, synced, then linked or renamed.
    What a killed writer leaves lies in `.tmp`, is never listed, and is swept after a day.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)
        self._check_root()
        self._sweep()

    def get(self, key: str) -> tuple[bytes, str]:
        path = self._path(key)
        with _explained(path, "read"):
            try:
                data = path.read_bytes()
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
        taken = False
        with self._written(path, data) as temporary:
            try:
                os.link(temporary, path)  # unlike a rename, fails where the name is taken
            except FileExistsError:
                taken = True
        if taken and self.get(key)[0] != data:
            raise ObjectConflict(f"object '{key}' in '{self.uri}' exists with other content")
        return sha256(data)

    def put_if_match(self, key: str, data: bytes, etag: str) -> str:
        path = self._path(key)
        with self._locked():
            found = self.get(key)[1] if path.is_file() else None
            if found == sha256(data):
                return found
            if found != etag:
                raise ObjectConflict(f"object '{key}' in '{self.uri}' was changed by another writer")
            with self._written(path, data) as temporary:
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

    def list(self, prefix: str) -> list[str]:
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        self._check_root()
        keys = []
        with _explained(start, "listed"):
            for parent, folders, files in os.walk(start, onerror=_raise_unless_missing):
                folders[:] = [name for name in folders if not name.startswith(".")]
                base = Path(parent).relative_to(self.root)
                keys += [(base / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(key for key in keys if key.startswith(prefix))

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
                _sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One compare-and-swap at a time; the kernel frees the lock of a killed process."""
        self._check_root()
        path = self.root / ".lock"
        with _explained(path, "locked"):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
            finally:
                os.close(handle)

    def _sweep(self) -> None:
        """Remove what killed writers left a day ago or earlier; a store that is only read is left as it is."""
        with contextlib.suppress(OSError):
            for path in (self.root / ".tmp").iterdir():
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink(missing_ok=True)


def _make_folder(path: Path) -> None:
    """A folder whose name survives a power cut; its parents too."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _raise_unless_missing(error: OSError) -> None:
    if error.errno != errno.ENOENT:
        raise error


_REMEDIES = {
    errno.EACCES: "give this user the right to, or choose another folder",
    errno.EPERM: "give this user the right to, or choose another folder",
    errno.EROFS: "mount it writable, or choose another folder",
    errno.ENOSPC: "free some space and repeat",
    errno.EDQUOT: "free some space and repeat",
    errno.ENOTDIR: "a file stands where a folder belongs; move it away",
    errno.EEXIST: "a file stands where a folder belongs; move it away",
}


@contextlib.contextmanager
def _explained(path: Path, verb: str) -> Iterator[None]:
    """Turn an error of the operating system into one line."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check the disk and the mount, then repeat")
        raise StorageError(f"'{path}' cannot be {verb} ({error.strerror}): {remedy}") from error
