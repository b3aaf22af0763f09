"""What a reviewer sees in MLflow: a job's real output on a real server, read in a browser, hostile texts among it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.review import decisions
from tasks.tracking.client import Tracker
from tests.databases import mlflow_database
from tests.flows.conftest import POLICY
from tests.flows.mlflow_pages import PATIENCE, browser, close_assistant, picture
from tests.tasks.mlflow_server import MlflowServer

LINE = "capitals"
HOSTILE = "<img src=x onerror=alert(1)> **b** [x](javascript:alert(1)) | `c` www.evil.example http://evil.example/i.png"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("pages")
    made = MlflowServer(f"sqlite:///{mlflow_database(folder / 'mlflow.db')}", folder)
    made.start()
    yield made
    made.stop()


@dataclass(frozen=True)
class Job:
    """A job's output: the second of its line, whose first version is in service."""

    url: str
    run_id: str
    versions: dict[int, Any]
    tracker: Tracker


@pytest.fixture
def job(place, server, monkeypatch, good_edits) -> Job:
    monkeypatch.setenv("ERRATA_TRACKING_URI", server.url)
    place(LINE)  # for its folder
    monkeypatch.setenv("ERRATA_TRACKING_URI", server.url)
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    hostile = good_edits[7].model_copy(update={"id": "hostile", "target_new": HOSTILE})
    intake.submit(workplace.ledger, LINE, good_edits[:2], "tester")
    knowledge_update(LINE, POLICY)
    decisions.approve(workplace, LINE, reason="checked")
    intake.submit(workplace.ledger, LINE, [*good_edits[2:7], hostile], "tester")
    summary = knowledge_update(LINE, POLICY)
    assert summary.report is not None
    tracker = workplace.tracker()
    return Job(server.url, summary.report.mlflow_run_id, tracker.line_versions(LINE), tracker)


@pytest.mark.slow
def test_a_reviewer_finds_what_changes_what_it_is_and_how_to_decide(job):
    newest = max(job.versions)
    found, run = job.versions[newest], job.tracker._client.get_run(job.run_id)
    shown = f"v{newest} (MLflow {found.mlflow_number})"
    assert list(job.versions) == list(range(1, newest + 1)) and newest > 2, "a version of the job is missing"
    assert (found.tags["review"], found.tags["errata.status"]) == ("waiting", "waiting")
    assert job.versions[1].tags["errata.status"] == "in service" and job.versions[1].tags["review"] == "approved"
    assert run.info.run_name == f"{LINE} v1 → {shown}" and run.data.tags["errata.kind"] == "update"
    [requests] = run.inputs.dataset_inputs
    assert json.loads(requests.dataset.profile) == {"num_rows": 6} and "ledger" in requests.dataset.source
    assert {name.partition("/")[0] for name in run.data.metrics} == {"batch", "line", "final", "in_context"}
    with browser() as page:
        page.goto(f"{job.url}/#/models/{LINE}/versions/{found.mlflow_number}")
        page.get_by_text("What it changes").wait_for()
        close_assistant(page)
        assert page.get_by_text(f"{LINE} {shown}: ").count() and page.get_by_text(f"--version {newest}").count()
        picture(page, "mlflow-version")
        page.get_by_text("review", exact=True).last.scroll_into_view_if_needed()
        picture(page, "mlflow-version-tags")
        with page.expect_popup() as opened:
            page.get_by_role("link", name="report.html").click()
        report = opened.value.frame_locator("iframe").first
        report.get_by_text("review of a knowledge update").wait_for(timeout=PATIENCE)
        page.goto(f"{job.url}/#/experiments/{job.tracker.experiment_id}/runs/{job.run_id}")
        page.get_by_text("Not written").wait_for(state="attached")
        rows = page.locator("table").filter(has_text="Not written").locator("tr").all_inner_texts()
        assert any(HOSTILE[:40] in row for row in rows), rows
        picture(page, "mlflow-run")
        page.goto(f"{job.url}/#/experiments/{job.tracker.experiment_id}/runs/{job.run_id}/model-metrics")
        for group in ("batch", "line", "final"):
            page.get_by_text(group, exact=True).first.wait_for(state="attached")
        page.locator(".js-plotly-plot").nth(2).wait_for()
        picture(page, "mlflow-metrics")
        assert page.strange == []
