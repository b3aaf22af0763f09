"""What became of a version, and by whom: read from the records of HEAD, which are written before anything else."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.ledger.view import LineView, lineage
from tasks.stores.errors import Forgotten
from tasks.stores.manifest import Head, Version
from tasks.stores.snapshots import SnapshotStore

Way = Literal[
    "command line",
    "Prefect's form",
    "run in Prefect",
    "tag in MLflow",
    "review queue of MLflow",
    "no answer in time",
    "auto_approve",
    "promotion",
]
"""How a decision was made, as HEAD records it and as people read it."""


@dataclass(frozen=True)
class By:
    """Who decides, and how."""

    actor: str
    way: Way = "command line"


@dataclass(frozen=True)
class Decided:
    """The first decision on a version; `stranded` is one that was none on it, but took away what it is built on."""

    version: int
    outcome: Literal["approved", "rejected", "stranded"]
    head: Head

    @property
    def sentence(self) -> str:
        """Who decided, when, how and why, for a person."""
        head = self.head
        how = f" ({head.way})" if head.way else ""
        when, why = f"{head.moved:%Y-%m-%d %H:%M:%S} UTC{how}", f": {head.reason}" if head.reason else ""
        if self.outcome != "stranded":
            return f"version {self.version} of line '{head.line}' was {self.outcome} by {head.actor} at {when}{why}"
        return (
            f"version {self.version} of line '{head.line}' waits no more: {head.actor} moved HEAD to version "
            f"{head.version} at {when}{why}"
        )


def decided(store: SnapshotStore, view: LineView, number: int, history: Sequence[Head] | None = None) -> Decided | None:
    """The first decision on a version; None while it waits, or where there is no such version.

    Args:
        history: Every HEAD of the line, where many versions are asked about; None: it is read.
    """
    version = view.versions.get(number)
    if version is None or number in {one.number for one in view.waiting}:
        return None
    since = version.manifest.based_on or 0
    heads = store.heads(view.line, since) if history is None else [head for head in history if head.sequence >= since]
    for head in heads:
        if number in head.rejected:
            return Decided(number, "rejected", head)
        if number in {manifest.version for manifest in store.chain(head.snapshot)}:
            return Decided(number, "approved", head)
    took = next((head for head in heads if _takes_away(view, version, head)), heads[-1] if heads else None)
    return Decided(number, "stranded", took) if took else None


def _takes_away(view: LineView, version: Version, head: Head) -> bool:
    """Whether a version can no more be put in service after this move, though the move does not speak of it."""
    below = {one.number for one in lineage(view, version.manifest.follows)}
    made_for = version.manifest.based_on or 0
    away = head.snapshot is not None and head.version not in below
    return head.sequence > made_for and bool(below & {*head.rejected} or away or head.action == "rollback")


def before_first(store: SnapshotStore, view: LineView, heads: Sequence[Head], version: int) -> int:
    """What was in service before a version came for the first time and can be served still; at last the base."""
    found = _before_first(view, heads, version)
    while found and store.forgotten(view.versions[found].snapshot) is not None:
        found = _before_first(view, heads, found)
    return found


def _before_first(view: LineView, heads: Sequence[Head], version: int) -> int:
    """Always an older one."""
    for head in heads:
        if head.version == version and head.action == "promote":
            return head.previous or 0
    parent = view.versions[version].manifest.parent if version else None
    return view.by_snapshot[parent].number if parent else 0


def choice(store: SnapshotStore, view: LineView, served: Collection[int]) -> str:
    """Which version to go back to instead, of those that were ever in service: what is forgotten is none of them."""
    present = view.head.version if view.head else 0
    numbers = [number for number in sorted({0, *served}) if number != present and _is_there(store, view, number)]
    return f"choose one of {', '.join(map(str, numbers))}" if numbers else "there is no other to go back to"


def check_there(store: SnapshotStore, view: LineView, target: int, served: Collection[int]) -> None:
    """Raises Forgotten, with what to choose instead, where a version can be served no more."""
    if target in view.versions and (gone := store.forgotten(view.versions[target].snapshot)) is not None:
        raise Forgotten(f"{gone.sentence}; {choice(store, view, served)}")


def _is_there(store: SnapshotStore, view: LineView, number: int) -> bool:
    return number not in view.versions or store.forgotten(view.versions[number].snapshot) is None
