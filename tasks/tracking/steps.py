"""Metrics of a run that is at work, which MLflow's absence must not end."""

import logging
from typing import Any

from tasks.tracking.client import Steps, Tracker, metrics_of
from tasks.tracking.errors import TrackingError

logger = logging.getLogger(__name__)


class StepLog:
    """Logs metrics between pieces of work: what MLflow does not take now is kept, and goes with the next call.

    Values keep the time at which they were handed over; nothing is logged twice. What is kept is lost with the process.
    """

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self._tracker, self._run_id = tracker, run_id
        self._unsent: list[Any] = []

    @property
    def unsent(self) -> int:
        """Number of values that MLflow has not taken yet."""
        return len(self._unsent)

    def log(self, steps: Steps) -> None:
        """Log (step, metrics) pairs and what was kept, at the first try; a failure is logged and nothing is raised."""
        self._unsent += metrics_of(steps)
        try:
            self._tracker.try_metrics(self._run_id, self._unsent)
        except TrackingError as error:
            logger.warning("%s; %d values are kept and logged later", error, self.unsent)
        else:
            self._unsent.clear()

    def finish(self) -> None:
        """Log what was kept, with several tries. Raises TrackingError where MLflow does not take it even now."""
        if self._unsent:
            self._tracker.log_metrics(self._run_id, self._unsent)
            self._unsent.clear()
