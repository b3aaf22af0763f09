"""`errata deploy` on a real Prefect server: once or twice the same, forms that help, mistakes refused before a run."""

from collections.abc import Iterator
from typing import Any

import pytest
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cli.deployment_table import read_table
from tests.costs import further
from tests.flows.command import Errata, check_one_line, command
from tests.flows.production import Production
from tests.receiver import receiver
from tests.waiting import until

LINES = ("alpha", "beta")


@pytest.fixture
def errata(monkeypatch, capsys) -> Errata:
    return command(monkeypatch, capsys)


@pytest.fixture
def deployed(production: Production, errata: Errata) -> list[dict[str, str]]:
    return errata("deploy", *LINES, "--json").json


def changes(rows: list[dict[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["change"], set()).add(row["name"])
    return found


def test_what_is_deployed_twice_stands_there_once_and_what_people_set_stays(production, errata):
    dry = changes(errata("deploy", *LINES, "--dry-run", "--json").json)
    assert "knowledge-update/beta" in dry["created"]
    with production.client() as client:
        assert not {one.name for one in client.read_deployments()} & {*LINES}  # other lines have theirs
        first = changes(errata("deploy", *LINES, "--json").json)
        assert first == dry and "updated" not in first
        again = changes(errata("deploy", *LINES, "--json").json)
        assert again["unchanged"] == first["created"] | first.get("unchanged", set())
        assert again.keys() == first.keys() - {"created"} | {"unchanged"}
        names = [one.name for one in client.read_automations()]
        assert len(names) == len(set(names)) and "errata: a breach of beta rolls it back" in names

        job = client.read_deployment_by_name("knowledge-update/alpha")
        assert job.global_concurrency_limit.limit == 1 and job.concurrency_options.collision_strategy == "ENQUEUE"
        assert [one.schedule.cron for one in job.schedules] == ["0 3 * * *"] and job.tags == ["errata", "alpha"]
        theirs = [{"schedule": CronSchedule(cron="5 5 * * *", timezone="UTC"), "active": False}]
        client.update_deployment(job.id, DeploymentUpdate(schedules=theirs, description="mine"))
        rolls = next(one for one in client.read_automations() if one.name == "errata: a breach of alpha rolls it back")
        client.pause_automation(rolls.id)
        repaired = changes(errata("deploy", "alpha", "--json").json)
        assert repaired["updated"] == {"knowledge-update/alpha"}
        job = client.read_deployment(job.id)
        assert [(one.schedule.cron, one.active) for one in job.schedules] == [("5 5 * * *", False)]
        assert job.description.startswith("Correct the queued facts")
        assert not client.read_automation(rolls.id).enabled
        said = errata("deploy", "alpha", "--cron", "7 7 * * *").out
        worker = f"PREFECT_API_URL={production.url} python -m prefect worker start --pool"
        assert worker in " ".join(said.split())
        assert [one.schedule.cron for one in client.read_deployment(job.id).schedules] == ["7 7 * * *"]


def test_a_flow_that_this_installation_lacks_is_left_out_by_name(production, errata, monkeypatch):
    table = read_table()
    entry = table.deployments[1].model_copy(update={"flow": "fly", "entrypoint": "flows.fly.fly"})
    table = table.model_copy(update={"deployments": [*table.deployments, entry]})
    monkeypatch.setattr("flows.cli.deployment_table.read_table", lambda: table)
    rows = errata("deploy", "alpha", "--json").json
    [row] = [row for row in rows if row["name"] == "fly/alpha"]
    assert (row["change"], row["about"]) == ("left out", "flows.fly.fly is not there")


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from schema.get("properties", {}).items()
    for nested in schema.get("definitions", {}).values():
        yield from nested.get("properties", {}).items()


def test_every_field_of_every_form_is_explained_and_as_plain_as_can_be(production, deployed):
    seen = {}
    with production.client() as client:
        for one in client.read_deployments():
            seen |= {f"{one.entrypoint} {name}": field for name, field in fields(one.parameter_openapi_schema)}
    assert len(seen) > 30
    assert [name for name, field in seen.items() if not field.get("title")] == []
    assert [name for name, field in seen.items() if not field.get("description")] == []
    assert [name for name, field in seen.items() if {"type": "null"} in field.get("anyOf", [])] == []
    assert seen["flows.knowledge_update.knowledge_update limit"]["type"] == "integer"
    assert seen["flows.decide.reject reason"]["minLength"] == 1


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("knowledge-update/alpha", {"policy": {"batch_size": 11}}, "11 is greater than the maximum of 10"),
        ("knowledge-update/alpha", {"limit": "many"}, "'many'"),
        ("reject/alpha", {"reviewer": "Ada"}, "'reason' is a required property"),
        ("approve/alpha", {"reviewer": ""}, "'' should be non-empty"),
        ("rollback/alpha", {"reviewer": "Ada", "to": -1}, "-1 is less than the minimum of 0"),
    ],
)
def test_a_wrong_value_is_refused_before_a_run_starts(production, deployed, name, parameters, says):
    with pytest.raises(PrefectHTTPStatusError, match=says):
        production.start(name, **parameters)


