"""Whether ledger, HEAD, snapshots and MLflow say the same of a line."""

from collections.abc import Mapping
from datetime import UTC, datetime

from tasks.audit.findings import Findings
from tasks.ledger.catching_up import missing_events, standings
from tasks.ledger.view import LineView
from tasks.review.aliases import aliases_of, shown_in_mlflow
from tasks.tracking.client import Tracker

LATER = "the next command that decides or runs writes them"


def audit_agreement(view: LineView, decided: int, found: Findings) -> None:
    """What HEAD and the versions say of every request, beside what the ledger says.

    `decided`: when the ledger says that something was put in service last, in microseconds since 1970.

    What a killed process left out is no fault: it follows from what is there, and is written by the next.
    """
    moved = int(view.head.moved.timestamp() * 1e6) + 1 if view.head else 0  # a float's last digit
    if decided > moved:
        found.fault(
            f"HEAD of line '{view.line}' is older than the ledger, which knows of a decision at "
            f"{datetime.fromtimestamp(decided / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC: restore the store from a copy"
        )
    if missing := missing_events(view, ""):
        found.note(f"{len(missing)} events of line '{view.line}' are not written yet: {LATER}")
    after = standings(view)
    for request, version in view.live.items():
        said = after[request].state if request in after else "unknown"
        if said != "promoted":
            found.fault(f"request '{request}' is in service (version {version}) and the ledger says {said}")
    in_force = {*view.live, *(name for version in view.passed for name in version.manifest.removals)}
    waiting = {request for version in view.waiting for request in version.manifest.request_ids}
    for request, standing in after.items():
        if standing.state == "promoted" and request not in in_force:
            found.fault(f"the ledger says that request '{request}' is in service, and HEAD says that it is not")
        elif standing.version is not None and standing.version not in view.versions:
            found.fault(f"the ledger says that request '{request}' is of version {standing.version}, which is gone")
        elif standing.state == "committed" and request not in waiting:
            found.fault(f"the ledger says that request '{request}' waits for review, and no version that waits has it")


def audit_mlflow(view: LineView, tracker: Tracker, found: Findings) -> None:
    """Aliases and registered versions beside HEAD and the queue."""
    registered, aliases = tracker.line_versions(view.line), tracker.aliases(view.line)
    found.count("versions in MLflow", len(registered))
    for version in shown_in_mlflow(view):
        there = registered.get(version.number)
        if there is None:
            found.fault(f"version {version.number} of line '{view.line}' is not registered in MLflow: {_again(view)}")
        elif there.snapshot != version.snapshot:
            found.fault(f"MLflow has another snapshot for version {version.number} of line '{view.line}'")
    for alias, number in aliases_of(view).items():
        if aliases.get(alias) != number:
            found.fault(
                f"MLflow's alias {alias} of line '{view.line}' is {_shown(aliases, alias)} and should be "
                f"{f'version {number}' if number else 'absent'}: {_again(view)}"
            )


def _again(view: LineView) -> str:
    return f"`errata run {view.line}` or `errata watch {view.line} --no-ask` sets it"


def _shown(aliases: Mapping[str, int], alias: str) -> str:
    return f"version {aliases[alias]}" if alias in aliases else "absent"
