"""What Prefect's server says of a line: runs that should have started, schedules that plan nothing, workers gone.

A server plans its runs ahead and keeps them when it is away, so a schedule that did not run is a run still scheduled
in the past; a schedule without any planned run is one that the server does not follow.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from editing.errors import ErrataError
from tasks.courses import duration
from tasks.watch.findings import Finding
from tasks.watch.policy import WatchPolicy

FLOWS = ("knowledge-update", "review", "approve", "reject", "rollback", "trial", "train-mend", "watch")
"""The flows that a line has deployments of."""
WAITING = [StateType.SCHEDULED, StateType.PENDING]
NEW = timedelta(minutes=10)
"""A deployment younger than that may have no planned run yet."""


class ServerAway(ErrataError):
    """Prefect's server does not answer."""


def check_schedules(line: str, policy: WatchPolicy) -> list[Finding]:
    """Late runs, schedules that plan nothing, and work pools without a worker, of all deployments of a line.

    Raises:
        ServerAway: the server does not answer, or with an error.
    """
    try:
        with get_client(sync_client=True) as client:
            return list(_found(client, line, policy))
    except httpx.HTTPError as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise ServerAway(f"it does not answer as it should ({why}): look whether it runs") from error


def _found(client: SyncPrefectClient, line: str, policy: WatchPolicy) -> Iterator[Finding]:
    deployments = client.read_deployments(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[*FLOWS])),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[line])),
    )
    for deployment in deployments:
        yield from _of_deployment(client, deployment, policy)
    for pool in sorted({one.work_pool_name for one in deployments if one.work_pool_name and not one.paused}):
        yield from _of_pool(client, pool, policy)


def _of_deployment(client: SyncPrefectClient, deployment: Any, policy: WatchPolicy) -> Iterator[Finding]:
    own = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    runs = client.read_flow_runs(
        deployment_filter=own,
        flow_run_filter=_in_state(*WAITING, StateType.RUNNING),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )
    name, now = _name(client, deployment), datetime.now(UTC)
    planned = [run.expected_start_time for run in runs if run.state_type in WAITING and run.expected_start_time]
    at_work = any(run.state_type == StateType.RUNNING for run in runs)  # the next one waits for it
    limit = timedelta(minutes=policy.late_minutes)
    if late := [time for time in planned if not at_work and now - time > limit]:
        text = (
            f"{len(late)} runs of {name} did not start, the oldest is {duration((now - late[0]).total_seconds())} "
            f"late, late_minutes is {policy.late_minutes:g}: look at the work pool '{deployment.work_pool_name}' and "
            "its workers"
        )
        yield Finding(kind="run", weight="late", about=name, text=text)
    active = not deployment.paused and any(one.active for one in deployment.schedules)
    changed = deployment.updated or deployment.created
    if active and not planned and changed is not None and now - changed > NEW:
        text = f"{name} has a schedule and no run is planned: look whether the server's scheduler runs"
        yield Finding(kind="schedule", weight="late", about=name, text=text)


def _of_pool(client: SyncPrefectClient, pool: str, policy: WatchPolicy) -> Iterator[Finding]:
    try:
        paused = client.read_work_pool(pool).is_paused
    except ObjectNotFound:
        yield Finding(kind="worker", weight="late", about=pool, text=f"work pool '{pool}' is gone: make it again")
        return
    if paused:
        text = f"work pool '{pool}' is paused: nothing of it runs until it is resumed"
        yield Finding(kind="worker", weight="late", about=pool, text=text)
        return
    beats = [one.last_heartbeat_time for one in client.read_workers_for_work_pool(pool) if one.last_heartbeat_time]
    silent = (datetime.now(UTC) - max(beats)).total_seconds() if beats else None
    if silent is None or silent > policy.worker_minutes * 60:
        since = "never had a worker" if silent is None else f"has heard of no worker for {duration(silent)}"
        text = f"work pool '{pool}' {since}, worker_minutes is {policy.worker_minutes:g}: start one"
        yield Finding(kind="worker", weight="late", about=pool, text=text)


def _in_state(*types: StateType) -> FlowRunFilter:
    return FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*types])))


def _name(client: SyncPrefectClient, deployment: Any) -> str:
    return f"{client.read_flow(deployment.flow_id).name}/{deployment.name}"
