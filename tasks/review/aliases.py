"""MLflow's aliases of a line, which follow from HEAD and from what waits."""

import logging
from typing import Any

from tasks.ledger.view import LineView, look
from tasks.lines.stored import stored_line
from tasks.stores.manifest import Version
from tasks.tracking.client import Tracker
from tasks.workplace import Workplace

NEW_TOKENS = 32
MOST_ROUNDS = 20

logger = logging.getLogger(__name__)


def sync_aliases(tracker: Tracker, workplace: Workplace, line: str) -> LineView:
    """Make MLflow's aliases say what HEAD and the queue say; returns the line as it was when they did.

    They are set, the line is looked at again, and so on until nothing changed in between: of several who set them at
    once, whoever is last has seen what is true.
    """
    view = look(workplace.store, workplace.ledger, line)
    for _ in range(MOST_ROUNDS):
        wanted = aliases_of(view)
        for number in {*wanted.values()} - {None}:
            assert number is not None
            register(tracker, workplace, view.versions[number])
        tracker.set_aliases(line, wanted["champion"], wanted["challenger"], wanted["previous"])
        view = look(workplace.store, workplace.ledger, line)
        if aliases_of(view) == wanted:
            return view
    logger.warning("line %s: HEAD moves faster than MLflow's aliases can follow; the next decision sets them", line)
    return view


def aliases_of(view: LineView) -> dict[str, int | None]:
    """The version behind each alias; the base has none."""
    return {
        "champion": (view.head.version or None) if view.head else None,
        "previous": (view.head.previous or None) if view.head else None,
        "challenger": view.waiting[-1].number if view.waiting else None,
    }


def register(tracker: Tracker, workplace: Workplace, version: Version, run_id: str | None = None) -> None:
    """Register a version with MLflow, once, under the run that made it or the one given."""
    if run := run_id or version.manifest.mlflow_run_id:
        tracker.register_version(version.manifest.line, run, pointer(workplace, version))


def pointer(workplace: Workplace, version: Version) -> dict[str, Any]:
    """What MLflow keeps of a version: where its snapshot is, and of what base. No weights, no secrets."""
    manifest = version.manifest
    spec = stored_line(workplace.store.store, manifest.line)
    return {
        "line": manifest.line,
        "version": version.number,
        "snapshot": version.snapshot,
        "store_uri": workplace.settings.store_uri,
        "endpoint_url": workplace.settings.s3_endpoint_url,
        "base": manifest.base,
        "base_digest": manifest.base_digest,
        "dtype": spec.dtype if spec else "float32",
        "max_new_tokens": NEW_TOKENS,
    }
