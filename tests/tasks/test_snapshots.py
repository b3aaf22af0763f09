"""Laws of versions and HEAD: content is verified, history is kept, and a kill anywhere loses nothing."""

import os
import pickle
import signal
import threading

import pytest
import torch
from pydantic import ValidationError

from editing.digests import canonical_json, sha256
from editing.errors import UsageError
from tasks.stores.errors import DigestMismatch, HeadMoved, LineBusy, ObjectNotFound, StorageError
from tasks.stores.opening import open_store
from tasks.stores.snapshots import Manifest, SnapshotStore

LINE = "smollm2"


def manifest(version=1, parent=None, **changes):
    fields = {"line": LINE, "version": version, "parent": parent, "base": "embedded", "base_digest": "b" * 64}
    fields |= {"config": {"method": "memit", "layers": (4, 5)}, "request_ids": (f"r{version}",), "batch": version}
    fields |= {"tensor_digests": {"w": "d"}, "created": "2026-11-22T00:00:00+00:00"}
    return Manifest(**(fields | changes))


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(6, 4, generator=generator)
    return {
        "w.B": factors[:3],  # slices of one tensor share its memory
        "w.A": factors[3:].T,
        "half": torch.randn(2, 2, generator=generator).bfloat16(),
        "double": torch.randn(3, generator=generator).double(),
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.fixture
def snapshots(folder):
    return SnapshotStore(folder)


def test_a_chain_comes_back_in_order_and_bit_for_bit(store):
    snapshots, parent = SnapshotStore(store), None
    for number in (1, 2, 3):
        assert snapshots.next_number(LINE) == number
        parent = snapshots.publish(manifest(number, parent), tensors(number)).snapshot
    fresh = SnapshotStore(store)
    chain = fresh.chain(parent)
    assert [item.version for item in chain] == [1, 2, 3]
    for item in chain:
        assert_same(fresh.tensors(item), tensors(item.version))
    assert [version.manifest for version in fresh.versions(LINE)] == chain
    assert fresh.version(LINE, 3).snapshot == parent
    assert fresh.lines() == [LINE]
    assert fresh.chain(None) == []


def test_of_eight_who_move_head_one_wins_and_the_others_learn_who(store):
    snapshots = SnapshotStore(store)
    version = snapshots.publish(manifest(), tensors())
    seen = snapshots.move_head(LINE, None, None, "promote", "first", "the base")
    won, lost, gate = [], [], threading.Barrier(8)

    def move(number):
        gate.wait()
        try:
            won.append(snapshots.move_head(LINE, version, seen, "promote", f"actor-{number}", "race"))
        except HeadMoved as error:
            lost.append(str(error))

    threads = [threading.Thread(target=move, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 7
    assert all(f"by {won[0].actor} to version 1 at 20" in message for message in lost)
    assert snapshots.head(LINE) == won[0]
    assert [head.actor for head in snapshots.heads(LINE)] == ["first", won[0].actor]


def test_publishing_the_same_again_is_success(snapshots):
    assert snapshots.publish(manifest(), tensors()) == snapshots.publish(manifest(), tensors())


def test_a_version_is_never_replaced(snapshots):
    first = snapshots.publish(manifest(flow_run_id="run-1"), tensors())
    with pytest.raises(LineBusy, match=r"version 1 of line 'smollm2' exists already.*run-1"):
        snapshots.publish(manifest(), tensors(1))
    assert snapshots.version(LINE, 1) == first


def test_a_version_needs_its_parent(snapshots):
    with pytest.raises(ObjectNotFound):
        snapshots.publish(manifest(2, "0" * 64), tensors())
    assert snapshots.next_number(LINE) == 1


def test_a_version_may_be_empty(snapshots):
    version = snapshots.publish(manifest(), {})
    assert snapshots.tensors(version.manifest) == {}


def test_a_tensor_that_is_not_finite_is_not_stored(snapshots):
    with pytest.raises(StorageError, match="'bad' is not finite"):
        snapshots.publish(manifest(), {"bad": torch.tensor([1.0, float("nan")])})
    assert snapshots.store.list("") == []


def test_metrics_that_were_not_measured_are_left_out():
    found = manifest(metrics={"a": float("nan"), "b": 1.0}, request_metrics={"r": {"c": float("inf")}})
    assert found.metrics == {"b": 1.0}
    assert found.request_metrics == {"r": {}}


@pytest.mark.parametrize("value", [float("inf"), torch.float32])
def test_a_config_that_is_not_plain_is_refused(value):
    with pytest.raises(StorageError, match="plain finite values"):
        manifest(config={"lr": value})


def test_manifests_name_their_line_and_their_time_zone():
    with pytest.raises(UsageError, match="a name has"):
        manifest(line="../other")
    with pytest.raises(ValidationError, match="no time zone"):
        manifest(created="2026-11-22T00:00:00")


@pytest.mark.parametrize("kind", ["blobs", "manifests"])
def test_one_flipped_byte_is_refused(folder, kind):
    version = SnapshotStore(folder).publish(manifest(), tensors())
    key = folder.list(kind)[0]
    data = bytearray(folder.get(key)[0])
    data[len(data) // 2] ^= 1
    folder.put(key, bytes(data))
    fresh = SnapshotStore(folder)
    with pytest.raises(DigestMismatch, match=rf"{key}.*expected sha256 \w+, found {sha256(bytes(data))}; restore"):
        fresh.tensors(version.manifest) if kind == "blobs" else fresh.chain(version.snapshot)


def test_a_pickle_is_never_loaded(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    data = pickle.dumps(Bomb())
    folder.put(f"blobs/{sha256(data)}.safetensors", data)
    with pytest.raises(StorageError, match="no safetensors file"):
        SnapshotStore(folder).tensors(manifest(files={"update.safetensors": sha256(data)}))
    assert not (tmp_path / "exploded").exists()


def test_a_version_that_points_elsewhere_is_refused(snapshots):
    version = snapshots.publish(manifest(), tensors())
    pointer = canonical_json({"line": LINE, "version": 2, "snapshot": version.snapshot})
    snapshots.store.put(f"lines/{LINE}/versions/00000002.json", pointer)
    with pytest.raises(StorageError, match="points to version 1"):
        snapshots.version(LINE, 2)


@pytest.mark.parametrize("name", ["HEAD", "versions/00000001.json"])
def test_damaged_records_are_named(snapshots, name):
    snapshots.publish(manifest(), tensors())
    snapshots.store.put(f"lines/{LINE}/{name}", b"{}")
    with pytest.raises(StorageError, match=f"{name}.*cannot be read"):
        snapshots.head(LINE) if name == "HEAD" else snapshots.versions(LINE)


def test_a_missing_version_says_which_there_are(snapshots):
    snapshots.publish(manifest(), tensors())
    with pytest.raises(ObjectNotFound, match="no version 7; it has: 1"):
        snapshots.version(LINE, 7)


def test_head_goes_forward_and_back_and_remembers(snapshots):
    first = snapshots.publish(manifest(), tensors())
    second = snapshots.publish(manifest(2, first.snapshot), tensors(2))
    assert snapshots.head(LINE) is None
    head = snapshots.move_head(LINE, first, None, "promote", "ann", "good")
    head = snapshots.move_head(LINE, second, head, "promote", "bob", "better")
    head = snapshots.move_head(LINE, None, head, "rollback", "cy", "worse")
    assert (head.version, head.snapshot, head.previous) == (0, None, 2)
    assert [item.version for item in snapshots.heads(LINE)] == [1, 2, 0]
    assert "etag" not in head.model_dump()
    with pytest.raises(HeadMoved, match="by cy to version 0"):
        snapshots.move_head(LINE, first, None, "promote", "dan", "did not look")


def test_head_takes_no_version_of_another_line(snapshots):
    version = snapshots.publish(manifest(line="other"), tensors())
    with pytest.raises(StorageError, match="belongs to line 'other'"):
        snapshots.move_head(LINE, version, None, "promote", "ann", "")


def killed_at(step, work):
    """Run the work in a child that kills itself at its step-th call that touches the disk; whether it was killed."""
    child = os.fork()
    if child == 0:
        left = [step]

        def deadly(function):
            def call(*args):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args)

            return call

        for name in ("fsync", "link", "replace", "unlink", "mkdir"):
            setattr(os, name, deadly(getattr(os, name)))
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.slow
def test_a_publish_killed_anywhere_is_whole_or_not_there_and_can_be_repeated(tmp_path):
    torch.set_num_threads(1)
    for step in range(1, 100):
        store = open_store(str(tmp_path / str(step)), create=True)
        snapshots = SnapshotStore(store)
        parent = snapshots.publish(manifest(), tensors())
        killed = killed_at(step, lambda s=snapshots, p=parent: s.publish(manifest(2, p.snapshot), tensors(2)))
        for version in SnapshotStore(store).versions(LINE):
            assert_same(SnapshotStore(store).tensors(version.manifest), tensors(0 if version.number == 1 else 2))
        assert snapshots.publish(manifest(2, parent.snapshot), tensors(2)) == snapshots.version(LINE, 2)
        if not killed:
            break
    assert 9 < step < 99


@pytest.mark.slow
def test_a_move_killed_anywhere_leaves_head_old_or_new_and_its_history_whole(tmp_path):
    for step in range(1, 100):
        snapshots = SnapshotStore(open_store(str(tmp_path / str(step)), create=True))
        version = snapshots.publish(manifest(), tensors())
        old = snapshots.move_head(LINE, None, None, "promote", "ann", "base")
        killed = killed_at(
            step, lambda s=snapshots, v=version, o=old: s.move_head(LINE, v, o, "promote", "bob", "killed")
        )
        seen = snapshots.head(LINE)
        expected = ["ann"] if seen == old else ["ann", "bob"]
        assert [head.actor for head in snapshots.heads(LINE)] == expected
        snapshots.move_head(LINE, version, seen, "promote", "cy", "after")
        assert [head.actor for head in snapshots.heads(LINE)] == [*expected, "cy"]
        if not killed:
            break
    assert 6 < step < 99
