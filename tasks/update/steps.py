"""A stage of a job as a task of Prefect: its page shows what went in and what came out, in words and numbers.

What a stage returns stays in this process: Prefect would keep it, model and all, until the flow ends.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from tasks.progress import stage as going_on

T = TypeVar("T")


def run_step(
    name: str,
    stage: Callable[[], T],
    *,
    about: str = "",
    outcome: Callable[[T], str] = lambda result: "",
    retries: Mapping[str, Any] | None = None,
) -> T:
    """Run one stage as a task.

    Args:
        name: Of the task.
        stage: What it does; called again where `retries` say so, and then it must be safe to repeat.
        about: What goes in, for the page: the batch, the requests.
        outcome: What came out, for the page.
        retries: Options of a task, as in tasks/retries.py.
    """
    results: list[T] = []

    def run_stage() -> Any:
        with going_on(name.replace("_", " ")):
            results.append(stage())
        return Completed(message=": ".join(part for part in (about, outcome(results[-1])) if part) or None)

    shown = f"{name.replace('_', '-')} {about}".strip()[:200].replace("{", "(").replace("}", ")")
    step: Any = Task(run_stage, name=name, task_run_name=shown, cache_policy=NO_CACHE, **(retries or {}))
    step()
    return results[-1]
