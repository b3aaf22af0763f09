"""Runs by a real worker: followed from the terminal, seen on Prefect's page, started by an automation, refused."""

import json
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows import decide
from flows.cli import remote
from flows.trial import trial
from tasks.ledger import intake
from tasks.ledger.trying import as_records
from tasks.prefect_events import send_event
from tests.costs import further
from tests.flows.command import check_one_line, command
from tests.flows.conftest import POLICY
from tests.flows.production import Production
from tests.waiting import until

LINE = "served"


@pytest.fixture
def errata(monkeypatch, capsys):
    return command(monkeypatch, capsys)


def policy() -> list[str]:
    return [part for name, value in POLICY.model_dump().items() for part in ("--set", f"{name}={json.dumps(value)}")]


def serving(workplace, line: str = LINE) -> int:
    head = workplace.store.head(line)
    return head.version if head else 0


@pytest.mark.slow
def test_a_job_and_a_decision_by_a_worker(production: Production, errata, good_edits):
    workplace = production.line(LINE)
    intake.submit(workplace.ledger, LINE, good_edits[:2], "tester")
    errata("deploy", LINE)
    with production.worker():
        job = errata("run", LINE, "--remote", *policy())
        assert (job.code, job.err) == (0, "")
        run = job.out.split("/runs/flow-run/")[1][:36]
        assert "kept batch 1 (2 edits) as version 1" in job.out  # a line of its log, as it came
        said = "2 kept, 0 quarantined, 0 rejected; version 1 waits for review"
        assert f"knowledge-update/{LINE} completed: {said}" in job.out
        assert production.state(run).message == said
        with production.client() as client:
            [shown] = client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[f"{LINE}-progress"]))
            )
        assert (shown.type, float(shown.data)) == ("progress", 100.0)

        decided = errata("approve", LINE, "--remote", "--json", "--reason", "checked").json
        assert (decided["state"], serving(workplace)) == ("Completed", 1)
        assert decided["message"] == f"approved version 1 of line {LINE}; in service: version 1"
        last = workplace.ledger.history(None, None, LINE, 1)[0]
        assert (last.event, last.actor) == ("promoted", "tester")
        assert workplace.store.head(LINE).way == "run in Prefect"


@pytest.mark.slow
@further  # each run is a process that imports everything; tests/services has a watch and a breach, too
def test_a_watch_and_a_breach_by_a_worker(production: Production, errata, good_edits):
    line, workplace = "watched", production.line("watched")
    intake.submit(workplace.ledger, line, good_edits[:2], "tester")
    errata("deploy", line)
    assert errata("run", line, *policy()).code == 0
    assert errata("approve", line, "--reason", "checked").code == 0 and serving(workplace, line) == 1
    with production.worker():
        watched = errata("watch", line, "--no-ask", "--remote")
        assert watched.code == 0 and f"watch/{line} completed: line {line}, version 1 in service: " in watched.out

        assert send_event("breached", line, {"version": 1, "sequence": 1, "text": "fluency {{ 1 }}"})
        until(lambda: serving(workplace, line) == 0)
    head = workplace.store.head(line)
    assert (head.actor, head.action, head.way) == ("automation", "rollback", "run in Prefect")
    assert head.reason.startswith("breached, says event ")
    state = decide.rollback(line, "automation", serving=1, return_state=True)  # told of it once more
    assert state.message == f"nothing to do: version 1 of line '{line}' is not in service"
    assert serving(workplace, line) == 0


def test_a_watch_and_upkeep_are_asked_for_with_what_was_typed(production, errata):
    production.line("looked-after")
    check_one_line(errata("watch", "looked-after", "--remote"), 2, "make it: errata deploy looked-after\n")
    errata("deploy", "looked-after")

    def asked(*arguments: str) -> dict:
        started = errata(*arguments, "--remote", "--no-wait", "--json").json
        with production.client() as client:
            return client.read_flow_run(started["run"]).parameters

    watch = asked("watch", "looked-after", "--no-ask", "--set", "queue_hours=2")
    assert (watch["line"], watch["ask"], watch["policy"]["queue_hours"]) == ("looked-after", False, 2)
    upkeep = asked("maintain", "--dry-run", "--cache-gib", "5")
    assert (upkeep["dry_run"], upkeep["limits"]["cache_gib"]) == (True, 5)
    check_one_line(errata("watch", "looked-after", "--remote", "--set", "colour=1"), 2, "colour = 1")


def test_a_refusal_ends_a_run_as_failed_with_its_one_line(production, capsys):
    production.line("refused")
    state = decide.reject("refused", reviewer="Ada", reason=" ", return_state=True)
    assert state.is_failed()
    assert state.message == "a rejection needs a reason: it stands in the ledger for whoever asks later"
    state = decide.approve("refused", reviewer="Ada", return_state=True)
    assert state.message == "nothing waits for review on line 'refused'; run `errata run refused` first"
    assert "Traceback" not in capsys.readouterr().err


def test_a_trial_takes_records_as_text_names_the_bad_ones_and_keeps_nothing(production, good_edits):
    workplace = production.line("tried")
    records = as_records(good_edits[:1]) + '\n{"subject": "nobody"}'
    [row] = trial("tried", records)
    assert row.request_id == good_edits[0].id and row.answer_after.startswith(good_edits[0].target_new)
    assert workplace.ledger.queued("tried") == []
    state = trial("tried", '{"subject": "nobody"}', return_state=True)
    assert state.is_failed() and "nothing to try: no record is good; row 1: edit of subject 'nobody'" in state.message


def test_ctrl_c_ends_the_following_alone_and_no_wait_does_not_follow(production, errata, monkeypatch):
    production.line("followed")
    errata("deploy", "followed")
    started = errata("run", "followed", "--remote", "--no-wait", "--json").json
    assert started["state"] == "Scheduled" and started["page"].endswith(started["run"])

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    # Only its own clock: Prefect's client sleeps, too, before it asks again.
    monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=stop, monotonic=time.monotonic))
    left = errata("run", "followed", "--remote")
    monkeypatch.undo()
    assert left.code == 130 and "stopped; no longer followed; knowledge-update/followed goes on: http" in left.err
    run = left.out.split("/runs/flow-run/")[1][:36]
    assert not production.state(run).is_final()


def test_a_followed_run_that_fails_is_one_line_and_exit_code_one(production, errata):
    from prefect.states import Failed  # here: only to stand for a worker that ran it

    production.line("fails")
    errata("deploy", "fails")
    start = remote._start

    def started(client, name, line, parameters):
        run = start(client, name, line, parameters)
        traceback = "Engine execution exited with unexpected exception\nTraceback (most recent call last):\n  File …"
        told = {"name": "prefect.flow_runs", "level": 40, "message": traceback, "flow_run_id": str(run.id)}
        client.create_logs([told | {"timestamp": datetime.now(UTC).isoformat()}])
        client.set_flow_run_state(run.id, Failed(message="the disk\nis full"), force=True)
        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_start", started)
        ran = errata("run", "fails", "--remote")
    check_one_line(ran, 1, "knowledge-update/fails ended Failed: the disk is full; http")
