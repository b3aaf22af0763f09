"""Files and folders that are whole or absent."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from editing.errors import UsageError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write or replace; when the block ends, it is flushed to the disk and renamed to `path`.

    So a reader or a crash never sees half of it. Only its owner may read it (mode 0600).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        flush(Path(name))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes as `whole_file` does."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to write into; when the block ends, all of it is flushed to the disk and it is renamed to `target`.

    It is a sibling, `.NAME.unfinished`, so a reader or a crash never sees half of it, and what a killed process left is
    taken away by the next that writes there. Only its owner may open it (mode 0700).

    Raises:
        UsageError: `target` is there and not empty, or is no folder; or another process is about to write it.
    """
    target = target.expanduser().absolute()
    _check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.unfinished")
    work.mkdir(mode=0o700, exist_ok=True)
    with _held(work, target):
        try:
            _emptied(work)
            yield work
            for path in (*sorted(work.rglob("*")), work):
                flush(path)
            _check_free(target)
            os.rename(work, target)
            flush(target.parent)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def _check_free(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        if any(target.iterdir()):
            raise UsageError(f"folder '{target}' is not empty; name a new one, or empty it")
    elif os.path.lexists(target):
        raise UsageError(f"'{target}' is there, and no folder; name a new one")


@contextmanager
def _held(work: Path, target: Path) -> Iterator[None]:
    """The lock on a folder, which the system lets go when the process ends, however it ends."""
    busy = f"another process is writing '{target}': let it end, or name another folder"
    try:
        handle = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError as error:  # it has just been finished
        raise UsageError(busy) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not work.is_dir() or os.fstat(handle).st_ino != work.stat().st_ino:
            raise BlockingIOError
        yield
    except BlockingIOError as error:
        raise UsageError(busy) from error
    finally:
        os.close(handle)


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
