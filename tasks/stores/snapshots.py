"""Versions of a line: tensors and manifests addressed by content, numbered versions, and HEAD.

    blobs/<sha256>.safetensors                the tensors of one update, or a root's values
    manifests/<sha256>.json                   what they are, and the parent they build on
    lines/<line>/versions/<8 digits>.json     created once: the commit of a batch
    lines/<line>/HEAD, lines/<line>/heads/    the version in service, and its history: see `heads`

Blob, manifest and version are written in this order, so a version that exists is whole whatever was killed. Everything
but HEAD is never changed, so it is read once.
"""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from editing.digests import sha256
from editing.errors import UsageError
from tasks.names import check_line
from tasks.stores.blobs import Blobs
from tasks.stores.errors import (
    DigestMismatch,
    Forgotten,
    LineBusy,
    ObjectConflict,
    ObjectNotFound,
    RecordError,
    StorageError,
)
from tasks.stores.forgotten import FOLDER, ForgottenVersion, forgotten_key, read_forgotten
from tasks.stores.heads import REPAIR, Heads, Move
from tasks.stores.manifest import Head, Manifest, Version, VersionPointer, manifest_bytes
from tasks.stores.objects import ObjectStore, at_once
from tasks.stores.records import read_record, record_bytes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Head", "Manifest", "SnapshotStore", "Version", "check_line"]

TENSORS = "update.safetensors"
VALUES = "values.safetensors"
"""What a root keeps apart, for whoever writes on: who only answers does without."""
BLOBS, MANIFESTS, HYPERNETWORKS, CALIBRATIONS = "blobs", "manifests", "hypernetworks", "calibrations"
"""Folders of the store."""


