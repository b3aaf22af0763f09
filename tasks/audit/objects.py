"""The objects of a line in the store: each there, readable, and the bytes that its digest names."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from editing.progress import OnProgress
from tasks.audit.findings import Findings
from tasks.lines.rules import read_rules
from tasks.lines.specs import read_line
from tasks.review.votes import votes
from tasks.stores.blobs import Blobs
from tasks.stores.errors import ObjectNotFound
from tasks.stores.heads import past_key, sequence_of
from tasks.stores.lease import LeaseRecord
from tasks.stores.manifest import Head, Manifest, Version
from tasks.stores.records import read_record
from tasks.stores.snapshots import BLOBS, HYPERNETWORKS, MANIFESTS, SnapshotStore
from tasks.watch.memory import WatchRecord

RECORDS: dict[str, type[BaseModel]] = {"job.json": LeaseRecord, "watch.json": WatchRecord}


class Objects:
    """The store, gone through line by line; an object that several versions share is read once."""

    def __init__(self, store: SnapshotStore) -> None:
        self.store = SnapshotStore(store.store)  # a new one, which remembers nothing
        self.verified: set[str] = set()

    def audit_line(self, line: str, found: Findings, tell: OnProgress) -> None:
        """Every object of a line; what is damaged or gone is named, and the rest is looked at all the same."""
        with found.tried():
            if read_line(self.store.store, line) is None and self.store.numbers(line):
                found.fault(f"line '{line}' has versions and no definition: restore lines/{line}/line.json from a copy")
        head = self._head(line, found)
        numbers = self.store.numbers(line)
        last = max([*numbers, head.version if head else 0], default=0)  # they are numbered without a gap
        for number in range(1, last + 1):
            with found.tried():
                self._version(self.store.version(line, number), found)
            tell(number, last)
        if head and head.version in numbers:
            with found.tried():
                self._check_head(head, self.store.version(line, head.version), found)
        self._records(line, found)

    def audit_rest(self, found: Findings, tell: OnProgress, *, whole: bool) -> None:
        """What belongs to no line: hypernetworks by digest; where all lines were looked at, what none leads to."""
        objects = self.store.store
        blobs = Blobs(objects, HYPERNETWORKS)
        digests = blobs.list()
        for done, digest in enumerate(digests):
            found.count("objects")
            with found.tried():
                blobs.get(digest)
            tell(done + 1, len(digests))
        stray = [key for folder in (BLOBS, MANIFESTS) for key in objects.list(f"{folder}/") if key not in self.verified]
        if stray and whole and not found.found:
            found.note(f"{len(stray)} objects that no version leads to, {stray[0]} first: `errata maintain` takes them")

    def _version(self, version: Version, found: Findings) -> None:
        """Its manifest and those that it is built on, and the bytes of every file."""
        found.count("versions")
        if (gone := self.store.forgotten(version.snapshot)) is not None:
            found.note(gone.sentence)
        for manifest in self._unseen(version.snapshot):
            for name, digest in manifest.files.items():
                what = f"'{name}' of version {manifest.version} of line '{manifest.line}'"
                with found.tried():
                    self._verify(digest, what, found)
            if network := _hypernetwork(manifest.config):
                key, what = f"{HYPERNETWORKS}/{network}.safetensors", f"the hypernetwork of line '{manifest.line}'"
                if not self.store.store.exists(key):
                    found.fault(str(self._gone(key, what)))

    def _unseen(self, snapshot: str | None) -> list[Manifest]:
        manifests = []
        while snapshot is not None and (key := f"{MANIFESTS}/{snapshot}.json") not in self.verified:
            manifests.append(self.store.manifest(snapshot))
            self.verified.add(key)  # of its files, each when it is verified
            snapshot = manifests[-1].parent
        return manifests

    def _verify(self, digest: str, what: str, found: Findings) -> None:
        key = f"{BLOBS}/{digest}.safetensors"
        if key in self.verified:
            return
        self.verified.add(key)
        try:
            Blobs(self.store.store, BLOBS).get(digest)
        except ObjectNotFound as error:
            raise self._gone(key, what) from error
        found.count("objects")

    def _gone(self, key: str, what: str) -> ObjectNotFound:
        return ObjectNotFound(f"{what} is gone: restore '{key}' in '{self.store.store.uri}' from a copy")

    def _head(self, line: str, found: Findings) -> Head | None:
        """HEAD, and every one before it: none damaged, none missing, each under the name that its bytes have."""
        head: Head | None = None
        with found.tried():
            head = self.store.head(line)
        recorded: set[int] = set()
        keys = self.store.store.list(f"lines/{line}/heads/")
        for key in keys:
            found.count("objects")
            with found.tried():
                where = f"'{key}' in '{self.store.store.uri}'"
                recorded.add(sequence_of(key))  # of one that is damaged, too, which is not missing
                past = read_record(Head, self.store.store.get(key)[0], where)
                if past_key(past) != key:
                    found.fault(f"{where} holds another HEAD than its name says: restore it from a copy of the store")
        if head is not None and (lost := {*range(1, head.sequence)} - recorded):
            found.fault(
                f"HEAD number {min(lost)} of line '{line}' is gone from its history ({len(lost)} of {head.sequence} "
                f"are): restore lines/{line}/heads/ from a copy of the store"
            )
        if head is not None and max(recorded, default=0) > head.sequence:
            found.fault(
                f"HEAD of line '{line}' (number {head.sequence}) is older than its history (number {max(recorded)}): "
                f"restore lines/{line}/HEAD from heads/ or a copy of the store"
            )
        if head is not None and head.sequence in recorded and past_key(head) not in keys:
            found.fault(
                f"HEAD of line '{line}' (number {head.sequence}) is not as it was recorded: "
                f"restore lines/{line}/HEAD from heads/ or a copy of the store"
            )
        return head

    def _check_head(self, head: Head, version: Version, found: Findings) -> None:
        if head.snapshot != version.snapshot:
            found.fault(
                f"HEAD of line '{head.line}' names version {head.version} and the snapshot of another: "
                f"restore lines/{head.line}/HEAD from a copy"
            )

    def _records(self, line: str, found: Findings) -> None:
        objects = self.store.store
        for name, kind in RECORDS.items():
            key = f"lines/{line}/{name}"
            if objects.exists(key):
                found.count("objects")
                with found.tried():
                    read_record(kind, objects.get(key)[0], f"'{key}' in '{objects.uri}'")
        with found.tried():
            read_rules(objects, line)
        voted = {key.split("/")[3] for key in objects.list(f"lines/{line}/votes/")}
        for folder in sorted(voted):
            with found.tried():
                number = int(folder.partition("-")[0])
                found.count("objects", len(votes(objects, line, self.store.version(line, number))))


def _hypernetwork(config: Mapping[str, Any]) -> str:
    return str(config.get("hypernetwork_digest") or "")
