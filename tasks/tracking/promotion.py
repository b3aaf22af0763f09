"""The run that stands for a version that came from another home: with the report that its reviewers read there."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from tasks.names import check_model_name
from tasks.tracking.client import KIND, Tracker
from tasks.tracking.registry import LINE, SNAPSHOT

PROMOTION = "promotion"


def open_promotion(tracker: Tracker, line: str, snapshot: str, name: str, told: Mapping[str, str]) -> str:
    """The run of a promotion: the one that there is, or a new one. Returns its id."""
    wanted = f"tags.`{LINE}` = '{check_model_name(line)}' and tags.`{SNAPSHOT}` = '{snapshot}'"
    with tracker.refusals(f"look for the promotion of line {line!r}"):
        found = tracker._client.search_runs([tracker.experiment_id], f"{wanted} and tags.`{KIND}` = '{PROMOTION}'")
    if found:
        return str(found[0].info.run_id)
    return tracker.start_run(line, name, told, {KIND: PROMOTION, SNAPSHOT: snapshot})


def carry_report(there: Tracker, run: str, here: Tracker, to: str) -> None:
    """Copy the files of a run to another one; repeated, they are replaced."""
    with tempfile.TemporaryDirectory() as folder:
        with there.refusals(f"read the report of run {run}"):
            files = Path(there._client.download_artifacts(run, "", folder))
        with here.refusals(f"store the report of run {to}"):
            here._client.log_artifacts(to, str(files))
