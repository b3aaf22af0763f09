"""The watch over a line on the fact model: what is wrong with what serves is found, sent as an event, told once."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running, Scheduled

from editing.request import Request
from flows.knowledge_update import knowledge_update
from flows.watch import watch
from tasks.ledger import intake
from tasks.ledger.view import look
from tasks.lines.specs import resolve_line, save_line
from tasks.names import artifact_key
from tasks.prefect_events import send_event
from tasks.review import decisions
from tasks.settings import load_settings
from tasks.stores.lease import acquire
from tasks.watch import schedules
from tasks.watch.checks import check_aliases
from tasks.watch.memory import Memory
from tasks.watch.policy import WatchPolicy
from tasks.workplace import Workplace, open_workplace
from tests.flows.command import check_one_line
from tests.flows.conftest import METHOD, POLICY
from tests.flows.harm import put_damage_in_service
from tests.receiver import receiver
from tests.waiting import until

LINE, POOL = "watched", "watched-pool"
LENIENT = WatchPolicy(max_perplexity_ratio=1.5, ask_hours=0)
"""The fact model is small, and a job of these tests may cost it that much."""


@pytest.fixture(scope="module")
def served(tmp_path_factory, shared_places, prefect_server, good_edits) -> Path:
    """A home with a version in service that holds three facts, one of them for an hour."""
    home = tmp_path_factory.mktemp("served") / "home"
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_server}):
        for name, value in {**shared_places, "ERRATA_HOME": str(home), "PREFECT_API_URL": prefect_server}.items():
            patch.setenv(name, value)
        workplace = open_workplace(load_settings())
        store = workplace.store.store
        save_line(store, resolve_line(store, workplace.settings, LINE, options=METHOD))
        passing = Request(**good_edits[2].model_dump(), expires=datetime.now(UTC) + timedelta(hours=1))
        intake.submit(workplace.ledger, LINE, [*good_edits[:2], passing], "tester")
        assert knowledge_update(LINE, POLICY).version == 1
        decisions.approve(workplace, LINE)
    return home


@pytest.fixture
def workplace(served, tmp_path, monkeypatch, shared_places, prefect_server) -> Iterator[Workplace]:
    """A copy of that home, in use by this process."""
    home = shutil.copytree(served, tmp_path / "home")
    for name, value in {**shared_places, "ERRATA_HOME": str(home), "PREFECT_API_URL": prefect_server}.items():
        monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield open_workplace(load_settings())


@pytest.fixture
def heard(monkeypatch) -> Iterator[list[str]]:
    """The lines that people are told."""
    messages: list[str] = []

    with receiver(lambda said: messages.append(f"{said['title']}: {said['message']}")) as address:
        monkeypatch.setenv("ERRATA_NOTIFY", address)
        yield messages


def breaches(workplace: Workplace) -> list[dict[str, Any]]:
    """The events that say of what serves here now that it is not as it should be."""
    snapshot = workplace.store.head(LINE).snapshot
    return [event for event in events("breached") if event["payload"]["snapshot"] == snapshot]


def events(kind: str, line: str = LINE) -> list[dict[str, Any]]:
    """The events of this kind about a line that Prefect's server has. All copies of the home have one line."""
    wanted = {"event": {"name": [f"errata.line.{kind}"]}, "resource": {"id": [f"errata.line.{line}"]}}
    with get_client(sync_client=True) as client:
        return list(client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"])


def kinds(report: Any) -> set[str]:
    return {finding.kind for finding in report.findings}


def texts(report: Any) -> dict[str, str]:
    """Of the findings, but for MLflow's aliases, which the copies of the home share."""
    return {finding.kind: finding.text for finding in report.findings if finding.kind != "aliases"}


def test_a_healthy_line_has_a_series_of_numbers_and_a_page(workplace, heard):
    first, second = watch(LINE, policy=LENIENT), watch(LINE, policy=LENIENT)
    assert texts(first) == {} == texts(second) and second.findings == () and first.asked == 3 and first.version == 1
    assert first.numbers["live_efficacy_prob"] == 1.0 and 1.0 < first.numbers["perplexity_ratio"] < 1.5
    run_id = Memory(workplace.store.store, LINE).read().mlflow_run_id
    client = workplace.tracker()._client
    series = client.get_metric_history(run_id, "watch/perplexity_ratio")
    assert [point.step for point in series][-2:] == [1, 2] and client.get_run(run_id).info.status == "FINISHED"
    page = Artifact.get(artifact_key(LINE, "watch"))
    assert page is not None and "all is well" in str(page.data) and "perplexity" in str(page.data)
    assert heard == []


def test_a_version_that_held_is_asked_again_after_a_while_and_another_one_at_once(workplace):
    hourly = LENIENT.model_copy(update={"ask_hours": 1})
    assert [watch(LINE, policy=hourly).asked for _ in range(3)] == [3, 0, 0]
    assert watch(LINE, policy=LENIENT).asked == 3
    put_damage_in_service(workplace, LINE)
    assert watch(LINE, policy=hourly).breached and watch(LINE, policy=hourly).breached, "what did not hold is asked"


def test_a_harmful_version_in_service_is_a_breach_sent_and_told_once(workplace, heard):
    number = put_damage_in_service(workplace, LINE)
    report = watch(LINE, policy=LENIENT)
    assert report.breached and {"perplexity", "efficacy"} <= kinds(report)
    until(lambda: len(breaches(workplace)) == 1, 20)
    [sent] = breaches(workplace)
    assert sent["payload"]["version"] == number and len(sent["payload"]["findings"]) == 2
    assert sent["payload"]["sequence"] == workplace.store.head(LINE).sequence
    assert len(heard) == 2 and all(f"Errata, line {LINE}: breached: version {number}" in text for text in heard)
    remembered = Memory(workplace.store.store, LINE).read()
    assert watch(LINE, policy=LENIENT).breached
    now = Memory(workplace.store.store, LINE).read()
    assert (now.emitted, now.told) == (remembered.emitted, remembered.told) and len(heard) == 2
    assert len(breaches(workplace)) == 1
    decisions.roll_back(workplace, LINE, reason="breached")
    assert not watch(LINE, policy=LENIENT).breached


def test_of_two_watches_at_once_the_server_takes_one_event(workplace):
    for name in ("a finding", "a finding", "another one"):
        assert send_event("late", "at-once", {"kind": "queue"}, name)
    until(lambda: len(events("late", "at-once")) == 2, 20)
    with pytest.raises(AssertionError, match="a third"):
        until(lambda: len(events("late", "at-once")) > 2, 1, "a third did not come")


def test_a_breach_of_what_no_longer_serves_is_not_told(workplace, heard, monkeypatch):
    from tasks.watch import asking

    put_damage_in_service(workplace, LINE)
    ask, bad = asking.ask_champion, workplace.store.head(LINE).snapshot

    def asked_too_late(*arguments: Any) -> Any:
        found = ask(*arguments)
        decisions.roll_back(workplace, LINE, reason="somebody was faster")
        return found

    monkeypatch.setattr(asking, "ask_champion", asked_too_late)
    assert not watch(LINE, policy=LENIENT).breached and heard == []
    assert Memory(workplace.store.store, LINE).read().emitted == {}
    assert bad not in {event["payload"]["snapshot"] for event in events("breached")}


def test_tensors_that_are_not_what_was_stored_are_a_breach_for_the_command_too(workplace, errata, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(workplace.settings.home_folder))
    [manifest] = workplace.store.chain(workplace.store.head(LINE).snapshot)
    [digest] = manifest.files.values()
    path = Path(workplace.store.store.uri, "blobs", f"{digest}.safetensors")
    path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    ran = errata("watch", LINE, "--json")
    [breach] = [one for one in json.loads(ran.out)["findings"] if one["weight"] == "breach"]
    assert ran.code == 1 and breach["kind"] == "damaged" and "expected sha256" in breach["text"]


@pytest.fixture
def deployment(workplace, prefect_server) -> Iterator[Any]:
    """A deployment of the job of this line, with a schedule, on a work pool of its own."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        flow_id = client.create_flow_from_name("knowledge-update")
        schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 3 * * *"), active=True)
        made = client.create_deployment(flow_id, LINE, work_pool_name=POOL, schedules=[schedule])
        yield client.read_deployment(made)
        client.delete_deployment(made)
        client.delete_work_pool(POOL)


def test_a_worker_that_is_gone_and_a_run_that_did_not_start_are_late_and_told_once_a_day(workplace, heard, deployment):
    def found(**limits: float) -> dict[str, str]:
        report = watch(LINE, ask=False, policy=WatchPolicy(**limits))
        assert not report.breached
        return texts(report)

    assert found() == {"worker": f"work pool '{POOL}' never had a worker, worker_minutes is 5: start one"}
    with get_client(sync_client=True) as client:
        client.send_worker_heartbeat(POOL, "a-worker")
        assert found() == {}
        gone = found(worker_minutes=0)
        assert "has heard of no worker for" in gone["worker"]
        run = client.create_flow_run_from_deployment(
            deployment.id, state=Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=2))
        )
        assert "1 runs of knowledge-update/watched did not start, the oldest is 2 h late" in found()["run"]
        assert found(late_minutes=180) == {}
        client.set_flow_run_state(run.id, Running(), force=True)
        assert found() == {}, "it runs"
        client.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))
        assert "is paused" in found()["worker"]
    assert len(heard) == 2, "one finding is the same finding, however often it comes and goes in a day"
    assert {sent["payload"]["kind"] for sent in events("late")} >= {"worker", "run"}


def test_a_watch_over_no_line_fails_with_its_one_line(workplace, capsys):
    state = watch("nowhere", return_state=True)
    assert state.is_failed() and state.message == "there is no line 'nowhere'; lines are watched"
    assert "Traceback" not in capsys.readouterr().err


def test_a_schedule_that_plans_nothing_is_late(workplace, deployment, monkeypatch):
    monkeypatch.setattr(schedules, "NEW", timedelta(0))
    with get_client(sync_client=True) as client:
        client.send_worker_heartbeat(POOL, "a-worker")
        for run in client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
        ):
            client.delete_flow_run(run.id)
    [finding] = watch(LINE, ask=False).findings
    assert finding.kind == "schedule" and "no run is planned" in finding.text


def test_a_queue_older_than_its_limit_and_a_job_that_is_gone_are_late(workplace, heard, good_edits):
    intake.submit(workplace.ledger, LINE, good_edits[3:5], "tester")
    lease = acquire(workplace.store.store, LINE, ttl_seconds=0.01, flow_run_id="abc")
    report = watch(LINE, ask=False, policy=WatchPolicy(queue_hours=0))
    found = texts(report)
    assert found.keys() == {"queue", "lease"} and report.numbers["queued"] == 2
    assert "2 requests wait for a job" in found["queue"] and "flow run abc" in found["lease"]
    lease.release()
    assert texts(watch(LINE, ask=False)) == {} and len(heard) == 2


def test_a_request_is_late_only_from_when_a_job_may_take_it_up(workplace, heard, good_edits):
    now = datetime.now(UTC)
    for number, early in enumerate((now + timedelta(days=1), now - timedelta(seconds=1)), start=3):
        intake.submit(workplace.ledger, LINE, [Request(**good_edits[number].model_dump(), not_before=early)], "tester")
        report = watch(LINE, ask=False, policy=WatchPolicy(queue_hours=0))
        assert report.numbers["queued"] == number - 2 and report.numbers["queue_hours"] < 0.1
        assert [finding.text[:29] for finding in report.findings] == ["1 request waits for a job, th"] * (number - 3)


def test_a_request_that_waits_for_a_review_is_not_late(workplace, heard, good_edits):
    knowledge_update(LINE, POLICY)
    intake.submit(workplace.ledger, LINE, [good_edits[3]], "tester")
    assert knowledge_update(LINE, POLICY).version == 2
    other = good_edits[3].model_copy(update={"id": "other", "target_new": "Rome"})
    intake.submit(workplace.ledger, LINE, [other], "tester")
    assert "queue" not in texts(watch(LINE, ask=False, policy=WatchPolicy(queue_hours=0)))
    decisions.reject(workplace, LINE, 2, "wrong")
    assert "1 request waits" in texts(watch(LINE, ask=False, policy=WatchPolicy(queue_hours=0)))["queue"]


def test_a_fact_whose_time_is_over_is_taken_out_by_the_watch_and_the_next_job(workplace, good_edits, monkeypatch):
    clock = SimpleNamespace(now=lambda zone: datetime.now(zone) + timedelta(hours=2))
    monkeypatch.setattr("tasks.ledger.removals.datetime", clock)
    fact = good_edits[2].id
    assert watch(LINE, ask=False).done == (f"{fact}: expired, to be taken out by the next job",)
    assert watch(LINE, ask=False).done == ()
    knowledge_update(LINE, POLICY)
    decisions.approve(workplace, LINE)
    assert {*look(workplace.store, workplace.ledger, LINE).live} == {edit.id for edit in good_edits[:2]}
    last = workplace.ledger.history(fact, line=LINE)[-1]
    assert last.event == "retracted" and f"by request 'retract:{fact}@" in (last.reason or "")


def test_what_cannot_be_reached_is_said_and_keeps_nothing_back(workplace, errata, heard, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(workplace.settings.home_folder))
    monkeypatch.setenv("ERRATA_TRACKING_URI", "http://127.0.0.1:9")
    ran = errata("watch", LINE, "--no-ask", "--set", "queue_hours=1")
    assert ran.code == 1 and "Traceback" not in ran.out + ran.err
    assert "not seen" in ran.out and "1 late" in ran.out and "queued" in ran.out
    [told] = heard
    assert "late: MLflow: no MLflow server answers at http://127.0.0.1:9" in told


def test_without_a_server_a_watch_looks_at_the_rest_and_a_mistake_is_one_line(workplace, errata, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(workplace.settings.home_folder))
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        report = errata("watch", LINE, "--no-ask", "--json").json
        check_one_line(errata("watch", "nowhere"), 2, "there is no line 'nowhere'")
        check_one_line(errata("watch", LINE, "--set", "colour=1"), 2, "watch policy colour = 1: .*fields are min_live")
    assert report["version"] == 1 and report["asked"] == 0


def test_aliases_follow_from_head_again(workplace):
    tracker = workplace.tracker()
    for look_after in (
        lambda: watch(LINE, ask=False),
        lambda: check_aliases(workplace, look(workplace.store, workplace.ledger, LINE)),
    ):
        tracker.set_aliases(LINE, None, 1, None)
        found = look_after()
        assert tracker.aliases(LINE) == {"champion": 1}
    [finding] = found
    assert (finding.kind, finding.weight) == ("aliases", "repaired") and "challenger 1" in finding.text
    assert check_aliases(workplace, look(workplace.store, workplace.ledger, LINE)) == []