class SnapshotStore:
    """Snapshots, versions and HEAD of all lines of one object store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._blobs = Blobs(store, BLOBS)
        self._manifest_blobs = Blobs(store, MANIFESTS, ".json")
        self._heads = Heads(store)
        self._manifests: dict[str, Manifest] = {}  # addressed by content: never stale
        self._versions: dict[tuple[str, int], Version] = {}  # created once, and never replaced
        self._forgotten: dict[tuple[str, int], ForgottenVersion] = {}

    def publish(
        self, manifest: Manifest, tensors: "Mapping[str, Tensor]", values: "Mapping[str, Tensor] | None" = None
    ) -> Version:
        """Store the tensors and the manifest, then create the version; again with the same is success.

        `values` go into a file of their own.

        Raises:
            LineBusy: another job has created this version; then nothing of ours is in force.
            RecordError: a tensor is not finite, or the manifest could not be read again; nothing was stored.
        """
        from tasks.stores.tensors import tensor_bytes  # torch takes seconds, and who only looks does without

        if manifest.parent is not None:
            self.manifest(manifest.parent)
        named, files = f"version {manifest.version} of line '{manifest.line}'", {TENSORS: tensors}
        files |= {VALUES: values} if values else {}
        blobs = {name: tensor_bytes(some, named) for name, some in files.items()}
        manifest = manifest.model_copy(update={"files": {name: sha256(blob) for name, blob in blobs.items()}})
        data = manifest_bytes(manifest)
        pointer = VersionPointer(line=manifest.line, version=manifest.version, snapshot=sha256(data))
        for blob in blobs.values():
            self._blobs.put(blob)
        self._manifest_blobs.put(data)
        try:
            self.store.put_if_absent(version_key(manifest.line, manifest.version), record_bytes(pointer))
        except ObjectConflict as error:
            other = self.version(manifest.line, manifest.version).manifest
            raise LineBusy(
                f"version {manifest.version} of line '{manifest.line}' exists already: created {other.created} by "
                f"flow run {other.flow_run_id}; this job changed nothing, run it again"
            ) from error
        return Version(manifest.version, pointer.snapshot, manifest)

    def lines(self) -> list[str]:
        """The lines of which anything is stored but a job, such as one that found nothing to do."""
        keys = (key.split("/") for key in self.store.list("lines/"))
        return sorted({line for _, line, *rest in keys if rest != ["job.json"]})

    def numbers(self, line: str) -> list[int]:
        """The numbers of the line's versions, rising; reads none of them."""
        prefix = f"lines/{check_line(line)}/versions/"
        names = (key.removeprefix(prefix).removesuffix(".json") for key in self.store.list(prefix))
        return sorted(int(name) for name in names if name.isdecimal())

    def versions(self, line: str) -> list[Version]:
        """All versions of the line in order; at first look two objects each are read, later those that are new."""
        numbers = self.numbers(line)
        if unknown := [number for number in numbers if (line, number) not in self._versions]:
            at_once(partial(self.version, line), unknown)
        return [self.version(line, number) for number in numbers]

    def version(self, line: str, number: int) -> Version:
        """One version. Raises ObjectNotFound."""
        if (line, number) not in self._versions:
            self._versions[line, number] = self._read_version(check_line(line), number)
        return self._versions[line, number]

    def named_version(self, line: str, number: int) -> Version:
        """The version that somebody names by its number. Raises UsageError where the line has none of it."""
        if number and number not in self.numbers(line):
            raise UsageError(self._without(line, number))
        return self.version(line, number)

    def _without(self, line: str, number: int) -> str:
        return f"line '{line}' has no version {number}; it has: {', '.join(map(str, self.numbers(line))) or 'none'}"

    def next_number(self, line: str) -> int:
        """The number after the highest version of the line; 1 for a new line."""
        return max(self.numbers(line), default=0) + 1

    def manifest(self, snapshot: str) -> Manifest:
        """The manifest with this digest, verified. Raises ObjectNotFound, DigestMismatch."""
        if snapshot not in self._manifests:
            self._manifests[snapshot] = self._read_manifest(snapshot)
        return self._manifests[snapshot]

    def forgotten(self, snapshot: str | None) -> ForgottenVersion | None:
        """What is left of the first version whose tensors were taken away among those that a snapshot consists of, as
        it is now; None: all are there."""
        gone = {*self.store.list(f"{FOLDER}/")}
        while snapshot is not None:
            if forgotten_key(snapshot) in gone:
                return read_forgotten(self.store, snapshot)
            snapshot = self.manifest(snapshot).parent
        return None

    def snapshots(self) -> list[str]:
        """The digests of all manifests, those that no version points to included."""
        return self._manifest_blobs.list()

    def keys(self, snapshot: str) -> set[str]:
        """The objects that a snapshot consists of, without those of what it builds on."""
        manifest = self.manifest(snapshot)
        if (manifest.line, manifest.version) in self._forgotten:
            return {forgotten_key(snapshot)}
        return {self._manifest_blobs.key(snapshot), *map(self._blobs.key, manifest.files.values())}

    def chain(self, snapshot: str | None) -> list[Manifest]:
        """The manifests from the base up to this snapshot, oldest first; none for the base itself.

        Raises:
            RecordError: one builds on what is no earlier version of its line.
        """
        manifests: list[Manifest] = []
        while snapshot is not None:
            manifests.append(self.manifest(snapshot))
            snapshot = manifests[-1].parent
        for above, below in pairwise(manifests):
            if below.line != above.line or below.version >= above.version:
                raise RecordError(
                    f"version {above.version} of line '{above.line}' builds on version {below.version} of line "
                    f"'{below.line}', and cannot: restore it from a copy of the store"
                )
        return manifests[::-1]

    def past(self, snapshot: str | None, most: int) -> list[Manifest]:
        """The manifests of the newest `most` snapshots that came to this one, it included, oldest first: a root follows
        what it was made to take the place of. They begin above one that cannot be read."""
        manifests: list[Manifest] = []
        while snapshot is not None and len(manifests) < most:
            try:
                manifests.append(self.manifest(snapshot))
            except (ObjectNotFound, DigestMismatch):  # nothing stands on what lies below a root
                break
            snapshot = manifests[-1].follows
        return manifests[::-1]

    def tensors(self, manifest: Manifest, *, values: bool = True) -> "dict[str, Tensor]":
        """The tensors of one manifest, their bytes verified before anything parses them.

        `values`: those of a root that lie apart, too; who does not write on needs none.

        Raises:
            DigestMismatch: the bytes are not those that were stored.
            Forgotten: they were taken away, since a fact was forgotten.
        """
        from tasks.stores.tensors import parsed  # as in `publish`

        if (gone := self._forgotten.get((manifest.line, manifest.version))) is not None:
            raise Forgotten(gone.sentence)
        found: dict[str, Tensor] = {}
        for name, digest in manifest.files.items():
            if name == VALUES and not values:
                continue
            what = f"'{name}' of version {manifest.version} of line '{manifest.line}'"
            found |= parsed(self._blobs.get(digest), what)
        return found

    def head(self, line: str) -> Head | None:
        """HEAD of the line, or None where nothing was ever promoted; see `Heads.head`.

        Raises:
            RecordError: it cannot be read, or names what is not that version of this line.
        """
        head = self._heads.head(line)
        if head is not None and head.snapshot is not None:
            self._check_named(head, head.snapshot)
        return head

    def _check_named(self, head: Head, snapshot: str) -> None:
        try:
            named = self.manifest(snapshot)
        except StorageError:
            return  # whoever reads it says what is wrong with it
        if (named.line, named.version) != (head.line, head.version):
            raise RecordError(
                f"HEAD of line '{head.line}' in '{self.store.uri}' says version {head.version} and names version "
                f"{named.version} of line '{named.line}': restore it from a copy of the store"
            )

    def heads(self, line: str, since: int = 0) -> list[Head]:
        """Every HEAD the line has had from this sequence on, oldest first, the present one last."""
        return self._heads.heads(line, since)

    def past_heads(self, line: str) -> list[Head]:
        """The HEADs that are recorded, oldest first; asked where HEAD itself may be damaged."""
        return self._heads.recorded(line)

    def move_head(
        self,
        line: str,
        version: Version | None,
        expected: Head | None,
        action: Literal["promote", "rollback", "reject"],
        actor: str,
        reason: str,
        rejected: tuple[int, ...] = (),
        way: str = "",
    ) -> Head:
        """Put a version (None: the base) in service, if HEAD is still the one expected; see `Heads.move`.

        Raises:
            Forgotten: what it consists of was taken away.
        """
        self.check_there(version.snapshot if version else None)
        return self._heads.move(line, expected, Move(version, action, actor, reason, rejected, way))

    def check_there(self, snapshot: str | None) -> None:
        """Raises Forgotten where what a version consists of was taken away."""
        if (gone := self.forgotten(snapshot)) is not None:
            raise Forgotten(gone.sentence)

    def repair_head(self, line: str, actor: str = "errata repair") -> Head:
        """Put the last recorded HEAD back where it is damaged or gone; see `Heads.repair`."""
        return self._heads.repair(line, actor)

    def _read_manifest(self, snapshot: str) -> Manifest:
        try:
            data, where = self._manifest_blobs.get(snapshot), self._manifest_blobs.key(snapshot)
        except ObjectNotFound:
            if (gone := read_forgotten(self.store, snapshot)) is None:
                raise
            self._forgotten[gone.manifest.line, gone.manifest.version] = gone
            return gone.manifest
        return read_record(Manifest, data, f"'{where}' in '{self.store.uri}'")

    def _read_version(self, line: str, number: int) -> Version:
        key = version_key(line, number)
        try:
            data, _ = self.store.get(key)
        except ObjectNotFound as error:
            raise ObjectNotFound(self._without(line, number)) from error
        pointer = read_record(
            VersionPointer, data, f"'{key}' in '{self.store.uri}'", f"'{REPAIR} {line}' makes it again"
        )
        manifest = self.manifest(pointer.snapshot)
        if (manifest.line, manifest.version) != (line, number):
            raise StorageError(
                f"'{key}' in '{self.store.uri}' points to version {manifest.version} of line '{manifest.line}': "
                "restore it from a copy of the store"
            )
        return Version(number, pointer.snapshot, manifest)


def version_key(line: str, number: int) -> str:
    """Where the object is whose creation commits a version."""
    return f"lines/{line}/versions/{number:08d}.json"
