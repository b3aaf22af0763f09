"""Jobs cancelled, stopped, or killed with their worker, in the midst of a value search: all is put in order."""

import os
import signal

import psutil
import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling

from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.ledger.view import look
from tasks.lines.specs import read_line, spec_key
from tasks.stores.lease import holder
from tests.costs import processor_time
from tests.flows.command import command, start
from tests.flows.conftest import METHOD, POLICY
from tests.flows.production import SLOW_SEARCH, Production, processes_of, wait_for_a_heartbeat
from tests.waiting import until

SECONDS = 10.0


@pytest.fixture
def errata(monkeypatch, capsys):
    return command(monkeypatch, capsys)


@pytest.fixture
def searching(production: Production, errata, good_edits):
    """Makes a line whose job searches for minutes, and deploys it."""

    def make(line: str):
        workplace = production.line(line, SLOW_SEARCH)
        intake.submit(workplace.ledger, line, good_edits[:8], "tester")
        assert errata("deploy", line).code == 0
        return workplace

    return make


def is_searching(production: Production, run: str) -> bool:
    return any("values: " in line for line in production.log(run))


def mlflow_states(workplace, line: str) -> list[str]:
    tracker = workplace.tracker()
    found = tracker._client.search_runs([tracker.experiment_id], f"tags.`errata.line` = '{line}'")
    return [run.info.status for run in found]


def check_in_order(workplace, line: str) -> None:
    """The line is free, MLflow's run is killed, every request is queued, and nothing was kept of the batch in hand."""
    lease = holder(workplace.store.store, line)
    assert lease is not None and lease.released
    assert mlflow_states(workplace, line) == ["KILLED"]
    assert {state.state for state in workplace.ledger.states(line).values()} == {"queued"}
    assert workplace.store.versions(line) == []


def make_quick(workplace, line: str) -> None:
    """The same line with a search that ends."""
    spec = read_line(workplace.store.store, line)
    quick = spec.model_copy(update={"config": type(spec.config).model_validate(METHOD)})
    store = workplace.store.store
    _, etag = store.get(spec_key(line))
    store.put_if_match(spec_key(line), quick.model_dump_json().encode(), etag)


@pytest.mark.slow
def test_a_cancelled_job_ends_at_once_and_one_that_is_killed_with_its_worker_as_crashed(production, searching):
    cancelled, killed = searching("cancelled"), searching("killed")
    with production.worker() as worker:
        run = production.start("knowledge-update/cancelled", policy=POLICY.as_form())
        until(lambda: is_searching(production, run))
        with production.client() as client:
            client.set_flow_run_state(run, Cancelling())
        state = production.ended(run, 60)  # what it searches takes minutes
        assert state.type == StateType.CANCELLED and state.message.startswith("cancelled; what was kept")
        check_in_order(cancelled, "cancelled")

        wait_for_a_heartbeat(10)
        run = production.start("knowledge-update/killed", policy=POLICY.as_form())
        until(lambda: production.state(run).is_running())
        until(lambda: holder(killed.store.store, "killed"))
        family = processes_of(worker)
        for one in family:
            one.kill()
        psutil.wait_procs(family, timeout=10)
    state = production.ended(run)
    assert state.type == StateType.CRASHED and "its heartbeat is gone" in state.message
    make_quick(killed, "killed")
    assert knowledge_update("killed", POLICY).version is not None
    assert look(killed.store, killed.ledger, "killed").waiting
    assert set(mlflow_states(killed, "killed")) <= {"KILLED", "FINISHED"}


@pytest.mark.slow
def test_ctrl_c_ends_a_job_of_the_terminal_in_order(production, searching):
    workplace = searching("stopped")
    job = start(("run", "stopped"), {**os.environ, "PYTHONUNBUFFERED": "1"})
    while "values" not in (said := job.stdout.readline()):
        assert said, job.stderr.read()
    before = processor_time() + sum(psutil.Process(job.pid).cpu_times()[:2])
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=60)
    assert processor_time() - before < SECONDS  # of that: the machine may have other things to do
    assert job.returncode == 130 and "stopped; what was committed stands, the rest is still queued" in err
    check_in_order(workplace, "stopped")
