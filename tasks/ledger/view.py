"""One look at a line, and what follows from it by arithmetic.

`look` reads HEAD, the versions and where every request stands, once. What waits for review, what can wait no longer and
which events a killed process left out are functions of that view: a look writes nothing. Whoever decides or runs begins
with `catch_up` (tasks/ledger/catching_up.py), which writes what is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tasks.ledger.standings import LineEvents
from tasks.ledger.table import Ledger
from tasks.stores.errors import RecordError
from tasks.stores.heads import REPAIR
from tasks.stores.manifest import Head, Manifest, Version, members
from tasks.stores.snapshots import SnapshotStore


@dataclass(frozen=True)
class LineView:
    """A line at one moment."""

    line: str
    head: Head | None
    heads: tuple[Head, ...]
    """HEADs from the one on that the oldest undecided version was made for; the present one is the last."""
    versions: Mapping[int, Version]
    """By number, rising."""
    events: LineEvents

    @property
    def sequence(self) -> int:
        """The number of the present HEAD; 0 before the first."""
        return self.head.sequence if self.head else 0

    @property
    def serving(self) -> str | None:
        """The snapshot in service; None is the base."""
        return self.head.snapshot if self.head else None

    @cached_property
    def by_snapshot(self) -> dict[str, Version]:
        return {version.snapshot: version for version in self.versions.values()}

    @cached_property
    def served(self) -> frozenset[int]:
        """The version in service and those that it is built on."""
        return frozenset(manifest.version for manifest in chain(self, self.serving))

    @cached_property
    def passed(self) -> list[Version]:
        """The version in service and all that it comes after, oldest first: what it is built on, and what stood there
        before its root was made."""
        return lineage(self, self.serving)

    @cached_property
    def newest(self) -> list[Version]:
        """The newest version and all that it comes after. Whatever waited when it was made is among them, so none of
        the others can wait."""
        return lineage(self, self.versions[max(self.versions)].snapshot) if self.versions else []

    @cached_property
    def live(self) -> dict[str, int]:
        """The facts in service, oldest first, with the version that each is of."""
        return members(chain(self, self.serving))

    @cached_property
    def undecided(self) -> list[Version]:
        """The versions that nobody put in service or refused."""
        return [version for version in self.versions.values() if _is_undecided(self, version)]

    @cached_property
    def waiting(self) -> list[Version]:
        """The versions that wait for review, oldest first: undecided, one built on the other from HEAD on."""
        found: list[Version] = []
        tip = self.serving
        for version in self.undecided:
            if version.manifest.follows == tip and _climbed(self, version):
                found.append(version)
                tip = version.snapshot
        return found

    @cached_property
    def stranded(self) -> list[Version]:
        """The undecided versions that nobody could put in service any more."""
        waiting = {version.number for version in self.waiting}
        return [version for version in self.undecided if version.number not in waiting]

    @property
    def tip(self) -> str | None:
        """The newest snapshot that waits, or the one in service: what a new batch builds on."""
        return self.waiting[-1].snapshot if self.waiting else self.serving

    def holds(self, tip: str | None) -> bool:
        """Whether what was built on `tip` can still be put in service: it waits, or is in service itself."""
        return tip == self.serving or tip in {version.snapshot for version in self.waiting}


def look(store: SnapshotStore, ledger: Ledger, line: str, known: Mapping[str, LineEvents] | None = None) -> LineView:
    """The line as it stands now. `known`: what `ledger.look()` has just said, where several lines are looked at.

    In this order, whatever others do meanwhile: an event is written after the version or move that it tells of, and a
    version after the HEAD that it is made for.

    Raises:
        RecordError: a version that others or HEAD speak of is gone.
    """
    events = (ledger.look(line) if known is None else known).get(line, LineEvents())
    versions = {version.number: version for version in store.versions(line)}
    head = store.head(line)
    if head is not None and head.version not in {0, *versions}:  # it was made and put in service in between
        versions = {version.number: version for version in store.versions(line)}
    _check_whole(store, line, head, versions)
    view = LineView(line, head, (head,) if head else (), versions, events)
    made_for = [v.manifest.based_on for v in view.undecided if v.manifest.based_on is not None]
    if head is None or not made_for or min(made_for) >= head.sequence:
        return view
    past = [one for one in store.heads(line, since=min(made_for)) if one.sequence < head.sequence]
    return LineView(line, head, (*past, head), versions, events)


def _check_whole(store: SnapshotStore, line: str, head: Head | None, versions: Mapping[int, Version]) -> None:
    """Refuse a line that lacks a version: what is built on it must not be taken for stranded."""
    known = {version.snapshot for version in versions.values()}
    parents = {version.manifest.follows for version in versions.values()} - known - {None}
    spoken_of = {0, head.version, head.previous or 0, *head.rejected} if head else {0}
    lost = {*spoken_of - {0, *versions}, *(store.manifest(parent).version for parent in parents if parent)}
    if lost:
        raise RecordError(f"version {min(lost)} of line '{line}' is gone: '{REPAIR} {line}' makes its object again")


def chain(view: LineView, snapshot: str | None) -> list[Manifest]:
    """The manifests from the base up to this snapshot, oldest first."""
    manifests: list[Manifest] = []
    while snapshot is not None:
        manifests.append(view.by_snapshot[snapshot].manifest)
        snapshot = manifests[-1].parent
    return manifests[::-1]


def lineage(view: LineView, snapshot: str | None) -> list[Version]:
    """The versions up to this snapshot that come one after the other, oldest first, by way of roots, too."""
    found: list[Version] = []
    while snapshot is not None:
        found.append(view.by_snapshot[snapshot])
        snapshot = found[-1].manifest.follows
    return found[::-1]


def _is_undecided(view: LineView, version: Version) -> bool:
    if any(version.number in head.rejected for head in view.heads):
        return False
    if version.number in view.served:
        return False
    if version.manifest.request_ids:
        return any(waits(view, request, version.number) for request in version.manifest.request_ids)
    return version in view.newest


def waits(view: LineView, request: str, version: int) -> bool:
    """Whether the request is one of a version that the ledger knows no decision about."""
    if version not in view.events.committed:
        return True
    standing = view.events.standings.get(request)
    return standing is not None and standing.state == "committed" and standing.version == version


def _climbed(view: LineView, version: Version) -> bool:
    """Whether HEAD, since the version was made, only moved up what it is built on.

    A rollback below and forward again takes facts out in between: what was built on them is not brought back by it.
    """
    if version.manifest.based_on is None:
        return True  # of release 0.1, which writes `rolled_back` at every move of HEAD that strands a version
    below = [None, *(one.snapshot for one in lineage(view, version.manifest.follows))]
    places = {snapshot: place for place, snapshot in enumerate(below)}
    reached = 0
    for head in view.heads:
        if head.sequence >= version.manifest.based_on:
            place = places.get(head.snapshot, -1)
            if place < reached:
                return False
            reached = place
    return True
