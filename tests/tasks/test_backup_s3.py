"""A backup of a store and a ledger on S3, put back under another address there."""

import uuid

import pytest

from tasks.audit.auditing import audit
from tasks.keeping.backup import backup
from tasks.keeping.restore import restore
from tasks.review.decisions import approve
from tasks.settings import Settings
from tasks.workplace import open_workplace
from tests.databases import mlflow_database
from tests.tasks.conftest import BUCKET

pytestmark = pytest.mark.slow


def test_store_and_ledger_on_s3_come_back_elsewhere(credentials, seaweedfs_url, tmp_path, monkeypatch):
    from tests.tasks.reviewed_line import ReviewedLine  # torch and MLflow take seconds

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    first, second = (
        {name: f"s3://{BUCKET}/{uuid.uuid4().hex}/{name}" for name in ("store", "ledger", "artifacts")} for _ in "ab"
    )
    mlflow_database(tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", seaweedfs_url)
    line = ReviewedLine(tmp_path, "far", s3_endpoint_url=seaweedfs_url, **first)
    line.make()
    line.make()
    approve(line.workplace, line.name, None, "good")
    line.workplace.tracker().log_report(line.run_id, {"report.html": b"<p>here</p>"})
    record = backup(line.workplace, tmp_path / "copy")
    settings = Settings(home=tmp_path / "again", cache=tmp_path, actor="ann", s3_endpoint_url=seaweedfs_url, **second)
    restore(settings, tmp_path / "copy")
    again = open_workplace(settings)
    found = audit(again)
    assert [one for one in found.faults if "no definition" not in one.text] == []
    assert record.lines == {"far": 2} and again.store.head("far") == line.workplace.store.head("far")
    assert again.tracker().artifact(line.run_id, "report.html") == b"<p>here</p>"
    assert settings.artifact_root in again.tracker()._client.get_run(line.run_id).info.artifact_uri
