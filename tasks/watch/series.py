"""The numbers of all watches over a line as one series, in one run of MLflow beside those of the jobs."""

from collections.abc import Mapping

from tasks.tracking.client import Tracker
from tasks.tracking.errors import TrackingError, TrackingUnavailable
from tasks.watch.memory import Memory

KIND = "errata.kind"
ABOUT = "What the watches over this line measured: one step a watch, the version in service among the metrics."


def log_numbers(tracker: Tracker, memory: Memory, numbers: Mapping[str, float]) -> None:
    """Add the numbers of a watch to the series of its line; where its run was deleted, another one begins.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    record = memory.change(lambda then: then.model_copy(update={"watches": then.watches + 1}))
    metrics = {f"watch/{name}": value for name, value in numbers.items()}
    if record.mlflow_run_id is not None:
        try:
            tracker.log_steps(record.mlflow_run_id, [(record.watches, metrics)])
            return
        except TrackingUnavailable:
            raise
        except TrackingError:
            pass  # deleted, or of another server
    run_id = _new_run(tracker, memory.line)
    tracker.log_steps(run_id, [(record.watches, metrics)])
    memory.change(lambda then: then.model_copy(update={"mlflow_run_id": run_id}))


def _new_run(tracker: Tracker, line: str) -> str:
    run_id = tracker.start_run(line, f"{line} watch", {}, {KIND: "watch", "mlflow.note.content": ABOUT})
    tracker.finish_run(run_id)  # a run that goes on would be taken for a job's by the next one; it takes metrics still
    return run_id
