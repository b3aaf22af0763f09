"""Laws of pointers that cannot be read: they say what to do, and what was recorded last comes back."""

import threading

import pytest

from editing.errors import UsageError
from tasks.stores.errors import HeadMoved, LineBusy, NewerFormat, RecordError
from tasks.stores.manifest import VersionPointer
from tasks.stores.opening import open_store
from tasks.stores.records import record_bytes
from tasks.stores.repair import repair_line
from tasks.stores.snapshots import SnapshotStore
from tests.tasks.test_snapshots import LINE, killed_at, manifest, tensors

HEAD = f"lines/{LINE}/HEAD"


@pytest.fixture
def served(store) -> SnapshotStore:
    """A line whose version 1 and then 2 were put in service."""
    snapshots = SnapshotStore(store)
    first = snapshots.publish(manifest(), tensors())
    second = snapshots.publish(manifest(2, first.snapshot), tensors(2))
    head = snapshots.move_head(LINE, first, None, "promote", "ann", "good")
    snapshots.move_head(LINE, second, head, "promote", "bob", "better")
    return snapshots


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x00\xff", b'{"line":'])
def test_a_damaged_head_names_the_way_back_and_it_leads_there(served, damage):
    before = served.head(LINE)
    served.store.put(HEAD, damage)
    with pytest.raises(
        RecordError, match=rf"'errata repair {LINE}' puts back version 2, which bob put in service at 2"
    ):
        served.head(LINE)
    repaired = served.repair_head(LINE, "cy")
    assert (repaired.version, repaired.snapshot, repaired.previous) == (2, before.snapshot, 1)
    assert (repaired.sequence, repaired.actor, repaired.action) == (3, "cy", "rollback")
    fresh = SnapshotStore(served.store)
    assert fresh.head(LINE) == repaired
    assert [head.actor for head in fresh.heads(LINE)] == ["ann", "bob", "cy"]
    moved = fresh.move_head(LINE, None, repaired, "rollback", "dan", "goes on as ever")
    assert fresh.head(LINE) == moved


def test_a_head_that_is_gone_is_not_taken_for_a_line_without_one(served):
    served.store.delete(HEAD)
    with pytest.raises(RecordError, match=rf"is gone: 'errata repair {LINE}' puts back version 2"):
        served.head(LINE)
    assert served.repair_head(LINE).version == 2
    assert served.head("never") is None
    with pytest.raises(UsageError, match="never had a HEAD"):
        served.repair_head("never")


def test_a_record_that_is_damaged_too_is_left_out_and_the_one_before_it_comes_back(folder, caplog):
    snapshots = SnapshotStore(folder)
    first = snapshots.publish(manifest(), tensors())
    head = snapshots.move_head(LINE, first, None, "promote", "ann", "good")
    snapshots.move_head(LINE, None, head, "rollback", "bob", "bad")
    for key in (HEAD, folder.list(f"lines/{LINE}/heads/00000002")[0]):
        folder.put(key, b"?")
    repaired = SnapshotStore(folder).repair_head(LINE)
    assert (repaired.version, repaired.sequence) == (1, 3)
    assert [head.sequence for head in SnapshotStore(folder).heads(LINE)] == [1, 3]
    assert "heads/00000002" in caplog.text


def test_where_no_head_is_recorded_the_base_comes_back(folder):
    folder.put(HEAD, b"?")
    with pytest.raises(RecordError, match="puts back the base model"):
        SnapshotStore(folder).head(LINE)
    repaired = SnapshotStore(folder).repair_head(LINE)
    assert (repaired.version, repaired.snapshot, repaired.sequence) == (0, None, 1)


def test_a_head_that_can_be_read_or_is_of_a_later_release_stays_as_it_is(served):
    before = served.store.get(HEAD)
    assert served.repair_head(LINE) == served.head(LINE)
    assert served.store.get(HEAD) == before
    served.store.put(HEAD, b'{"format": 9}')
    for look in (served.head, served.repair_head):
        with pytest.raises(NewerFormat, match=r"format 9.*update"):
            look(LINE)
    assert served.store.get(HEAD)[0] == b'{"format": 9}'


def test_of_eight_who_repair_all_end_at_one_head(served):
    served.store.put(HEAD, b"?")
    found, gate = [], threading.Barrier(8)

    def repair():
        gate.wait()
        try:
            found.append(SnapshotStore(served.store).repair_head(LINE).token)
        except HeadMoved:
            found.append(None)

    threads = [threading.Thread(target=repair) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) - {None} == {served.head(LINE).token}
    assert len(served.heads(LINE)) == 3


def test_a_repair_killed_anywhere_can_be_repeated(tmp_path):
    for step in range(1, 100):
        snapshots = SnapshotStore(open_store(str(tmp_path / str(step)), create=True))
        version = snapshots.publish(manifest(), tensors())
        snapshots.move_head(LINE, version, None, "promote", "ann", "good")
        snapshots.store.put(HEAD, b"?")
        killed = killed_at(step, lambda s=snapshots: s.repair_head(LINE, "killed"))
        assert snapshots.repair_head(LINE, "again").version == 1
        assert snapshots.head(LINE).sequence == 2
        if not killed:
            break
    assert 4 < step < 99


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x00\xff"])
def test_a_line_whose_every_pointer_is_damaged_is_repaired_in_one_go(served, damage):
    before = served.versions(LINE)
    for key in (HEAD, *served.store.list(f"lines/{LINE}/versions/")):
        served.store.put(key, damage)
    fresh = SnapshotStore(served.store)
    with pytest.raises(RecordError, match=rf"00000001\.json.*damaged.*'errata repair {LINE}' makes it again"):
        fresh.versions(LINE)
    assert len(repair_line(fresh, LINE, "cy")) == 3
    assert fresh.versions(LINE) == before and fresh.head(LINE).version == 2
    assert repair_line(fresh, LINE, "cy") == []


def test_what_lost_the_race_for_a_number_is_never_taken_for_the_version(folder):
    snapshots = SnapshotStore(folder)
    with pytest.raises(LineBusy):
        for run in ("won", "lost"):
            snapshots.publish(manifest(flow_run_id=run), tensors())
    key = f"lines/{LINE}/versions/00000001.json"
    first = snapshots.version(LINE, 1)
    folder.put(key, b"?")
    with pytest.raises(RecordError, match=r"version 1 of line 'smollm2': no manifests .*restore '.*00000001\.json'"):
        repair_line(SnapshotStore(folder), LINE, "cy")
    folder.delete(key)
    folder.put(key, record_bytes(VersionPointer(line=LINE, version=1, snapshot=first.snapshot)))
    snapshots.move_head(LINE, first, None, "promote", "ann", "good")
    folder.put(key, b"?")
    repair_line(SnapshotStore(folder), LINE, "cy")
    assert SnapshotStore(folder).version(LINE, 1) == first
