"""Brings a Prefect server to what the table of deployments says. Nothing is written where nothing differs.

What people may have changed on Prefect's pages stays: schedules, and whether a deployment or an automation is paused.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.workers.process import ProcessWorker

from editing.errors import UsageError
from flows.cli.deployment_table import Entry, Table
from flows.cli.forms import form_of

Change = Literal["created", "updated", "unchanged", "left out"]


class Done(NamedTuple):
    """What became of one thing on the server."""

    kind: str
    name: str
    change: Change
    about: str = ""


class Deployer:
    """Applies a table; with `dry` it only says what would change."""

    def __init__(self, client: SyncPrefectClient, table: Table, dry: bool) -> None:
        self.client, self.table, self.dry = client, table, dry
        self.done: list[Done] = []
        self.ids: dict[tuple[str, str], str] = {}
        """Deployments by flow and name; one that a dry run would create has none."""

    def work_pool(self) -> None:
        """Raises UsageError where a pool of that name runs something else than processes."""
        name = self.table.work_pool
        try:
            found = self.client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            if not self.dry:
                pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
                self.client.create_work_pool(pool)
            self.done.append(Done("work pool", name, "created"))
            return
        if found.type != "process":
            raise UsageError(
                f"the work pool '{name}' is of type {found.type}, not process: rename or remove it, then repeat"
            )
        self.done.append(Done("work pool", name, "unchanged"))

    def deployment(self, entry: Entry, line: str, cron: str | None) -> None:
        """One deployment; `cron` replaces its schedule, None leaves it, empty takes it away."""
        name = entry.name(line)
        flow = _load(entry)
        if flow is None:
            self.done.append(Done("deployment", f"{entry.flow}/{name}", "left out", f"{entry.entrypoint} is not there"))
            return
        wanted = self._wanted(entry, flow, name)
        change: Change = "created"
        try:
            found = self.client.read_deployment_by_name(f"{entry.flow}/{name}")
        except ObjectNotFound:
            made = self._create(entry, flow, name, wanted, entry.cron if cron is None else cron)
        else:
            change, made = self._update(found, wanted, cron), str(found.id)
        if made:
            self.ids[entry.flow, name] = made
        self.done.append(Done("deployment", f"{entry.flow}/{name}", change, self._about(entry, cron)))

    def _about(self, entry: Entry, cron: str | None) -> str:
        when = entry.cron if cron is None else cron
        return f"cron {when}" if when else ""

    def _wanted(self, entry: Entry, flow: "Flow[..., Any]", name: str) -> dict[str, Any]:
        limit: dict[str, Any] = {"concurrency_limit": None, "concurrency_options": None}
        if entry.one_at_a_time:
            options = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
            limit = {"concurrency_limit": 1, "concurrency_options": options}
        form = form_of(flow)
        has_line = entry.of == "line" and "line" in form.get("properties", {})
        return limit | {
            "description": (flow.description or "").partition("\n")[0],
            "entrypoint": entry.entrypoint,
            "tags": [*self.table.tags, *([name] if entry.of == "line" else [])],
            "parameters": {"line": name} if has_line else {},
            "parameter_openapi_schema": form,
            "enforce_parameter_schema": True,
            "work_pool_name": self.table.work_pool,
            "job_variables": {"env": self._environment},
        }

    @property
    def _environment(self) -> dict[str, str]:
        """Of whatever executes a run."""
        return {
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(self.table.heartbeat_seconds),
            # What the server answers while its database starts anew: else a job that is done would end as failed.
            "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
        }

    def _create(self, entry: Entry, flow: "Flow[..., Any]", name: str, wanted: dict[str, Any], cron: str) -> str | None:
        if self.dry:
            return None
        schedules = [DeploymentScheduleCreate(schedule=_schedule(cron))] if cron else []
        flow_id = self.client.create_flow_from_name(flow.name)
        return str(self.client.create_deployment(flow_id, name, schedules=schedules, **wanted))

    def _update(self, found: DeploymentResponse, wanted: dict[str, Any], cron: str | None) -> Change:
        """Sends what differs."""
        there = {name: getattr(found, name) for name in wanted if name != "concurrency_limit"}
        limit = found.global_concurrency_limit
        there["concurrency_limit"] = limit.limit if limit else None
        differs: dict[str, Any] = {name: value for name, value in wanted.items() if there[name] != value}
        if cron is not None and [one.schedule for one in found.schedules] != ([_schedule(cron)] if cron else []):
            differs["schedules"] = [{"schedule": _schedule(cron), "active": True}] if cron else []
        if not differs:
            return "unchanged"
        if not self.dry:
            self.client.update_deployment(found.id, DeploymentUpdate(**differs))
        return "updated"


def _schedule(cron: str) -> CronSchedule:
    """Raises UsageError where it is none."""
    try:
        return CronSchedule(cron=cron, timezone="UTC")
    except ValueError as error:
        raise UsageError(f"--cron '{cron}' is no schedule: write five fields, for example \"0 3 * * *\"") from error


def _load(entry: Entry) -> "Flow[..., Any] | None":
    """The flow of an entry; None where this installation has no such module or flow."""
    module, _, name = entry.entrypoint.rpartition(".")
    if importlib.util.find_spec(module) is None:
        return None
    found = getattr(importlib.import_module(module), name, None)
    return found if isinstance(found, Flow) else None


def deploy_all(deployer: Deployer, lines: Sequence[str], cron: str | None) -> None:
    """Work pool and deployments; `cron` is for the first deployment of the table, the job itself."""
    deployer.work_pool()
    job = deployer.table.deployments[0]
    for line in lines:
        for entry in deployer.table.deployments:
            if entry.of == "line" or line == lines[0]:
                deployer.deployment(entry, line, cron if entry is job else None)
