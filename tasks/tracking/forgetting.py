"""What MLflow says of requests, taken out through its client: descriptions, tags, traces of reviews, files of runs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tasks.names import check_model_name
from tasks.stores.manifest import Version
from tasks.tracking.client import Tracker
from tasks.tracking.registry import LINE
from tasks.tracking.review_queue import item_of

Change = Callable[[str], str]
"""A text as it is to be."""


def runs_of(tracker: Tracker, line: str) -> list[str]:
    """The ids of all runs of a line."""
    check_model_name(line)
    with tracker.refusals(f"list the runs of line {line!r}"):
        return [str(run.info.run_id) for run in _runs(tracker, line)]


def rewrite_tags(tracker: Tracker, line: str, change: Change) -> None:
    """Tags of runs, and tags and descriptions of the line's versions."""
    with tracker.refusals(f"rewrite what is said of line {line!r}"):
        client = tracker._client
        for run in _runs(tracker, line):
            for key, value in run.data.tags.items():
                if (new := change(value)) != value:
                    client.set_tag(run.info.run_id, key, new)
        for known in tracker._search(line):
            number = str(known.version)
            if (new := change(known.description or "")) != (known.description or ""):
                client.update_model_version(line, number, new)
            for key, value in known.tags.items():
                if (new := change(value)) != value:
                    client.set_model_version_tag(line, number, key, new)


def drop_reviews(tracker: Tracker, versions: Sequence[Version], requests: Sequence[str]) -> None:
    """The traces that reviewers were shown of these requests."""
    items = [
        item_of(version, name) for version in versions for name in requests if name in version.manifest.request_ids
    ]
    with tracker.refusals("delete traces of reviews"):
        client: Any = tracker._client._tracing_client
        for begin in range(0, len(items), 100):  # MLflow takes no more at once
            client.delete_traces(tracker.experiment_id, trace_ids=items[begin : begin + 100])


def drop_file(tracker: Tracker, run: str, path: str) -> None:
    """A file or folder of a run; one that is not there is no error."""
    # Takes seconds, and only whoever tracks needs it.
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with tracker.refusals(f"delete {path} of run {run}"):
        files = get_artifact_repository(tracker._client.get_run(run).info.artifact_uri, tracker._client.tracking_uri)
        if any(one.path == path for one in files.list_artifacts()):
            files.delete_artifacts(path)


def _runs(tracker: Tracker, line: str) -> Iterator[Any]:
    token = None
    while True:
        found = tracker._client.search_runs([tracker.experiment_id], f"tags.`{LINE}` = '{line}'", page_token=token)
        yield from found
        if not (token := found.token):
            return
