"""Trains a hypernetwork and kills its own process with SIGKILL somewhere, for test_train_mend.py.

Places are: `step`, after a step; `half`, when half of a blob is written;
`blob`, after a blob, when its checkpoint is not yet created; `checkpoint`, after that; `registered`, after the version
exists in MLflow and before the run ends. The N-th time there is the last; with `never` the summary is printed as JSON.
"""

import os
import signal
from pathlib import Path

import torch

from editing.methods.mend.options import MendTraining
from editing.methods.mend.training import MendTrainer
from flows.train_mend import train_mend
from tasks.stores.folder import FolderStore
from tasks.tracking.hypernetworks import HypernetworkTracker
from tasks.training.job import TrainingPlan

PLAN = TrainingPlan(training=MendTraining(rank=8, step_size=0.1, batch=4), steps=8, every=2, validation_edits=4)


def main(data: Path, place: str, count: int) -> None:
    torch.set_num_threads(1)
    passed = 0

    def reached(here: str) -> bool:
        nonlocal passed
        passed += here == place
        return here == place and passed == count

    def kill_at(here: str) -> None:
        if reached(here):
            os.kill(os.getpid(), signal.SIGKILL)

    def after(owner: type, method: str, places: dict[str, str]) -> None:
        plain = getattr(owner, method)

        def called(self, *args, **kwargs):
            found = plain(self, *args, **kwargs)
            for part, here in places.items():
                if part in f"{args}":
                    kill_at(here)
            return found

        setattr(owner, method, called)

    put = FolderStore.put

    def half(self, key, data):
        if "blobs/" in key and reached("half"):
            (self.root / ".tmp").mkdir(exist_ok=True)
            (self.root / ".tmp" / "unfinished").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return put(self, key, data)

    FolderStore.put = half
    after(MendTrainer, "train_step", {"": "step"})
    after(FolderStore, "put", {"blobs/": "blob"})
    after(FolderStore, "put_if_absent", {"checkpoints/": "checkpoint"})
    after(HypernetworkTracker, "register_hypernetwork", {"": "registered"})
    print(train_mend(data, PLAN, name="killed").model_dump_json())
