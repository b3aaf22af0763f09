"""Where the parts of an installation lie: as files under relative names, in a folder or on S3."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from editing.errors import UsageError
from editing.files import write_atomically
from tasks.addresses import SCHEME, database_file
from tasks.settings import Settings
from tasks.stores.errors import ObjectNotFound, StorageError
from tasks.stores.objects import ObjectStore
from tasks.stores.opening import open_store


class Files(Protocol):
    """Files under relative names. Raises ObjectNotFound for one that is gone, StorageError or OSError else."""

    uri: str

    def list(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all."""
        ...

    def exists(self, name: str) -> bool: ...


class FolderFiles:
    """The files below a folder, but for hidden ones, which are what somebody has not finished. No link is followed."""

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root, str(root)

    def list(self) -> list[str]:
        return sorted(self._walk())

    def read(self, name: str) -> bytes:
        path = self.path(name)
        if path.is_symlink():
            raise StorageError(f"'{path}' is a link: put the file there itself")
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise ObjectNotFound(f"no file '{path}'") from error

    def write(self, name: str, data: bytes) -> None:
        write_atomically(self.path(name), data)

    def exists(self, name: str) -> bool:
        return self.path(name).is_file()

    def path(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or any(part.startswith(".") for part in parts):
            raise StorageError(f"'{name}' is no name of a file below '{self.root}'")
        return self.root.joinpath(*parts)

    def _walk(self) -> Iterator[str]:
        for parent, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            base = Path(parent).relative_to(self.root)
            for name in [*files, *(one for one in folders if Path(parent, one).is_symlink())]:
                if not name.startswith("."):
                    yield (base / name).as_posix()


class StoreFiles:
    """The objects of a store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.uri = store, store.uri

    def list(self) -> list[str]:
        return self.store.list("")

    def read(self, name: str) -> bytes:
        return self.store.get(name)[0]

    def write(self, name: str, data: bytes) -> None:
        self.store.put(name, data)

    def exists(self, name: str) -> bool:
        return self.store.exists(name)


@dataclass(frozen=True)
class Places:
    """The parts of an installation besides its store; None: it is kept by a server, and nothing here can reach it."""

    store: Files
    ledger: Files
    artifacts: Files | None
    mlflow: Path | None
    prefect: Path
    results: Files
    """What suspended runs of Prefect go on from."""
    home: Path

    @property
    def folders(self) -> list[Path]:
        every = (self.store, self.ledger, self.artifacts, self.results)
        return [Path(one.uri) for one in every if isinstance(one, FolderFiles)]


def places_of(settings: Settings) -> Places:
    """Where the settings say that everything is."""
    prefect = Path(os.environ["PREFECT_HOME"]).expanduser()
    kept_by_server = settings.mlflow_uri.startswith(("http://", "https://")) and not _is_reached(settings.artifacts)
    return Places(
        store=files_at(settings.store_uri, settings),
        ledger=files_at(settings.ledger_uri, settings),
        artifacts=None if kept_by_server else files_at(settings.artifact_root, settings),
        mlflow=database_file(settings.mlflow_uri),
        prefect=prefect / "prefect.db",
        results=FolderFiles(prefect / "storage"),
        home=settings.home_folder,
    )


def files_at(uri: str, settings: Settings) -> Files:
    """The files at a folder, file:// or s3:// address.

    Raises:
        UsageError: it is another kind of address.
    """
    if uri.startswith("s3://"):
        return StoreFiles(open_store(uri, endpoint_url=settings.s3_endpoint_url))
    if not _is_reached(uri):
        raise UsageError(f"'{uri}' is no folder and no s3:// address: copy it by its own means")
    return FolderFiles(Path(unquote(urlsplit(uri).path) if SCHEME.match(uri) else uri).expanduser().absolute())


def _is_reached(address: str) -> bool:
    """Whether files at an address can be copied from here; none is there where it is empty."""
    scheme = SCHEME.match(address)
    return bool(address) and (scheme is None or scheme[0].lower() in ("file", "s3"))
