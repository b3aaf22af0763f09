"""Versions of a line: tensors and manifests addressed by content, numbered versions, and HEAD.

    blobs/<sha256>.safetensors                the tensors of one update
    manifests/<sha256>.json                   what they are, and the parent they build on
    lines/<line>/versions/<8 digits>.json     created once: the commit of a batch
    lines/<line>/HEAD                         the version in service, moved by compare-and-swap
    lines/<line>/heads/<8 digits>-<12>.json   every earlier HEAD

Blob, manifest and version are written in this order, so a version that exists is whole whatever was killed.
"""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from tasks.stores.errors import DigestMismatch, HeadMoved, LineBusy, ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.manifest import Head, Manifest, Version, head_bytes, manifest_bytes
from tasks.stores.objects import ObjectStore, canonical_json, check_line, sha256

__all__ = ["Head", "Manifest", "SnapshotStore", "Version", "check_line"]

TENSORS = "update.safetensors"


class SnapshotStore:
    """Snapshots, versions and HEAD of all lines of one object store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._manifests: dict[str, Manifest] = {}  # addressed by content: never stale

    def publish(self, manifest: Manifest, tensors: Mapping[str, torch.Tensor]) -> Version:
        """Store the tensors and the manifest, then create the version; again with the same is success.

        Raises LineBusy when another job has created this version; then nothing of ours is in force.
        """
        if manifest.parent is not None:
            self.manifest(manifest.parent)
        blob = _tensor_bytes(tensors, f"version {manifest.version} of line '{manifest.line}'")
        manifest = manifest.model_copy(update={"files": {TENSORS: sha256(blob)}})
        data = manifest_bytes(manifest)
        snapshot = sha256(data)
        self.store.put(_blob_key(sha256(blob)), blob)
        self.store.put(_manifest_key(snapshot), data)
        try:
            self.store.put_if_absent(
                _version_key(manifest.line, manifest.version),
                canonical_json({"line": manifest.line, "version": manifest.version, "snapshot": snapshot}),
            )
        except ObjectConflict as error:
            other = self.version(manifest.line, manifest.version).manifest
            raise LineBusy(
                f"version {manifest.version} of line '{manifest.line}' exists already: created {other.created} by "
                f"flow run {other.flow_run_id}; this job changed nothing, run it again"
            ) from error
        return Version(manifest.version, snapshot, manifest)

    def lines(self) -> list[str]:
        """The lines that have a version, a HEAD or a job."""
        return sorted({key.split("/")[1] for key in self.store.list("lines/")})

    def versions(self, line: str) -> list[Version]:
        """All versions of the line in order."""
        return [self.version(line, number) for number in self._numbers(line)]

    def version(self, line: str, number: int) -> Version:
        """One version. Raises ObjectNotFound."""
        key = _version_key(check_line(line), number)
        try:
            data, _ = self.store.get(key)
        except ObjectNotFound as error:
            known = ", ".join(map(str, self._numbers(line))) or "none"
            raise ObjectNotFound(f"line '{line}' has no version {number}; it has: {known}") from error
        try:
            pointer = json.loads(data)
            snapshot = str(pointer["snapshot"])
        except (ValueError, KeyError, TypeError) as error:
            raise _broken(self.store, key) from error
        manifest = self.manifest(snapshot)
        if (manifest.line, manifest.version) != (line, number):
            raise StorageError(
                f"'{key}' in '{self.store.uri}' points to version {manifest.version} of line '{manifest.line}': "
                "restore it from a copy of the store"
            )
        return Version(number, snapshot, manifest)

    def next_number(self, line: str) -> int:
        """The number after the highest version of the line; 1 for a new line."""
        return max(self._numbers(line), default=0) + 1

    def manifest(self, snapshot: str) -> Manifest:
        """The manifest with this digest, verified. Raises ObjectNotFound, DigestMismatch."""
        if snapshot not in self._manifests:
            data = self._verified(_manifest_key(snapshot), snapshot)
            try:
                self._manifests[snapshot] = Manifest.model_validate_json(data)
            except ValidationError as error:
                raise _broken(self.store, _manifest_key(snapshot)) from error
        return self._manifests[snapshot]

    def chain(self, snapshot: str | None) -> list[Manifest]:
        """The manifests from the base up to this snapshot, oldest first; none for the base itself."""
        manifests: list[Manifest] = []
        while snapshot is not None:
            manifests.append(self.manifest(snapshot))
            snapshot = manifests[-1].parent
        return manifests[::-1]

    def tensors(self, manifest: Manifest) -> dict[str, torch.Tensor]:
        """The tensors of one manifest, their bytes verified before anything parses them. Raises DigestMismatch."""
        tensors: dict[str, torch.Tensor] = {}
        for name, digest in manifest.files.items():
            data = self._verified(_blob_key(digest), digest)
            try:
                tensors |= load_safetensors(data)
            except SafetensorError as error:
                raise StorageError(
                    f"'{name}' of version {manifest.version} of line '{manifest.line}' is no safetensors file; "
                    "nothing else is ever loaded"
                ) from error
        return tensors

    def head(self, line: str) -> Head | None:
        """HEAD of the line, or None where nothing was ever promoted."""
        key = _head_key(check_line(line))
        try:
            data, etag = self.store.get(key)
        except ObjectNotFound:
            return None
        return self._read_head(key, data).model_copy(update={"etag": etag})

    def heads(self, line: str, since: int = 0) -> list[Head]:
        """Every HEAD the line has had from this sequence on, oldest first, the present one last."""
        prefix = f"lines/{check_line(line)}/heads/"
        keys = [key for key in self.store.list(prefix) if int(key.removeprefix(prefix).partition("-")[0]) >= since]
        past = [self._read_head(key, self.store.get(key)[0]) for key in keys]
        head = self.head(line)
        return [item for item in past if head is None or item.token != head.token] + ([head] if head else [])

    def move_head(
        self,
        line: str,
        version: Version | None,
        expected: Head | None,
        action: Literal["promote", "rollback", "reject"],
        actor: str,
        reason: str,
        rejected: tuple[int, ...] = (),
    ) -> Head:
        """Put a version (None: the base) in service, if HEAD is still the one expected. Raises HeadMoved.

        To refuse what waits is a move, too, that leaves the version as it is: so all decisions have one order.

        The HEAD that goes is kept in the history before the swap, and the new one after it. A kill between
        the two loses nothing: the next move keeps it first, and `heads` counts HEAD itself in any case.
        """
        if version is not None and version.manifest.line != check_line(line):
            raise StorageError(f"version {version.number} belongs to line '{version.manifest.line}', not '{line}'")
        head = Head(
            line=check_line(line),
            sequence=expected.sequence + 1 if expected else 1,
            version=version.number if version else 0,
            snapshot=version.snapshot if version else None,
            previous=_previous(expected, action),
            action=action,
            rejected=rejected,
            actor=actor,
            reason=reason,
            moved=datetime.now(UTC),
            token=uuid.uuid4().hex,
        )
        data = head_bytes(head)
        try:
            if expected is None:
                etag = self.store.put_if_absent(_head_key(line), data)
            else:
                self._keep(expected)
                etag = self.store.put_if_match(_head_key(line), data, expected.etag)
        except ObjectConflict as error:
            # Kept already: our swap took effect, its answer was lost, and somebody has moved HEAD on since.
            if not self.store.exists(_past_key(head)):
                raise self._moved(line, expected) from error
            return head
        self._keep(head)
        return head.model_copy(update={"etag": etag})

    def _moved(self, line: str, expected: Head | None) -> HeadMoved:
        now = self.head(line)
        seen = f"version {expected.version}" if expected else "no version"
        found = f"by {now.actor} to version {now.version} at {now.moved:%Y-%m-%d %H:%M:%S} UTC" if now else "away"
        return HeadMoved(f"HEAD of line '{line}' was {seen} and was moved {found}: look at it and repeat")

    def _keep(self, head: Head) -> None:
        self.store.put(_past_key(head), head_bytes(head))

    def _read_head(self, key: str, data: bytes) -> Head:
        try:
            return Head.model_validate_json(data)
        except ValidationError as error:
            raise _broken(self.store, key) from error

    def _numbers(self, line: str) -> list[int]:
        prefix = f"lines/{check_line(line)}/versions/"
        names = (key.removeprefix(prefix).removesuffix(".json") for key in self.store.list(prefix))
        return sorted(int(name) for name in names if name.isdecimal())

    def _verified(self, key: str, digest: str) -> bytes:
        data, _ = self.store.get(key)
        if sha256(data) != digest:
            raise DigestMismatch(
                f"'{key}' in '{self.store.uri}': expected sha256 {digest}, found {sha256(data)}; "
                "restore it from a copy of the store, or roll back to a version that does not need it"
            )
        return data


def _tensor_bytes(tensors: Mapping[str, torch.Tensor], what: str) -> bytes:
    """One safetensors file, dtypes kept. Raises StorageError for a tensor that is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise StorageError(f"{what}: tensor '{name}' is not finite; nothing was stored, undo the batch")
    # safetensors refuses tensors that share memory, as slices of one factor do: hence the copies.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    return bytes(save_safetensors(copies))


def _blob_key(digest: str) -> str:
    return f"blobs/{digest}.safetensors"


def _manifest_key(snapshot: str) -> str:
    return f"manifests/{snapshot}.json"


def _version_key(line: str, number: int) -> str:
    return f"lines/{line}/versions/{number:08d}.json"


def _head_key(line: str) -> str:
    return f"lines/{line}/HEAD"


def _previous(expected: Head | None, action: str) -> int | None:
    """The version that was in service before the present one."""
    if expected is None:
        return None
    return expected.previous if action == "reject" else expected.version


def _past_key(head: Head) -> str:
    # The digest is part of the name so that a HEAD restored from a backup cannot overwrite another's entry.
    return f"lines/{head.line}/heads/{head.sequence:08d}-{sha256(head_bytes(head))[:12]}.json"


def _broken(store: ObjectStore, key: str) -> StorageError:
    return StorageError(
        f"'{key}' in '{store.uri}' cannot be read: it is damaged or of another version of Errata; "
        "restore it from a copy of the store"
    )