def test_a_value_that_is_left_empty_is_taken(production, deployed):
    run = production.start("knowledge-update/alpha", limit=None, policy={"batch_size": 5})
    with production.client() as client:
        client.delete_flow_run(run)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("deploy", "No Line"), "'No Line'"),
        (("deploy", "--cron", "at night"), "--cron 'at night' is no schedule: write five fields"),
        (
            ("run", "nowhere", "--remote"),
            "Prefect has no deployment 'knowledge-update/nowhere'; make it: errata deploy",
        ),
        (("run", "alpha", "--remote", "--set", "batch_size=11"), "batch_size = 11"),
        (("reject", "alpha", "--remote"), "Validation failed for field 'reason'"),
    ],
)
def test_a_mistake_is_one_line(production, deployed, errata, arguments, says):
    check_one_line(errata(*arguments), 2, says)


def test_without_a_server_one_line_says_what_to_do(production, errata, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL")
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        for arguments in (("deploy",), ("run", "--remote")):
            check_one_line(errata(*arguments), 2, "no Prefect server is configured: set ERRATA_PREFECT_API_URL")


def test_a_late_job_has_its_line_looked_after_and_people_are_told_by_the_server_itself(production, errata, monkeypatch):
    heard: list[str] = []

    def hear(told: dict[str, Any]) -> None:
        """Of a pool without a worker this line's channel is told as well, sooner or later than of the late job."""
        heard.extend([told["message"]] if "knowledge-update/late" in told["message"] else [])

    with receiver(hear) as address:
        monkeypatch.setenv("ERRATA_NOTIFY", f"{address}/")
        told = changes(errata("deploy", "late", "--json").json)
        assert {"errata-notify-1", "errata: people are told of what is late"} <= told["created"]
        assert "errata-notify-1" in changes(errata("deploy", "late", "--json").json)["unchanged"]
        production.start("knowledge-update/late")
        until(lambda: heard, 60)
    assert (
        "knowledge-update/late did not start in time" in heard[0]
        and f"{production.url[:-4]}/runs/flow-run/" in heard[0]
    )
    assert until(lambda: asked_for(production, "watch/late"), 60) == [{"line": "late"}]


def asked_for(production: Production, name: str) -> list[dict[str, Any]]:
    """Parameters of the runs of a deployment that no schedule has made."""
    with production.client() as client:
        deployment = client.read_deployment_by_name(name)
        wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
        runs = client.read_flow_runs(deployment_filter=wanted)
    return [run.parameters for run in runs if not run.auto_scheduled]


@further  # half a minute of waiting for heartbeats that do not come
def test_people_are_told_once_by_the_server_itself_when_no_worker_is_left(production, errata, monkeypatch):
    heard: list[str] = []

    def hear(told: dict[str, Any]) -> None:
        """Of runs that are late other tests may have left some."""
        heard.extend([told["message"]] if told["title"] == "Errata: no worker" else [])

    with receiver(hear) as address, production.client() as client:
        errata("deploy", "alone")

        def ready() -> bool:
            return bool(client.read_work_pool("errata").status == "READY")

        for worker in client.request("POST", "/work_pools/errata/workers/filter", json={}).json():
            client.request("DELETE", f"/work_pools/errata/workers/{worker['name']}")  # of other tests
        until(lambda: not ready())
        monkeypatch.setenv("ERRATA_NOTIFY", f"{address}/")
        errata("deploy", "alone")
        for times in (1, 2):
            client.send_worker_heartbeat("errata", "a-worker", heartbeat_interval_seconds=1)
            until(ready)
            until(lambda: not ready())
            until(lambda times=times: len(heard) >= times, 60)
    assert len(heard) == 2 and heard[0] == heard[1], heard
    assert "no worker is left for the work pool errata" in heard[0]
    assert heard[0].endswith(f"{production.url[:-4]}/work-pools/work-pool/errata")
