"""Commands that know nothing but the file of settings work with the services, signed in."""

import json
import subprocess
from pathlib import Path

from tasks.workplace import open_workplace
from tests.fact_model import fact_edits
from tests.flows.command import COMMAND
from tests.services.conftest import Services


def errata(services: Services, *arguments: str) -> str:
    ran = subprocess.run([*COMMAND, *arguments], env=services.environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_request_goes_to_s3_and_its_fate_is_read_from_there(services: Services):
    edit = fact_edits(1)[0]
    single = ("--subject", edit.subject, "--prompt", edit.prompt, "--target", edit.target_new)
    errata(services, "submit", "--line", "commands", *single, "--id", "from-a-command")
    assert "commands" in json.dumps(json.loads(errata(services, "status", "--json")))
    assert "received" in errata(services, "history", "--line", "commands", "from-a-command")
    keys = [found["Key"] for found in services.s3().list_objects_v2(Bucket="errata", Prefix="ledger/")["Contents"]]
    assert any(key.endswith(".parquet") for key in keys)


def test_the_doctor_finds_all_services(services: Services):
    said = errata(services, "doctor", "--json")
    for name in ("tracking_uri", "prefect_api_url", "store_uri", "ledger_uri"):
        assert getattr(services.settings, name) in said


def test_artifacts_go_to_s3_through_mlflow(here: Services, tmp_path: Path):
    (tmp_path / "report.html").write_text("what a person reads")
    tracker = open_workplace(here.settings).tracker()
    experiment = tracker._client.get_experiment(tracker.experiment_id)
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    run = tracker._client.create_run(tracker.experiment_id)
    tracker._client.log_artifact(run.info.run_id, str(tmp_path / "report.html"))
    tracker._client.set_terminated(run.info.run_id)
    stored = here.s3().list_objects_v2(Bucket="errata", Prefix="mlflow/")["Contents"]
    assert [found for found in stored if found["Key"].endswith(f"{run.info.run_id}/artifacts/report.html")]
    assert not list(here.settings.home_folder.rglob("report.html"))
