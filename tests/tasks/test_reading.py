"""Laws of reading: what never changes is read once, however long the line is."""

import threading
from collections import Counter

import pytest

from tasks.stores.snapshots import SnapshotStore
from tests.tasks.test_snapshots import LINE, manifest, tensors

VERSIONS = 12


class Counting:
    """A store that counts what is asked of it; nothing is answered otherwise."""

    def __init__(self, store):
        self.inner, self.uri, self.asked, self.lock = store, store.uri, Counter(), threading.Lock()

    def __getattr__(self, name):
        def call(*args):
            with self.lock:  # versions are read by several threads
                self.asked[name] += 1
            return getattr(self.inner, name)(*args)

        return call

    def since(self, look):
        """What one look asks."""
        self.asked.clear()
        look()
        return dict(self.asked)


@pytest.fixture
def line(folder):
    """A line of many versions, each of which was put in service."""
    snapshots, head, parent = SnapshotStore(folder), None, None
    for number in range(1, VERSIONS + 1):
        version = snapshots.publish(manifest(number, parent), {})
        parent = version.snapshot
        head = snapshots.move_head(LINE, version, head, "promote", "ann", "")
    return Counting(folder)


def test_versions_are_two_objects_each_at_first_and_none_later(line):
    snapshots = SnapshotStore(line)
    assert line.since(lambda: snapshots.versions(LINE)) == {"list": 1, "get": 2 * VERSIONS}
    assert line.since(lambda: snapshots.versions(LINE)) == {"list": 1}
    assert line.since(lambda: snapshots.version(LINE, 3)) == {}
    assert line.since(lambda: snapshots.numbers(LINE)) == {"list": 1}


def test_a_chain_is_each_manifest_once_and_none_later(line):
    snapshots = SnapshotStore(line)
    tip = snapshots.head(LINE).snapshot
    assert line.since(lambda: snapshots.chain(tip)) == {"get": VERSIONS - 1}  # that of the tip was looked at with HEAD
    assert line.since(lambda: snapshots.chain(tip)) == {}
    assert line.since(lambda: snapshots.versions(LINE)) == {"list": 1, "get": VERSIONS}


def test_the_history_of_head_is_one_object_each_at_first_and_head_alone_later(line):
    snapshots = SnapshotStore(line)
    assert line.since(lambda: snapshots.heads(LINE)) == {"list": 1, "get": 2 + VERSIONS}
    assert line.since(lambda: snapshots.heads(LINE)) == {"list": 1, "get": 2}


def test_what_another_process_adds_is_seen_at_the_next_look(line):
    looking, working = SnapshotStore(line), SnapshotStore(line.inner)
    assert len(looking.versions(LINE)) == len(looking.heads(LINE)) == VERSIONS
    head = working.head(LINE)
    new = working.publish(manifest(VERSIONS + 1, head.snapshot), tensors())
    moved = working.move_head(LINE, new, head, "promote", "bob", "")
    assert looking.versions(LINE)[-1] == new
    assert looking.head(LINE) == moved == looking.heads(LINE)[-1]


def test_a_move_in_the_middle_of_a_look_is_in_its_place(line):
    looking, working = SnapshotStore(line), SnapshotStore(line.inner)
    plain, moves = line.inner.list, [1, 2]

    def list_and_move(prefix, after=""):
        found = plain(prefix, after)
        if prefix.endswith("heads/") and moves:
            working.move_head(LINE, None, working.head(LINE), "rollback", "bob", str(moves.pop()))
        return found

    line.inner.list = list_and_move
    found = looking.heads(LINE)
    assert [head.sequence for head in found] == list(range(1, VERSIONS + 3)) and not moves


def test_a_version_that_was_missing_is_found_once_it_is_there(folder):
    looking, working = SnapshotStore(folder), SnapshotStore(folder)
    assert looking.versions(LINE) == []
    made = working.publish(manifest(), {})
    assert looking.version(LINE, 1) == made
