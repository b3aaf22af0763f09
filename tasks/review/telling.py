"""What a decision leaves beside HEAD and ledger: tags of MLflow's versions that say what became of them, notices."""

from collections.abc import Mapping

from tasks.ledger.view import LineView
from tasks.notices import Kind, tell
from tasks.review.decided import decided
from tasks.settings import Settings
from tasks.stores.manifest import Head
from tasks.tracking.client import TAG_LENGTH, Tracker
from tasks.tracking.registry import Registered
from tasks.workplace import Workplace

DECISION = "errata.decision"
"""The tag of a version that tells who decided, when, how and why."""


def record(
    tracker: Tracker, workplace: Workplace, view: LineView, registered: Mapping[int, Registered], about: int = 0
) -> str:
    """Make MLflow's versions say who decided on them, as `view` saw the line; returns the page of version `about`.

    The first decision is the one that counts, so it is written once.

    Args:
        registered: What MLflow has of the line.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    waiting = {version.number for version in view.waiting}
    lacking = [
        number
        for number, known in registered.items()
        if number in view.versions and number not in waiting and not known.tags.get(DECISION)
    ]
    since = min((view.versions[number].manifest.based_on or 0 for number in lacking), default=0)
    history = workplace.store.heads(view.line, since) if lacking else []
    for number in lacking:
        if (found := decided(workplace.store, view, number, history)) is not None:
            tracker.set_version_tags(view.line, {number: {DECISION: found.sentence[:TAG_LENGTH]}}, registered)
    return page(workplace.settings, view.line, registered[about].mlflow_number) if about in registered else ""


def page(settings: Settings, line: str, mlflow_number: int) -> str:
    """Where people find a version in MLflow; empty where no server is known."""
    if not settings.mlflow_people:
        return ""
    return f"{settings.mlflow_people}/#/models/{line}/versions/{mlflow_number}"


def tell_decision(settings: Settings, head: Head, versions: tuple[int, ...], link: str) -> None:
    """One notice of a move of HEAD, by whoever made it."""
    kinds: dict[str, Kind] = {"promote": "approved", "reject": "rejected", "rollback": "rolled back"}
    kind = "expired" if head.way == "no answer in time" else kinds[head.action]
    what = f"version {', '.join(map(str, versions))} {kind} by {head.actor}"
    if kind == "rolled back":
        what = f"back to {f'version {head.version}' if head.version else 'the base'}, by {head.actor}"
    if kind == "expired":
        what = f"version {', '.join(map(str, versions))} had no answer in time and is refused"
    how = f" ({head.way})" if head.way and kind != "expired" else ""
    tell(settings, kind, head.line, f"{what}{how}{f': {head.reason}' if head.reason else ''}", link)
