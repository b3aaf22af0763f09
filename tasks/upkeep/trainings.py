"""What trainings leave in the store: tensors that no checkpoint names, and checkpoints of those that rest for long.

Of a training at rest the best checkpoint stays, which `trainings/ID` means; from there it can go on.
"""

from datetime import datetime

from tasks.stores.checkpoints import Checkpoint, Checkpoints
from tasks.stores.objects import Entry, ObjectStore
from tasks.upkeep.leftovers import Leftover, left_object

FOLDER = "trainings/"


def left_by_trainings(store: ObjectStore, before: datetime, at_rest: datetime) -> list[Leftover]:
    """Tensors that no checkpoint names, written before a moment; all but the best of what rests since before another.

    Raises:
        NewerFormat: a later release wrote a checkpoint.
    """
    trainings: dict[str, dict[str, Entry]] = {}
    for entry in store.entries(FOLDER):
        trainings.setdefault(entry.key.split("/")[1], {})[entry.key] = entry
    found: list[Leftover] = []
    for training, entries in trainings.items():
        checkpoints = Checkpoints(store, training)
        recorded = checkpoints.look()
        if max(entry.written for entry in entries.values()) < at_rest:
            kept = _best(checkpoints, recorded, entries)
        else:
            kept = recorded
        named = {checkpoints.blob_key(one) for one in kept.values()}
        # Checkpoints first: killed in between, none names tensors that are gone.
        unkept = [key for key in recorded if key not in kept]
        unnamed = [key for key in entries if "/blobs/" in key and key not in named]
        old = [entries[key] for key in (*unkept, *unnamed) if key in entries and entries[key].written < before]
        found += [left_object("checkpoint", store, entry, before) for entry in old]
    return found


def _best(
    checkpoints: Checkpoints, recorded: dict[str, Checkpoint], entries: dict[str, Entry]
) -> dict[str, Checkpoint]:
    """The one that stays: of those whose tensors are there the first with the best score; all, where none are."""
    whole = [key for key, one in recorded.items() if checkpoints.blob_key(one) in entries]
    best = min(whole, key=lambda key: (-recorded[key].score, recorded[key].step), default=None)
    return recorded if best is None else {best: recorded[best]}
