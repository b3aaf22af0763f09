"""The checker of the races finds nothing in a good home, and each kind of disagreement where it was made."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from tests.homes.archive import unpack
from tests.races.checker import Home, faults, read_versions, unfinished
from tests.races.trial import ARCHIVE

LATER = datetime.now(UTC) + timedelta(days=1)
EARLIER = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Version 1 in service, 2 taken out, 3 refused, 4 waiting."""
    return unpack(ARCHIVE, tmp_path / "home").home


def add(home: Path, *events: dict[str, Any], **more: Any) -> None:
    """Append raw events of line main, a day later than all others."""
    table = DeltaTable(home / "ledger")
    rows = [{"event_id": f"new-{i}", "time": LATER, "sequence": i, "line": "main", "actor": "eve"} | event | more
            for i, event in enumerate(events)]  # fmt: skip
    names = {name for row in rows for name in row}
    schema = pa.schema([field for field in pa.schema(table.schema().to_arrow()) if field.name in names])
    if "commit" in names and "commit" not in schema.names:
        schema = schema.append(pa.field("commit", pa.int64()))
    write_deltalake(table, pa.Table.from_pylist(rows, schema=schema), mode="append", schema_mode="merge")


def say(request: str, event: str, version: int) -> Callable[[Path], None]:
    return lambda home: add(home, {"request_id": request, "event": event, "version": version})


def move_head(version: int) -> Callable[[Path], None]:
    """HEAD goes to that version and nothing follows."""

    def change(home: Path) -> None:
        line = home / "snapshots/lines/main"
        snapshot = json.loads((line / f"versions/{version:08d}.json").read_text())["snapshot"] if version else None
        head = json.loads((line / "HEAD").read_text()) | {"version": version, "snapshot": snapshot, "previous": 1}
        (line / "HEAD").write_text(json.dumps(head))

    return change


def alias(name: str, action: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        with closing(sqlite3.connect(home / "mlflow.db")) as database, database:
            database.execute(f"{action} WHERE name = 'main' AND alias = ?", (name,))

    return change


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "taken out, and in service": (say("fact-1", "rolled_back", 1), "fact-1 of version 1 is in service and the ledger"),
    "refused, and in service": (say("fact-2", "rejected", 1), "fact-2 of version 1 is in service and the ledger says"),
    "promoted, and out of service": (say("fact-3", "promoted", 2), "version 2 is not in service and the ledger says p"),
    "approved, and refused": (say("fact-4", "approved", 3), "version 3 is not in service and the ledger says approved"),
    "waiting for ever": (move_head(0), "version 4 is committed and cannot wait: it does not build on HEAD"),
    "HEAD without events": (move_head(4), "fact-5 of version 4 is in service and the ledger says committed"),
    "no champion": (alias("champion", "DELETE FROM registered_model_aliases"), "alias champion is absent, it should"),
    "a challenger too many": (say("fact-5", "rejected", 4), "alias challenger is 4, it should be absent"),
    "another previous": (
        alias("previous", "UPDATE registered_model_aliases SET version = 1"),
        "alias previous is 1, it should be 2",
    ),
}


def test_a_good_home_has_no_faults(home):
    assert [faults(home, line) for line in ("main", "second.line")] == [[], []]


@pytest.mark.parametrize(("spoil", "says"), FAULTS.values(), ids=FAULTS)
def test_each_disagreement_is_found(home, spoil, says):
    spoil(home)
    assert any(fault.startswith(says) for fault in faults(home, "main")), faults(home, "main")


def test_a_request_that_was_queued_again_answers_for_no_version(home):
    add(home, {"request_id": "fact-3", "event": "received"}, {"request_id": "fact-3", "event": "queued"})
    assert faults(home, "main") == []


