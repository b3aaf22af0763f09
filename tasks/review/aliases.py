"""MLflow's aliases of a line, which follow from HEAD and from what waits."""

from typing import Any

from tasks.lines.specs import read_line
from tasks.stores.manifest import Head, Version
from tasks.tracking.client import Tracker
from tasks.workplace import Workplace

NEW_TOKENS = 32


def pointer(workplace: Workplace, version: Version) -> dict[str, Any]:
    """What MLflow keeps of a version: where its snapshot is, and of what base. No weights, no secrets."""
    manifest = version.manifest
    spec = read_line(workplace.store.store, manifest.line)
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


def sync_aliases(
    tracker: Tracker, workplace: Workplace, line: str, head: Head | None, challenger: Version | None
) -> None:
    """MLflow's aliases follow from HEAD and the versions that wait; versions without a registration get one."""
    champion = head.version or None if head else None
    previous = head.previous or None if head else None
    for number in {champion, previous, challenger.number if challenger else None} - {None}:
        assert number is not None
        version = workplace.store.version(line, number)
        run = version.manifest.mlflow_run_id
        if run:
            tracker.register_version(line, run, pointer(workplace, version))
    tracker.set_aliases(line, champion, challenger.number if challenger else None, previous)
