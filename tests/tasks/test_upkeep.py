"""What is taken and what never: whatever was committed still loads, old leftovers go, young ones stay."""

import os
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editing.cache import Cache
from tasks.ledger.events import Event
from tasks.ledger.table import Ledger
from tasks.settings import Settings
from tasks.stores.checkpoints import Checkpoint, Checkpoints
from tasks.stores.errors import RecordError
from tasks.stores.manifest import Manifest
from tasks.stores.objects import ObjectStore
from tasks.stores.opening import open_store
from tasks.stores.snapshots import SnapshotStore
from tasks.upkeep.caches import left_in_cache
from tasks.upkeep.leftovers import Leftover
from tasks.upkeep.snapshots import left_by_jobs
from tasks.upkeep.tidying import tidy_up
from tasks.upkeep.trainings import left_by_trainings
from tasks.workplace import Workplace

DAY = 24 * 3600.0
SOON = timedelta(days=1)
LINES = ("north", "south")


class Killed(BaseException):
    """What a process feels of `kill -9`."""


class Dying:
    """A store that is killed right before its n-th write."""

    def __init__(self, store: ObjectStore, writes: int) -> None:
        self._store, self._writes, self.uri = store, writes, store.uri

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if not name.startswith("put"):
            return call

        def counted(*arguments: Any) -> Any:
            self._writes -= 1
            if self._writes < 0:
                raise Killed
            return call(*arguments)

        return counted


def publish(store: ObjectStore, line: str, seed: int, writes: int = 3) -> None:
    """A job's batch on the newest version of a line, killed before its n-th write; three make it whole."""
    snapshots = SnapshotStore(Dying(store, writes))
    versions = snapshots.versions(line)
    manifest = Manifest(
        line=line,
        version=snapshots.next_number(line),
        parent=versions[-1].snapshot if versions else None,
        base="embedded",
        base_digest="b" * 64,
        config={"method": "memit"},
        request_ids=(f"r{seed}",),
        tensor_digests={"w": "d"},
        batch=1,
    )
    snapshots.publish(manifest, {"w": torch.full((2,), float(seed))})


def age(root: Path, days: float) -> None:
    """As if all that lies there had been written so long ago."""
    then = time.time() - days * DAY
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def taken(leftovers: list[Leftover]) -> set[str]:
    return {left.name for left in leftovers if left.take()}


def all_versions_load(store: ObjectStore) -> int:
    """How many there are; every manifest and tensor of each is read, and verified by its digest."""
    snapshots, count = SnapshotStore(store), 0
    for line in snapshots.lines():
        for version in snapshots.versions(line):
            assert [snapshots.tensors(one) for one in snapshots.chain(version.snapshot)]
            count += 1
        for head in snapshots.heads(line):
            snapshots.chain(head.snapshot)
    return count


JOBS = st.tuples(st.just("job"), st.sampled_from(LINES), st.integers(0, 4), st.integers(0, 3))
MOVES = st.tuples(st.just("head"), st.sampled_from(LINES), st.integers(0, 9), st.just(0))
AGES = st.tuples(st.just("days"), st.just(""), st.integers(1, 9), st.just(0))


@settings(max_examples=40, deadline=None)
@given(history=st.lists(st.one_of(JOBS, MOVES, AGES), max_size=14))
def test_whatever_was_committed_still_loads_and_of_the_rest_only_what_is_young_is_left(history):
    with TemporaryDirectory() as folder:
        store = open_store(folder, create=True)
        days: dict[str, int] = {}  # since each object was written
        for what, line, number, writes in history:
            snapshots = SnapshotStore(store)
            if what == "job":
                before = {entry.key: entry.written for entry in store.entries("")}
                with suppress(Killed):
                    publish(store, line, number, writes)
                days |= {one.key: 0 for one in store.entries("") if one.written != before.get(one.key)}
            elif what == "head" and (versions := snapshots.versions(line)):
                goal = [None, *versions][number % (len(versions) + 1)]
                snapshots.move_head(line, goal, snapshots.head(line), "promote", "tester", "")
            else:
                days = {key: known + number for key, known in days.items()}
                for key, known in days.items():
                    os.utime(Path(folder, key), (time.time() - known * DAY,) * 2)
        count = all_versions_load(store)
        led_to = {
            key
            for line in SnapshotStore(store).lines()
            for version in SnapshotStore(store).versions(line)
            for key in SnapshotStore(store).keys(version.snapshot)
        }
        orphans = {key for key in days if key.startswith(("blobs/", "manifests/"))} - led_to
        gone = taken(left_by_jobs(store, datetime.now(UTC) - timedelta(days=7)))
        assert all_versions_load(store) == count
        assert gone == {key for key in orphans if days[key] >= 7}
        assert {key for key in orphans if days[key] < 7} <= {*store.list("")}


def test_in_every_kind_of_store_a_leftover_is_found_by_its_age(store):
    publish(store, "north", 1)
    with pytest.raises(Killed):
        publish(store, "north", 2, writes=2)
    now = datetime.now(UTC)
    assert left_by_jobs(store, now - SOON) == []
    found = left_by_jobs(store, now + SOON)
    assert [left.kind for left in found] == ["manifest", "tensors"] and all(left.size > 0 for left in found)
    assert len(taken(found)) == 2 and taken(found) == set()
    assert all_versions_load(store) == 1


def test_what_a_job_writes_anew_between_list_and_taking_stays(tmp_path):
    store = open_store(str(tmp_path), create=True)
    with pytest.raises(Killed):
        publish(store, "north", 1, writes=1)
    age(tmp_path, 9)
    [left] = left_by_jobs(store, datetime.now(UTC) - SOON)
    publish(store, "north", 1)  # the same tensors, and now they are those of a version
    assert not left.take() and all_versions_load(store) == 1