def test_an_event_that_was_written_twice_counts_where_it_first_stood(home):
    row = {"event_id": "twice", "request_id": "fact-1", "version": 1}
    add(home, row | {"event": "rolled_back"})
    add(home, {"request_id": "fact-1", "event": "promoted", "version": 1}, time=LATER + timedelta(hours=1))
    add(home, row | {"event": "rolled_back", "time": LATER + timedelta(hours=2)})
    assert faults(home, "main") == []


def test_numbered_events_come_in_their_order_after_all_that_have_no_number(home):
    event = {"request_id": "fact-1", "version": 1, "time": EARLIER}
    add(home, event | {"event_id": "b", "event": "rolled_back", "commit": 7})
    assert any("fact-1" in fault for fault in faults(home, "main"))
    add(home, event | {"event_id": "a", "event": "promoted", "commit": 8})
    assert faults(home, "main") == []


def root(home: Path, **more: Any) -> str:
    """Version 5, a root that comes after version 4 and takes fact-1 out; the removal."""
    removal, store = "retract:fact-1@6", home / "snapshots"
    versions = read_versions(Home(home), "main")
    manifest = json.loads((store / f"manifests/{versions[4].snapshot}.json").read_text())
    live = [*({*versions[1].requests} - {"fact-1"}), *versions[4].requests]
    manifest |= {"version": 5, "parent": None, "after": versions[4].snapshot, "live": live, "removed": ["fact-1"]}
    manifest |= {"request_ids": [removal], "removals": {removal: "fact-1"}} | more
    data = json.dumps(manifest).encode()
    snapshot = hashlib.sha256(data).hexdigest()
    (store / f"manifests/{snapshot}.json").write_bytes(data)
    pointer = {"line": "main", "version": 5, "snapshot": snapshot}
    (store / "lines/main/versions/00000005.json").write_text(json.dumps(pointer))
    if manifest["request_ids"]:
        steps = ("received", "queued", "applied", "validated", "committed")
        asked = [{"event_id": f"root-{one}", "request_id": removal, "event": one} for one in steps]
        add(home, *(row | ({"version": 5} if row["event"] in steps[2:] else {}) for row in asked))
    return removal


def test_a_root_waits_where_it_follows_what_does(home):
    root(home)
    assert faults(home, "main", aliases=False) == []
    assert faults(home, "main") == ["alias challenger is 4, it should be 5"]


def test_a_root_without_requests_waits_with_what_is_before_it(home):
    root(home, request_ids=[], removals={}, removed=[])
    assert faults(home, "main") == ["alias challenger is 4, it should be 5"]


def test_a_root_of_what_is_not_served_cannot_wait(home):
    root(home, after=None)
    assert faults(home, "main", aliases=False) == ["version 5 is committed and cannot wait: it does not build on HEAD"]


def test_of_a_root_in_service_its_facts_are_and_what_it_takes_out_is_not(home):
    removal = root(home)
    move_head(5)(home)
    assert set(faults(home, "main", aliases=False)) == {
        "fact-5 of version 5 is in service and the ledger says committed",
        f"{removal} of version 5 is in service and the ledger says committed",
        "fact-1 was taken out by version 5 and the ledger says promoted",
    }
    gone = {"event_id": "gone", "request_id": "fact-1", "event": "retracted", "version": 5}
    there = [{"event_id": one, "request_id": one, "event": "promoted", "version": 5} for one in ("fact-5", removal)]
    add(home, gone, *there, time=LATER + timedelta(hours=1))
    assert faults(home, "main", aliases=False) == []
    say("fact-2", "rolled_back", 1)(home)
    assert faults(home, "main", aliases=False) == ["fact-2 of version 5 is in service and the ledger says rolled_back"]


def test_a_request_without_a_final_state_lost_or_made_up_is_found(home):
    finals = unfinished(Home(home), "main", [])
    named = {text.partition(" ")[0] for text in finals}
    rest = unfinished(Home(home), "main", [*named, "lost"])
    assert [text for text in rest if "never submitted" in text] == []
    assert "lost was submitted, and the ledger knows nothing of it" in rest
    assert any(text.endswith("is committed") for text in rest)  # version 4 waits
