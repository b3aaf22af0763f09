"""Checkpoints: few, whole, and the last whole one is found whatever is broken; in every kind of store."""

import json

import pytest

from tasks.stores.checkpoints import Checkpoint, Checkpoints
from tasks.stores.errors import LineBusy
from tasks.stores.objects import ObjectStore


def checkpoint(step: int, score: float = 0.5, seconds: float = 1.0) -> Checkpoint:
    return Checkpoint(step=step, seconds=seconds, validation={"score": score}, best_score=score, stale=0)


def published(store: ObjectStore, *scores: float) -> Checkpoints:
    """A training with a checkpoint of each score, at steps 1, 2 and so on."""
    made = Checkpoints(store, "t")
    for step, score in enumerate(scores, start=1):
        made.publish(checkpoint(step, score), f"tensors of step {step}".encode())
    return made


def steps(store: ObjectStore) -> list[int]:
    return [json.loads(store.get(key)[0])["step"] for key in store.list("trainings/t/checkpoints/")]


def test_the_newest_and_the_best_come_back_as_they_were(store):
    made = published(store, 0.2, 0.9, 0.3)
    newest, best = made.newest(), made.best()
    assert newest is not None and (newest[0].step, newest[1]) == (3, b"tensors of step 3")
    assert best is not None and (best[0].step, best[1]) == (2, b"tensors of step 2")
    assert Checkpoints(store, "other").newest() is None and Checkpoints(store, "other").best() is None


def test_the_best_and_the_last_two_stay_and_no_blob_besides(store):
    store.put("trainings/t/blobs/left-by-a-killed-process.safetensors", b"?")
    published(store, 0.2, 0.9, 0.3, 0.4, 0.9, 0.1)
    assert steps(store) == [2, 5, 6]  # of two as good the earlier is the best
    assert len(store.list("trainings/t/blobs/")) == 3


@pytest.mark.parametrize("how", ["blob lost", "blob cut", "record cut"])
def test_what_is_broken_is_passed_over_and_can_be_published_again(store, how):
    made = published(store, 0.1, 0.2, 0.3)
    key = "trainings/t/checkpoints/00000003.json"
    record, _ = store.get(key)
    blob = f"trainings/t/blobs/{json.loads(record)['sha256']}.safetensors"
    if how == "blob lost":
        store.delete(blob)
    else:
        broken = blob if how == "blob cut" else key
        store.put(broken, store.get(broken)[0][:-5])
    found = made.newest()
    assert found is not None and found[0].step == 2
    made.publish(checkpoint(3, 0.3, seconds=2.0), b"tensors of step 3")
    found = made.newest()
    assert found is not None and found[0].step == 3


def test_without_any_whole_checkpoint_there_is_none(folder):
    made = published(folder, 0.1, 0.2)
    for key in folder.list("trainings/t/blobs/"):
        folder.delete(key)
    assert made.newest() is None and folder.list("trainings/t/checkpoints/") == []


def test_of_two_processes_that_train_the_same_one_is_told(folder):
    made = published(folder, 0.1)
    made.publish(checkpoint(1, 0.1), b"tensors of step 1")  # the very same again: a repetition
    with pytest.raises(LineBusy, match="has a checkpoint of step 1 already: another process trains the same"):
        made.publish(checkpoint(1, 0.1, seconds=9.0), b"tensors of step 1")


def test_removing_what_is_not_there_is_no_error(store):
    store.delete("a/b")
    store.put("a/b", b"x")
    store.delete("a/b")
    assert not store.exists("a/b")
