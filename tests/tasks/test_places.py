"""Where the parts of an installation lie, as a backup finds them and a restore leaves them."""

import pytest
import yaml

from editing.errors import UsageError
from tasks.keeping.places import files_at, places_of
from tasks.keeping.record import BackupRecord
from tasks.keeping.restore import Addresses
from tasks.settings import Settings


@pytest.mark.parametrize("address", ["mlflow-artifacts:/", "mlflow-artifacts://host/x", "gs://bucket/x"])
def test_artifacts_that_a_server_keeps_lie_nowhere_here(address, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    here = Settings(home=tmp_path, tracking_uri="http://127.0.0.1:1", artifacts=address)
    assert places_of(here).artifacts is None
    with pytest.raises(UsageError, match="no folder and no s3"):
        files_at(address, here)


def test_a_models_pointer_follows_to_another_store_and_endpoint(tmp_path):
    config = {"store_uri": "s3://old/snapshots", "endpoint_url": "http://127.0.0.1:1"}
    model = yaml.safe_dump({"flavors": {"python_function": {"config": config}}}).encode()
    record = BackupRecord(
        errata="0", store="s3://old/snapshots", artifacts="/x", lines={}, ledger_commit=None, left_out=(), files={}
    )
    now = Settings(home=tmp_path, store="s3://new/snapshots", s3_endpoint_url="http://127.0.0.1:2")
    found = yaml.safe_load(Addresses(record, now).in_file("a/MLmodel", model))
    assert found["flavors"]["python_function"]["config"] == {
        "store_uri": "s3://new/snapshots", "endpoint_url": "http://127.0.0.1:2"
    }  # fmt: skip
