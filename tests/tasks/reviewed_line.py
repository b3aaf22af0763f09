"""A line with versions that wait, made as a job makes them but for the model: for whoever decides about them."""

import contextlib
from datetime import UTC, datetime, timedelta

import torch
from mlflow.exceptions import MlflowException
from pydantic import SecretStr

from editing.edit import Edit
from tasks.ledger import intake
from tasks.ledger.catching_up import version_events
from tasks.settings import Settings
from tasks.stores.manifest import Manifest, Version
from tasks.tracking.registry import LINE, REVIEW, SNAPSHOT, STATUS, VERSION, WAITING
from tasks.workplace import Workplace, open_workplace

GOOD = {"efficacy_prob": 1.0, "generalization_prob": 1.0, "locality_kept": 1.0, "perplexity_ratio": 1.001}


class ReviewedLine:
    """A fresh installation with one line; its MLflow is shared, so lines of different tests have different names."""

    def __init__(self, folder, name: str, **settings: str) -> None:
        self.name = name
        notify = SecretStr(settings.pop("notify", ""))
        self.settings = Settings(home=folder, cache=folder / "cache", actor="ann", notify=notify, **settings)
        self.workplace: Workplace = open_workplace(self.settings)
        self.run_id = self.workplace.tracker().start_run(name, "a job", {}, {})

    def make(self, *, age_hours: float = 0.0, subject: str = "Ada", **more: object) -> Version:
        """One more version that waits, registered with MLflow."""
        store, ledger = self.workplace.store, self.workplace.ledger
        waiting = self.waiting()
        head = store.head(self.name)
        number = store.next_number(self.name)
        edit = Edit(id=f"r{number}", subject=subject, prompt="{} was born in", target_new="Rome", target_true="London")
        intake.submit(ledger, self.name, [edit], "ann")
        fields = {
            "line": self.name,
            "version": number,
            "parent": waiting[-1].snapshot if waiting else head.snapshot if head else None,
            "based_on": head.sequence if head else 0,
            "base": "base",
            "base_digest": "b" * 64,
            "config": {"method": "memit"},
            "request_ids": (edit.id,),
            "tensor_digests": {},
            "metrics": GOOD,
            "batch": 1,
            "mlflow_run_id": self.run_id,
            "created": (datetime.now(UTC) - timedelta(hours=age_hours)).isoformat(),
        }
        manifest = Manifest.model_validate(fields | more)
        version = store.publish(manifest, {"w": torch.zeros(1)})
        ledger.append_possible(version_events(version, "job"))
        self._register(version)
        return version

    def _register(self, version: Version) -> None:
        """As a job does, but for the model, which takes a second to store and which nobody here loads."""
        tracker, tags = self.workplace.tracker(), {VERSION: str(version.number), SNAPSHOT: version.snapshot}
        with contextlib.suppress(MlflowException):
            tracker._client.create_registered_model(self.name)
        tags |= {LINE: self.name, STATUS: WAITING, REVIEW: WAITING}
        place = f"{tracker._client.get_run(self.run_id).info.artifact_uri}/model"
        tracker._client.create_model_version(self.name, source=place, run_id=self.run_id, tags=tags)

    def waiting(self) -> list[Version]:
        from tasks.review.standing import waiting

        return waiting(self.workplace, self.name)

    def serving(self) -> int:
        head = self.workplace.store.head(self.name)
        return head.version if head else 0

    def tag(self, version: int, **tags: str) -> None:
        """What a reviewer does on MLflow's page."""
        for key, value in tags.items():
            self.workplace.tracker().set_version_tag(self.name, version, key, value)

    def tags(self, version: int) -> dict[str, str]:
        return self.workplace.tracker().version_tags(self.name, version)
