"""MLflow's aliases and tags of a line, which follow from HEAD and from what waits."""

import logging
from collections.abc import Mapping
from typing import NamedTuple

from tasks.ledger.view import LineView, look
from tasks.review.registering import describe, register, tags_of
from tasks.stores.manifest import Version
from tasks.tracking.client import Tracker
from tasks.tracking.registry import Registered
from tasks.workplace import Workplace

MOST_ROUNDS = 20

logger = logging.getLogger(__name__)


class Synced(NamedTuple):
    """A line as it was when MLflow's aliases and tags said so, and the versions that MLflow had just before."""

    view: LineView
    registered: Mapping[int, Registered]


def sync_aliases(tracker: Tracker, workplace: Workplace, line: str, view: LineView | None = None) -> Synced:
    """Make MLflow's aliases and tags say what HEAD and the queue say; `view`: the line where it was just looked at.

    They are set, the line is looked at again, and so on until nothing changed in between: of several who set them at
    once, whoever is last has seen what is true.
    """
    view = view or look(workplace.store, workplace.ledger, line)
    known: Mapping[int, Registered] = {}
    for _ in range(MOST_ROUNDS):
        wanted = aliases_of(view)
        known = register(tracker, workplace, line, shown_in_mlflow(view))
        describe(tracker, workplace, view.waiting, known)
        tracker.set_aliases(line, wanted["champion"], wanted["challenger"], wanted["previous"], known)
        tracker.set_version_tags(line, tags_of(view, known), known)
        view = look(workplace.store, workplace.ledger, line)
        if aliases_of(view) == wanted:
            return Synced(view, known)
    logger.warning("line %s: HEAD moves faster than MLflow's aliases can follow; the next decision sets them", line)
    return Synced(view, known)


def aliases_of(view: LineView) -> dict[str, int | None]:
    """The version behind each alias; the base has none."""
    return {
        "champion": (view.head.version or None) if view.head else None,
        "previous": (view.head.previous or None) if view.head else None,
        "challenger": view.waiting[-1].number if view.waiting else None,
    }


def shown_in_mlflow(view: LineView) -> list[Version]:
    """What must be registered: each version with an alias or that waits, and what else their jobs made."""
    wanted = {*aliases_of(view).values(), *(version.number for version in view.waiting)} - {None}
    runs = {view.versions[number].manifest.mlflow_run_id for number in wanted if number is not None} - {None, ""}
    return [
        version
        for number, version in view.versions.items()
        if number in wanted or version.manifest.mlflow_run_id in runs
    ]