@pytest.mark.parametrize("gone", ["lines/north/versions/00000001.json", "lines/north/HEAD"])
def test_nothing_is_taken_where_a_pointer_is_gone_or_damaged(tmp_path, gone):
    store = open_store(str(tmp_path), create=True)
    for seed in (1, 2):
        publish(store, "north", seed)
    snapshots = SnapshotStore(store)
    snapshots.move_head("north", snapshots.version("north", 2), None, "promote", "tester", "")
    age(tmp_path, 9)
    for damage in (b"{", None):
        whole = (tmp_path / gone).read_bytes()
        if damage is None:
            (tmp_path / gone).unlink()
        else:
            (tmp_path / gone).write_bytes(damage)
        with pytest.raises(RecordError, match="errata repair north"):
            left_by_jobs(store, datetime.now(UTC) - SOON)
        (tmp_path / gone).write_bytes(whole)


def test_a_training_at_rest_keeps_its_best_checkpoint_and_one_at_work_all(store):
    made, scores = Checkpoints(store, "t"), (0.2, 0.9, 0.3, 0.4)
    for step, score in enumerate(scores, start=1):
        one = Checkpoint(step=step, seconds=1.0, validation={"score": score}, best_score=score, stale=0)
        made.publish(one, f"tensors of step {step}".encode())
    store.put("trainings/t/blobs/left-by-a-killed-process.safetensors", b"?")
    soon, past = datetime.now(UTC) + SOON, datetime.now(UTC) - SOON
    assert left_by_trainings(store, past, past) == []
    assert taken(left_by_trainings(store, soon, past)) == {"trainings/t/blobs/left-by-a-killed-process.safetensors"}
    assert len(taken(left_by_trainings(store, soon, soon))) == 4
    for found in (made.best(), made.newest()):
        assert found is not None and (found[0].step, found[1]) == (2, b"tensors of step 2")


def keep(cache: Cache, name: str, days: float, size: int = 100) -> Path:
    cache.write("values", name, b"x" * size)
    path = cache.path("values", name)
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def test_the_cache_loses_what_nobody_used_for_long_and_what_is_too_much(tmp_path):
    cache = Cache(tmp_path)
    old, middle, young = (keep(cache, name, days) for name, days in (("a", 40), ("b", 20), ("c", 10)))
    fresh, unfinished = keep(cache, "d", 1), old.with_name(f".{old.name}.x_1")
    streamed = old.with_name(".tmpZWMh00")  # as safetensors names it
    foreign = tmp_path / "models" / "ab" / "model.safetensors"
    foreign.parent.mkdir(parents=True)
    for path in (unfinished, streamed, foreign):
        path.write_bytes(b"x" * 1000)
        os.utime(path, (0, 0))
    now = datetime.now(UTC)
    before, unused = now - timedelta(days=7), now - timedelta(days=30)
    assert taken(left_in_cache(tmp_path, before, unused, 200)) == {*map(str, (old, middle, unfinished, streamed))}
    assert young.exists() and fresh.exists() and foreign.exists()
    assert taken(left_in_cache(tmp_path, before, unused, 0)) == {str(young)}, "the last days' stay, however much it is"


def test_a_result_that_is_read_is_used_and_one_that_is_read_between_list_and_taking_stays(tmp_path):
    cache = Cache(tmp_path)
    path = keep(cache, "a", 40)
    before = datetime.now(UTC) - timedelta(days=7)
    [left] = left_in_cache(tmp_path, before, before, 1000)
    assert cache.read("values", "a", Path.read_bytes) == b"x" * 100
    assert left_in_cache(tmp_path, before, before, 1000) == [] and not left.take() and path.exists()


@pytest.fixture
def workplace(tmp_path) -> Workplace:
    places = Settings(home=tmp_path, cache=tmp_path / "cache")
    return Workplace(places, SnapshotStore(open_store(places.store_uri, create=True)), Ledger(places.ledger_uri))


def test_a_dry_run_lists_what_the_next_run_takes_and_a_part_that_fails_does_not_keep_the_others(workplace, tmp_path):
    store = workplace.store.store
    publish(store, "north", 1)
    for number in range(20):
        workplace.ledger.append([Event(request_id=f"r{number}", event="received", line="north", actor="tester")])
    Path(workplace.ledger.uri, "part-left-by-a-killed-writer.parquet").write_bytes(b"x")
    with pytest.raises(Killed):
        publish(store, "north", 2, writes=1)
    cached = keep(Cache(tmp_path / "cache"), "a", 40)
    store.put("searches/answers/a.json", b"{}")
    age(tmp_path / "snapshots", 9)
    os.utime(Path(workplace.ledger.uri, "part-left-by-a-killed-writer.parquet"), (0, 0))
    listed = tidy_up(workplace, dry_run=True)
    assert sorted(row.kind for row in listed.rows) == ["cached result", "ledger file", "searched value", "tensors"]
    assert (
        not any(row.taken for row in listed.rows)
        and cached.exists()
        and not listed.joined
        and "would take 4" in listed.in_short
    )
    (tmp_path / "snapshots" / "lines" / "north" / "versions" / "00000001.json").write_bytes(b"{")
    done = tidy_up(workplace)
    assert {row.kind for row in done.rows if row.taken} == {"cached result", "ledger file", "searched value"}
    assert done.joined
    assert [text.partition(":")[0] for text in done.skipped] == ["snapshots"] and "errata repair north" in done.skipped[
        0
    ]
    assert len(workplace.ledger.history(line="north")) == 20 and not cached.exists()
    again = tidy_up(workplace)
    assert again.rows == () and not again.joined
