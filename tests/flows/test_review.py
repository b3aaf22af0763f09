"""A review in Prefect for real: a server, a worker, forms filled in through the API, decided here and elsewhere."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.review import decide, request_review, review
from tasks.ledger.view import look
from tasks.review import decisions
from tests.flows.production import description
from tests.tasks.reviewed_line import ReviewedLine

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "</p><script>alert(1)</script> [x](http://evil) | *b* {{ 7*7 }}"


class Reviews:
    """The runs of the flow `review` on a server with a worker."""

    def __init__(self, client: SyncPrefectClient, url: str) -> None:
        self.client, self.url = client, url

    def deploy(self, line: str) -> None:
        flow = review.from_source(source=str(ROOT), entrypoint="flows/review.py:review")
        flow.deploy(
            line, work_pool_name="reviews", build=False, push=False, print_next_steps=False, ignore_warnings=True
        )

    def runs(self, line: str) -> list[Any]:
        return [run for run in self.client.read_flow_runs() if run.parameters.get("line") == line]

    def wait(self, line: str, name: str, other_than: object = None) -> Any:
        """The line's only run, as soon as its state has this name (and is not the one given)."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            [run] = self.runs(line)
            if run.state.name == name and run.state.id != other_than:
                return run
            assert run.state.type not in ("FAILED", "CRASHED"), run.state
            time.sleep(0.2)
        raise AssertionError(f"{run.state} is not {name}")

    def fill_in(self, run: Any, **answer: str) -> str:
        """What the server says to a form, as soon as it says something: it may be busy with the run's own end."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            said = httpx.post(f"{self.url}/flow_runs/{run.id}/resume", json={"run_input": answer}, timeout=60).json()
            if "status" in said:
                return str(said["status"])
            time.sleep(0.2)
        raise AssertionError(said)

    def description(self, run: Any) -> str:
        return description(self.client, str(run.id))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def reviews(prefect_server: str, home: Path) -> Iterator[Reviews]:
    places = {"ERRATA_HOME": str(home), "ERRATA_CACHE": str(home / "cache"), "ERRATA_ACTOR": "worker"}
    places |= {"PREFECT_API_URL": prefect_server, "PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": str(ROOT)}
    places |= {"PREFECT_HOME": str(home / "worker")}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "reviews", "--type", "process"]
    with (
        temporary_settings({PREFECT_API_URL: prefect_server}),
        pytest.MonkeyPatch.context() as patched,
        get_client(sync_client=True) as client,
        (home / "worker.log").open("w") as log,
    ):
        for name, value in places.items():
            if name != "PREFECT_HOME":
                patched.setenv(name, value)
        client.create_work_pool(WorkPoolCreate(name="reviews", type="process"))
        worker = subprocess.Popen(command, env={**os.environ, **places}, stdout=log, stderr=log)
        yield Reviews(client, prefect_server)
        worker.kill()  # it would wait for its runs, which nobody waits for any more
        worker.wait(60)


@pytest.mark.slow
def test_a_form_is_asked_until_it_can_be_carried_out(reviews: Reviews, home: Path):
    line = ReviewedLine(home, "form")
    version = line.make(subject=HOSTILE)
    request_review("form", 1, version.snapshot)  # nothing is deployed: nothing happens
    assert reviews.runs("form") == []
    reviews.deploy("form")
    for _ in range(2):
        request_review("form", 1, version.snapshot)
    run = reviews.wait("form", "Suspended")
    shown = reviews.description(run)
    assert "<script" not in shown and "[x](" not in shown and "script" in shown and "Rome" in shown
    assert reviews.fill_in(run, decision="perhaps") == "REJECT" and reviews.fill_in(run) == "REJECT"
    assert reviews.wait("form", "Suspended").state.id == run.state.id  # the same form still waits
    assert reviews.fill_in(run, decision="reject", comment=" ", reviewer="bob") == "ACCEPT"
    again = reviews.wait("form", "Suspended", other_than=run.state.id)
    assert "Asked once more:** a rejection needs a reason" in reviews.description(again)
    assert reviews.fill_in(again, decision="approve", comment=HOSTILE, reviewer="bob") == "ACCEPT"
    done = reviews.wait("form", "Decided")
    head = line.workplace.store.head("form")
    assert (head.version, head.actor, head.way, head.reason) == (1, "bob", "Prefect's form", HOSTILE)
    assert done.state.type == "COMPLETED" and "version 1 of line 'form' approved by bob" in done.state.message
    states = look(line.workplace.store, line.workplace.ledger, "form").events.standings.values()
    assert {one.state for one in states} == {"promoted"}


@pytest.mark.slow
def test_a_form_is_closed_when_it_was_decided_elsewhere(reviews: Reviews, home: Path):
    line = ReviewedLine(home, "elsewhere")
    version = line.make()
    reviews.deploy("elsewhere")
    request_review("elsewhere", 1, version.snapshot)
    run = reviews.wait("elsewhere", "Suspended")
    decisions.reject(line.workplace, "elsewhere", 1, "wrong source")
    done = reviews.wait("elsewhere", "Decided")
    assert "was rejected by" in done.state.message and "(command line): wrong source" in done.state.message
    assert reviews.fill_in(run, decision="approve") == "ABORT" and line.serving() == 0
    request_review("elsewhere", 1, version.snapshot)
    assert len(reviews.runs("elsewhere")) == 1


def test_an_answer_that_comes_too_late_is_told_who_was_first(home: Path):
    line = ReviewedLine(home, "late")
    line.make()
    decisions.approve(line.workplace, "late", 1)
    said, refused = decide(line.workplace, "late", 1, {"decision": "reject", "comment": "no", "reviewer": "bob"})
    assert said.startswith("not carried out: version 1 of line 'late' was approved by") and not refused
