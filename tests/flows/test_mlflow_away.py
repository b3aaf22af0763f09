"""A job while MLflow's database takes nothing: it goes on, and what it measured is logged once it can be."""

import sqlite3

import pytest

import flows.knowledge_update as module
from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.workplace import open_workplace
from tests.databases import mlflow_database
from tests.flows.conftest import POLICY


@pytest.mark.slow
def test_a_job_outlasts_a_database_that_is_locked_between_its_batches(
    impatient, place, good_edits, tmp_path, monkeypatch
):
    place("away")
    database = mlflow_database(tmp_path / "mlflow.db")
    monkeypatch.setenv("ERRATA_TRACKING_URI", f"sqlite:///{database}?timeout=0.1")
    workplace, other = open_workplace(), sqlite3.connect(database)
    intake.submit(workplace.ledger, "away", good_edits[:4], "tester")
    write, report = module.write_all, module.job_report

    def locked(*args):
        other.execute("BEGIN IMMEDIATE")
        return write(*args)

    def unlocked(*args):
        other.rollback()
        return report(*args)

    monkeypatch.setattr(module, "write_all", locked)
    monkeypatch.setattr(module, "job_report", unlocked)
    summary = knowledge_update("away", POLICY.model_copy(update={"batch_size": 2}))
    assert summary.kept == 4 and summary.version == 2
    tracker = workplace.tracker()
    run_id = tracker._client.get_model_version_by_alias("away", "challenger").run_id
    assert [point.step for point in tracker._client.get_metric_history(run_id, "batch/efficacy_prob")] == [1, 2]
    assert tracker._client.get_run(run_id).info.status == "FINISHED"
