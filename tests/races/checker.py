"""Do HEAD, the ledger and MLflow's aliases of a line say the same? Decided from what is stored alone.

Nothing of Errata is imported, so that no fault of its own reading can hide one of its writing. Read are, of a home in a
folder (`Home`; `tests.services.place` reads the same from an S3 server and MLflow's):

    snapshots/lines/LINE/HEAD                  version, snapshot and previous version in service
    snapshots/lines/LINE/heads/*.json          those before it: which versions they refused
    snapshots/lines/LINE/versions/*.json       number and snapshot of every version
    snapshots/manifests/SNAPSHOT.json          parent and requests of a snapshot; of a root, what it comes after, its
                                               facts, and which it takes out
    ledger/                                    the Delta table of events
    mlflow.db                                  registered_model_aliases, model_version_tags

What the ledger says of a request is its latest event of this line. Events are ordered by (commit, sequence) where a
row has a commit number; rows without one, of releases that had none, come before them by (time, sequence, event_id).
Of rows with one event_id the first counts.

They agree when all of these hold. `passed` are HEAD's version and all that it comes after, by parent, or by `after`
where a root was made anew from the base. `served` are the newest of them, down to the newest root:

    1. every fact of a served version is `promoted` (those of a root are its `live` ones, then come the requests and the
       facts written back of the versions on it), and HEAD's snapshot is the one that its version has. What one of
       the passed versions takes out and none holds since is in a state that is out, its removal `promoted`
    2. a version that is not passed has all its requests in one state, if its own events are their latest
       - `committed`: it waits, so it must follow HEAD's snapshot or another that waits: anything else can never be
         approved without what was refused or taken out. One that has no requests of its own waits where it can,
         if it was not refused and the newest version follows it
       - `rejected`, `rolled_back`, `superseded`, `retracted`, `withdrawn`: it is out
       - anything else (`approved` and `promoted` above all) is wrong
       a request may have moved on since: queued again, or written in a newer version, which then answers for it
    3. alias champion is HEAD's version, previous is HEAD's previous one, challenger the newest that waits;
       where there is none (0 is the base), the alias is absent. An alias means the line version, and the snapshot, in
       the tags of the MLflow version that it points to.
"""

import json
import sqlite3
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import duckdb
from deltalake import DeltaTable

OUT = {"rejected", "rolled_back", "superseded", "retracted", "withdrawn"}
ALIASES = ("champion", "previous", "challenger")


class Place(Protocol):
    """Where an installation keeps what is read."""

    def read(self, key: str) -> bytes | None:
        """An object of the store by its key."""

    def keys(self, prefix: str) -> list[str]:
        """Keys of the store that begin so."""

    def ledger(self) -> DeltaTable: ...

    def aliases(self, line: str) -> dict[str, tuple[int, str]]:
        """Line version and snapshot behind each alias that is set."""


@dataclass(frozen=True)
class Home:
    """A home in a folder, MLflow's database in it."""

    folder: Path

    def read(self, key: str) -> bytes | None:
        path = self.folder / "snapshots" / key
        return path.read_bytes() if path.exists() else None

    def keys(self, prefix: str) -> list[str]:
        found = (self.folder / "snapshots" / prefix).glob("**/*")
        return [path.relative_to(self.folder / "snapshots").as_posix() for path in found if path.is_file()]

    def ledger(self) -> DeltaTable:
        return DeltaTable(self.folder / "ledger")

    def aliases(self, line: str) -> dict[str, tuple[int, str]]:
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as database:
            rows = database.execute(ALIASES_OF_A_LINE, (line,)).fetchall()
        return {alias: (int(number or 0), snapshot or "") for alias, number, snapshot in rows}


ALIASES_OF_A_LINE = """
    SELECT alias, number.value, snapshot.value FROM registered_model_aliases AS aliases
    LEFT JOIN model_version_tags AS number ON number.name = aliases.name
        AND number.version = aliases.version AND number.key = 'errata.version'
    LEFT JOIN model_version_tags AS snapshot ON snapshot.name = aliases.name
        AND snapshot.version = aliases.version AND snapshot.key = 'errata.snapshot'
    WHERE aliases.name = ?"""


