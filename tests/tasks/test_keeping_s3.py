"""Store, ledger and artifacts on S3: put back under other addresses there, and searched for what is forgotten."""

import shutil
import uuid

import pytest

from tasks.audit.auditing import audit
from tasks.keeping.backup import backup
from tasks.keeping.forgetting import forget
from tasks.keeping.places import FolderFiles, places_of
from tasks.keeping.restore import restore
from tasks.review.decisions import approve, reject
from tasks.workplace import open_workplace
from tests.tasks.conftest import BUCKET
from tests.tasks.test_forget import SUBJECT, where

pytestmark = pytest.mark.slow


def somewhere() -> dict[str, str]:
    return {name: f"s3://{BUCKET}/{uuid.uuid4().hex}/{name}" for name in ("store", "ledger", "artifacts")}


@pytest.fixture
def far(credentials, seaweedfs_url, tmp_path, monkeypatch):
    """A line whose two versions wait, on S3."""
    from tests.tasks.reviewed_line import ReviewedLine  # torch and MLflow take seconds

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", seaweedfs_url)
    line = ReviewedLine(tmp_path, "far", s3_endpoint_url=seaweedfs_url, **somewhere())
    line.make(subject=SUBJECT)
    line.make()
    return line


def test_store_and_ledger_on_s3_come_back_elsewhere(far, tmp_path):
    line, second = far, somewhere()
    approve(line.workplace, line.name, None, "good")
    line.workplace.tracker().log_report(line.run_id, {"report.html": b"<p>here</p>"})
    record = backup(line.workplace, tmp_path / "copy")
    settings = line.settings.model_copy(update={"home": tmp_path / "again", **second})
    restore(settings, tmp_path / "copy")
    again = open_workplace(settings)
    found = audit(again)
    assert [one for one in found.faults if "no definition" not in one.text] == []
    assert record.lines == {"far": 2} and again.store.head("far") == line.workplace.store.head("far")
    assert again.tracker().artifact(line.run_id, "report.html") == b"<p>here</p>"
    assert settings.artifact_root in again.tracker()._client.get_run(line.run_id).info.artifact_uri


def test_what_is_forgotten_is_in_no_object(far, tmp_path):
    reject(far.workplace, "far", None, "wrong")
    places = places_of(far.settings)

    def fetched(name: str) -> list[str]:
        """Everything there, brought here to be searched."""
        folder = FolderFiles(tmp_path / name)
        for part, files in {"store": places.store, "ledger": places.ledger, "artifacts": places.artifacts}.items():
            for key in files.list():
                folder.write(f"{part}/{key}", files.read(key))
        return where(tmp_path / name, SUBJECT)

    assert {name.split("/")[0] for name in fetched("before")} == {"ledger"}
    assert forget(far.workplace, "far", ["r1"], "asked").versions == [1, 2]
    shutil.rmtree(tmp_path / "before")
    assert fetched("after") == [] and where(tmp_path, SUBJECT) == []
    found = audit(open_workplace(far.settings))
    assert [one.text for one in found.faults if "no definition" not in one.text and "MLflow" not in one.text] == []
    far.make()
    assert [one.number for one in far.waiting()] == [3]
