"""Hypernetworks by reference: wherever one is, it becomes a file of the cache that its sha256 names.

A line knows its hypernetwork by digest alone, so that it means the same on every machine; where the file is, is found
when a job starts. In the store of snapshots a hypernetwork is `hypernetworks/<sha256>.safetensors`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from editing.config import MethodConfig
from editing.digests import sha256
from editing.errors import HypernetworkError, NoSuchHypernetwork, UsageError
from editing.files import write_atomically
from editing.methods.mend.files import network_bytes, parse_network
from editing.methods.mend.method import MendConfig
from tasks.settings import Settings
from tasks.stores.blobs import Blobs
from tasks.stores.checkpoints import Checkpoints
from tasks.stores.errors import DigestMismatch, ObjectNotFound, StorageError
from tasks.stores.objects import ObjectStore
from tasks.stores.opening import open_store
from tasks.stores.snapshots import HYPERNETWORKS

SUFFIX = ".safetensors"
TRAININGS = "trainings/"
_DIGEST = re.compile(rf"(?:{HYPERNETWORKS}/)?([0-9a-f]{{8,64}})(?:{re.escape(SUFFIX)})?")
_WHOLE = re.compile("[0-9a-f]{64}")
FORMS = (
    "a file, a folder with one, models:/NAME/VERSION, models:/NAME@ALIAS, runs:/RUN_ID/PATH, the sha256 of one in the "
    "store, or trainings/ID"
)


def resolved_options(method: str, options: Mapping[str, Any] | None, settings: Settings) -> dict[str, Any]:
    """A method's options; the reference `hypernetwork`, where there is one, becomes the digest of what it names.

    Raises:
        UsageError: a method that needs a hypernetwork is given none, or another one is.
        HypernetworkError: the reference names no hypernetwork.
    """
    found = dict(options or {})
    reference = found.pop("hypernetwork", None)
    if method != "mend":
        if reference is not None:
            raise UsageError(f"method {method} takes no hypernetwork; leave it out, or choose --method mend")
        return found
    if reference:
        found["hypernetwork_digest"] = resolve(str(reference), settings)
    if not found.get("hypernetwork_digest"):
        raise UsageError(f"method mend needs --hypernetwork REF ({FORMS}); errata train-mend makes one")
    return found


def resolve(reference: str, settings: Settings) -> str:
    """The sha256 of the hypernetwork that `reference` names; its file is in the cache then.

    A whole sha256 of what the cache has is its own answer: a reference that can come to mean another one (an alias, a
    file, a training that goes on) is resolved once, and its digest passed on.

    Raises:
        HypernetworkError: there is none, or it is broken.
        TrackingError, StorageError: a server or store cannot be reached.
    """
    if _WHOLE.fullmatch(reference) and _has(cached(settings, reference), reference):
        return reference
    data = _found(reference, settings)
    parse_network(data, reference)
    digest = sha256(data)
    write_atomically(cached(settings, digest), data)
    return digest


def cached(settings: Settings, digest: str) -> Path:
    """Where the cache has, or would have, the hypernetwork with this digest."""
    return settings.cache_folder / HYPERNETWORKS / f"{digest}{SUFFIX}"


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path.read_bytes()) == digest


def stored(store: ObjectStore) -> Blobs:
    """The hypernetworks of a store."""
    return Blobs(store, HYPERNETWORKS, SUFFIX)


def located(config: MethodConfig, settings: Settings) -> MethodConfig:
    """The configuration with the file of its hypernetwork: out of the cache, or fetched from the store.

    Raises:
        HypernetworkError: there is none with this digest, or its bytes are others.
    """
    if not isinstance(config, MendConfig) or config.hypernetwork or config.hypernetwork_digest is None:
        return config
    digest = config.hypernetwork_digest
    path = cached(settings, digest)
    if not _has(path, digest):
        write_atomically(path, _fetched(stored(_store(settings)), digest))
    return config.model_copy(update={"hypernetwork": str(path)})


def keep(store: ObjectStore, config: MethodConfig) -> None:
    """Store the hypernetwork of a located configuration, so that other machines find it by its digest."""
    if isinstance(config, MendConfig) and config.hypernetwork:
        data = Path(config.hypernetwork).read_bytes()
        if not stored(store).exists(sha256(data)):
            stored(store).put(data)


def _found(reference: str, settings: Settings) -> bytes:
    if reference.startswith(("models:/", "runs:/")):
        return _tracked(reference, settings)
    path = Path(reference).expanduser()
    if path.exists():
        return _file(path)
    if reference.startswith(TRAININGS):
        return _trained(reference, settings)
    if match := _DIGEST.fullmatch(reference):
        blobs = stored(_store(settings))
        digests = blobs.list(match[1])
        if len(digests) == 1:
            return _fetched(blobs, digests[0])
        raise NoSuchHypernetwork(
            f"{len(digests) or 'no'} hypernetworks in '{blobs.store.uri}' begin with {match[1]}; give {FORMS}"
        )
    raise NoSuchHypernetwork(f"there is no hypernetwork '{reference}'; give {FORMS}")


def _file(path: Path) -> bytes:
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"))
        if len(files) != 1:
            raise NoSuchHypernetwork(f"folder '{path}' holds {len(files)} {SUFFIX} files, not one; name the file")
        [path] = files
    try:
        return path.read_bytes()
    except OSError as error:
        raise NoSuchHypernetwork(f"cannot read hypernetwork '{path}' ({error.strerror}); give {FORMS}") from error


def _fetched(blobs: Blobs, digest: str) -> bytes:
    try:
        return blobs.get(digest)
    except ObjectNotFound as error:
        raise HypernetworkError(
            f"no hypernetwork {digest[:12]} in the cache or in '{blobs.store.uri}'; put its file there as "
            f"{blobs.key(digest)}, or name it with --hypernetwork"
        ) from error
    except DigestMismatch as error:
        raise HypernetworkError(str(error)) from error


def _trained(reference: str, settings: Settings) -> bytes:
    """The best checkpoint of a training, finished or not, without its optimiser."""
    try:
        found = Checkpoints(_store(settings), reference.removeprefix(TRAININGS).strip("/")).best()
    except StorageError as error:
        raise HypernetworkError(f"'{reference}': {error}") from error
    if found is None:
        raise NoSuchHypernetwork(f"'{reference}' has no checkpoint yet; give {FORMS}")
    return network_bytes(parse_network(found[1], reference)[0])


def _tracked(reference: str, settings: Settings) -> bytes:
    # Here, because few references need MLflow, and its room's imports take a while.
    from tasks.tracking.hypernetworks import HypernetworkTracker, check_reference
    from tasks.workplace import EXPERIMENT

    check_reference(reference)  # before MLflow is asked, which would make a database where there is none
    tracker = HypernetworkTracker(settings.mlflow_uri, settings.artifact_root, EXPERIMENT)
    run_id, path, digest = tracker.locate(reference)
    if digest is not None:
        try:
            return _fetched(stored(_store(settings)), digest)
        except HypernetworkError:
            pass  # another store: MLflow has a copy of its own
    data = tracker.download(run_id, path)
    if digest is not None and sha256(data) != digest:
        raise HypernetworkError(f"{reference} has sha256 {sha256(data)[:12]}, not {digest[:12]}; restore its artifact")
    return data


def _store(settings: Settings) -> ObjectStore:
    return open_store(settings.store_uri, endpoint_url=settings.s3_endpoint_url, create=True)