@dataclass(frozen=True)
class Version:
    """A version as its files say."""

    number: int
    snapshot: str
    parent: str | None
    requests: tuple[str, ...]
    """Those that change it: facts that it adds, and removals."""
    live: tuple[str, ...] | None = None
    """All facts of a root."""
    after: str | None = None
    """Of a root, what it takes the place of."""
    removals: frozenset[str] = frozenset()
    removed: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    """Facts of before that it writes again."""

    @property
    def follows(self) -> str | None:
        return self.parent if self.live is None else self.after

    @property
    def adds(self) -> set[str]:
        return {*self.requests} - self.removals | {*self.restored} | {*(self.live or ())}


@dataclass(frozen=True)
class Last:
    """The latest event of a request, and the version that it or one before it names, since it was last queued."""

    event: str
    version: int | None


def faults(where: Path | Place, line: str, *, aliases: bool = True) -> list[str]:
    """What does not agree, a sentence each; empty when all does. `aliases`: those of MLflow, too."""
    home = Home(where) if isinstance(where, Path) else where
    head, versions, last = read_head(home, line), read_versions(home, line), read_last(home, line)
    by_snapshot = {version.snapshot: version for version in versions.values()}
    passed = lineage(by_snapshot, head["snapshot"] if head else None)
    found = _service(head, versions, passed, last)
    waiting: list[Version] = []
    follow = {one.number for one in lineage(by_snapshot, versions[max(versions)].snapshot if versions else None)}
    empty = {number for number, one in versions.items() if not one.requests} & follow - refused(home, line)
    for version in versions.values():
        if version not in passed:
            found += _out_of_service(version, {head["snapshot"] if head else None}, last, waiting, empty)
    challenger = max((one.number for one in waiting), default=None)
    return found + (_aliases(home, line, head, versions, challenger) if aliases else [])


def _service(
    head: dict[str, Any] | None, versions: dict[int, Version], passed: list[Version], last: dict[str, Last]
) -> list[str]:
    """Faults of what HEAD serves, and of what that took out on its way."""
    found = []
    if head and head["version"] and versions[head["version"]].snapshot != head["snapshot"]:
        found.append(f"HEAD names version {head['version']} and the snapshot of another")
    held: dict[str, int] = {}
    gone: dict[str, int] = {}
    for version in reversed(passed):  # oldest first
        held = dict.fromkeys(version.live, version.number) if version.live is not None else held
        held |= dict.fromkeys(version.adds, version.number)
        gone |= dict.fromkeys(version.removed, version.number)
    done = {request: version.number for version in passed for request in version.removals}
    for request, number in (held | done).items():
        said = last[request].event if request in last else "unknown"
        if said != "promoted":
            found.append(f"{request} of version {number} is in service and the ledger says {said}")
    for request, number in gone.items():
        one = last.get(request)
        if request not in held and one and one.event not in OUT and (one.version or number + 1) <= number:
            found.append(f"{request} was taken out by version {number} and the ledger says {one.event}")
    return found


def _out_of_service(
    version: Version, tip: set[str | None], last: dict[str, Last], waiting: list[Version], empty: set[int]
) -> list[str]:
    """Faults of a version that HEAD does not serve; it joins `waiting` if it waits.

    `empty`: versions without a request of their own that would wait where they follow what does.
    """
    follows = version.follows in tip | {one.snapshot for one in waiting}
    said = {last[r].event if r in last else "unknown" for r in version.requests if _answers_for(version, last.get(r))}
    if len(said) > 1:
        return [f"requests of version {version.number} are {' and '.join(sorted(said))}"]
    if said == {"committed"} and not follows:
        return [f"version {version.number} is committed and cannot wait: it does not build on HEAD"]
    if said == {"committed"} or (version.number in empty and follows):
        waiting.append(version)
    elif not said <= OUT:
        return [f"version {version.number} is not in service and the ledger says {said.pop()}"]
    return []


def _answers_for(version: Version, last: Last | None) -> bool:
    """Whether it is still this version that the request's state speaks of."""
    return last is None or last.version == version.number


