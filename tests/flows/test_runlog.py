"""The page of a flow's run in Prefect follows its progress, on a real server, whatever the console's log shows."""

import logging
import time

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import Log
from prefect.client.schemas.sorting import LogSort
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.cli.console import shown_progress
from tasks import runlog
from tasks.progress import note, progress, stage
from tasks.runlog import told_to_prefect
from tests.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch, prefect_server):
    monkeypatch.setattr(runlog, "LINE_SECONDS", 0.2)
    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: True}):
        yield


def logged(run_id: str) -> list[Log]:
    with get_client(sync_client=True) as client:
        return client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])), sort=LogSort.TIMESTAMP_ASC)


def test_a_run_says_on_its_page_how_far_it_is_while_it_goes_on_and_the_terminal_says_so_too(capsys):
    @flow(name="followed", flow_run_name="somewhere")
    def job() -> str:
        run_id = str(flow_run.id)
        with told_to_prefect("edits", "progress"):
            progress("edits", 0, 8)
            with stage("apply batch"):
                progress("values", 0, 4)
                progress("values", 1, 4)
                until(lambda: any("values: 1 of 4 (25 %)" in line.message for line in logged(run_id)))
                progress("values", 4, 4)
            note("batch 1 of \udcff", "quarantined")
            progress("edits", 2, 8)
            until(lambda: ("25.0", True) in artifacts())
        return run_id

    def artifacts() -> list[tuple[str, bool]]:
        with get_client(sync_client=True) as client:
            found = client.read_artifacts()
        mine = [one for one in found if one.key == "somewhere-progress"]
        return [(str(float(one.data)), "edits: 2 of 8" in str(one.description)) for one in mine]

    with shown_progress():
        run_id = job()
    lines = {line.message: line.level for line in logged(run_id)}
    assert lines["quarantined batch 1 of \\udcff"] == logging.WARNING
    assert any(line.startswith("values: 4 of 4 in ") for line in lines)
    assert any("; edits: 0 of 8 (0 %)" in line for line in lines)
    shown = capsys.readouterr()
    assert "quarantined batch 1" in shown.out and shown.err == ""


def test_work_goes_on_where_the_server_takes_no_line_of_it(capsys):
    with told_to_prefect("edits"):  # in no run: the server refuses what it is told
        note("said", "kept")
        progress("edits", 1, 2)
        time.sleep(3 * runlog.LINE_SECONDS)
    assert capsys.readouterr().err == ""
