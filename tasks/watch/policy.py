"""From when on the watch finds that something is wrong with a line, or late."""

from typing import Any

from pydantic import ConfigDict, Field

from editing.numbers_given import NumbersAreNoBooleans
from tasks.options import checked


class WatchPolicy(NumbersAreNoBooleans):
    """Limits of a watch. Beyond the first two is a breach, by which a line can be rolled back; a job's are closer."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_live_efficacy: float = Field(0.8, ge=0, le=1, description="Least share of the facts in service that hold.")
    max_perplexity_ratio: float = Field(1.25, ge=1, description="Most perplexity, as a multiple of the base model's.")
    ask_hours: float = Field(1, ge=0, description="A version that was asked and held is asked again after so long.")
    queue_hours: float = Field(48, ge=0, description="Longest that a request may wait for a job.")
    late_minutes: float = Field(30, ge=0, description="Longest that a scheduled run may wait for its start.")
    worker_minutes: float = Field(5, ge=0, description="Longest silence of all workers of a pool.")


def make_watch_policy(**fields: Any) -> WatchPolicy:
    """Raises PolicyError that names the field, its value and what is allowed."""
    return checked(WatchPolicy, "watch policy", fields)