def _aliases(
    home: Place, line: str, head: dict[str, Any] | None, versions: dict[int, Version], challenger: int | None
) -> list[str]:
    wanted = {
        "champion": head["version"] or None if head else None,
        "previous": head["previous"] or None if head else None,
        "challenger": challenger,
    }
    present = home.aliases(line)
    found = []
    for alias in ALIASES:
        number = wanted[alias]
        expected = None if number is None else (number, versions[number].snapshot)
        if present.get(alias) != expected:
            is_now = present[alias][0] if alias in present else "absent"
            found.append(f"alias {alias} is {is_now}, it should be {number or 'absent'}")
    return found


def lineage(by_snapshot: dict[str, Version], snapshot: str | None) -> list[Version]:
    """A snapshot's version and all that it comes after, the newest first."""
    found = []
    while snapshot is not None:
        found.append(by_snapshot[snapshot])
        snapshot = found[-1].follows
    return found


def refused(home: Place, line: str) -> set[int]:
    """The versions that a decision refused."""
    keys = [key for key in home.keys(f"lines/{line}/heads/") if key.endswith(".json")]
    heads = [json.loads(home.read(key) or b"{}") for key in keys] + [read_head(home, line) or {}]
    return {number for head in heads for number in head.get("rejected", ())}


def read_head(home: Place, line: str) -> dict[str, Any] | None:
    stored = home.read(f"lines/{line}/HEAD")
    return None if stored is None else json.loads(stored)


def read_versions(home: Place, line: str) -> dict[int, Version]:
    """The versions of the line by number, in order."""
    found = {}
    for key in sorted(key for key in home.keys(f"lines/{line}/versions/") if key.endswith(".json")):
        pointer = json.loads(home.read(key) or b"")
        manifest = json.loads(home.read(f"manifests/{pointer['snapshot']}.json") or b"")
        number = int(pointer["version"])
        live = manifest.get("live")
        found[number] = Version(
            number,
            pointer["snapshot"],
            manifest["parent"],
            tuple(manifest["request_ids"]),
            None if live is None else tuple(live),
            manifest.get("after"),
            frozenset(manifest.get("removals", ())),
            tuple(manifest.get("removed", ())),
            tuple(manifest.get("restored", ())),
        )
    return found


def read_events(home: Place, line: str) -> list[dict[str, Any]]:
    """The events of the line in their order, each id once."""
    table = home.ledger()
    has_commit = "commit" in {field.name for field in table.schema().fields}
    number = '"commit"' if has_commit else "CAST(NULL AS BIGINT)"
    # A row without a number is of an earlier release, and so are all before it: NULLS FIRST.
    order = "number NULLS FIRST, CASE WHEN number IS NULL THEN time END, sequence, event_id"
    query = f"""
        WITH rows AS (SELECT event_id, request_id, event, version, time, sequence, {number} AS number
            FROM ledger WHERE line = $line),
        first AS (SELECT *, row_number() OVER (PARTITION BY event_id ORDER BY {order}) AS copy FROM rows)
        SELECT request_id, event, version FROM first WHERE copy = 1 ORDER BY {order}"""
    with duckdb.connect(":memory:") as connection:
        connection.register("ledger", table.to_pyarrow_dataset())
        rows: list[dict[str, Any]] = connection.sql(query, params={"line": line}).to_arrow_table().to_pylist()
    return rows


def read_last(home: Place, line: str) -> dict[str, Last]:
    """The latest event of each request."""
    found: dict[str, Last] = {}
    for row in read_events(home, line):
        name, version = row["request_id"], row["version"]
        if version is None and name in found and row["event"] not in {"received", "queued"}:
            version = found[name].version
        found[name] = Last(row["event"], version)
    return found


FINAL = {"promoted", "quarantined", "rejected", "rolled_back", "superseded", "retracted", "withdrawn"}


def unfinished(home: Place, line: str, submitted: Collection[str]) -> list[str]:
    """Which of the submitted requests are in no final state, or unknown, a sentence each; nothing else may be there."""
    last = read_last(home, line)
    lost = [f"{request} was submitted, and the ledger knows nothing of it" for request in {*submitted} - last.keys()]
    made_up = [f"{request} was never submitted" for request in last.keys() - {*submitted}]
    open_ones = [f"{name} is {said.event}" for name, said in last.items() if said.event not in FINAL]
    return lost + made_up + open_ones
