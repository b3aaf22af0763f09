"""What every benchmark needs: the time of a call, and how two lists of times compare."""

import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def timed(action: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def ratio(slow: list[float], fast: list[float]) -> str:
    ratios = [s / f for s, f in zip(slow, fast, strict=True)]
    return f"{statistics.median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f})"


def timing(function: Callable[..., T], seconds: list[float]) -> Callable[..., T]:
    """The function, which also notes how long each call took."""

    def measured(*arguments: Any) -> T:
        took, result = timed(lambda: function(*arguments))
        seconds.append(took)
        return result

    return measured
