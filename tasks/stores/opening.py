"""The store that an address names: a folder, or a bucket of S3."""

from pathlib import Path

from tasks.stores.errors import StorageError
from tasks.stores.folder import FolderStore
from tasks.stores.objects import ObjectStore


def open_store(uri: str, *, endpoint_url: str | None = None, create: bool = False) -> ObjectStore:
    """The store at a folder path or `s3://bucket/prefix`; `create` makes a missing folder.

    Raises:
        StorageError: the address names no store, or the folder is missing or cannot be made.
    """
    if uri.startswith("s3://"):
        # Imported here because a store in a folder does without boto3, which takes a while to import.
        from tasks.stores.s3 import S3Store

        return S3Store(uri, endpoint_url)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        raise StorageError(f"store '{uri}': unknown kind '{scheme}'; give a folder or s3://bucket/prefix")
    return FolderStore(Path(rest if separator else uri).expanduser().absolute(), create=create)
