"""How long the demo will take here, from a measurement of half a second.

Work is of two kinds: products of matrices, on all threads that torch uses, and everything else, on one. How much there
is of each is in one table, in seconds of a core of the machine that it was measured on; how fast that is, beside it.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from editing.models import EMBEDDED

ROWS, WIDTH, INNER = 320, 576, 1536
"""Products like those of the embedded model: so many tokens at once, through one of its projections."""
PRODUCTS_SECONDS, OTHER_SECONDS = 0.35, 0.15
"""What is measured so long."""
REFERENCE_GFLOP = 75.0
"""Products a second, in GFLOP, of one core of the machine that the table was measured on."""
REFERENCE_LOOPS = 33e6
"""Rounds a second, there, of the loop that is measured."""


@dataclass(frozen=True)
class Work:
    """A stage of a step: its cost there in processor seconds, and the kind of cache entry that spares it."""

    step: str
    stage: str
    products: float
    other: float
    cached: str = ""


WORK = (
    Work("start", "imports", 0.0, 10.0),
    Work("submit", "submit", 0.0, 0.6),
    Work("run", "the model", 0.0, 5.0, "models"),
    Work("run", "sampled text", 37.0, 4.0, "texts"),
    Work("run", "key statistics", 17.0, 1.0, "statistics"),
    Work("run", "what the base says", 12.0, 1.5, "scores"),
    Work("run", "values", 132.0, 6.0, "values"),
    Work("run", "validation, evaluation, the server", 95.0, 15.0),
    Work("review", "review", 0.0, 0.3),
    Work("approve", "approve", 0.0, 0.7),
    Work("compare", "answers", 19.0, 4.5),
    Work("run-changed", "the root, values, validation, the server", 60.0, 12.0),
    Work("compare-changed", "answers", 19.0, 4.5),
    Work("rollback", "rollback", 0.0, 0.7),
    Work("ask-again", "answers", 2.5, 4.0),
)
"""Not in the list: what takes less than a quarter of a second. A demo's stages.jsonl says what each step cost."""
NAMES = {
    "models": "the model",
    "texts": "sampled text",
    "statistics": "key statistics",
    "scores": "what the base says",
    "values": "searched values",
}
"""What is kept in the cache, by the name of its folder."""


@dataclass(frozen=True)
class Pace:
    """How fast this machine is."""

    gflop: float
    """Products a second, with all threads."""
    loops: float
    """Rounds of a loop a second, on one."""

    def seconds(self, work: Work) -> float:
        return work.products * REFERENCE_GFLOP / self.gflop + work.other * REFERENCE_LOOPS / self.loops


def measure() -> Pace:
    """What this machine does in half a second."""
    import torch  # seconds, and the demo speaks before it

    left_nd, right_dm = torch.randn(ROWS, WIDTH), torch.randn(WIDTH, INNER)
    left_nd @ right_dm  # the first product sets up the threads
    products = _rate(lambda: left_nd @ right_dm, PRODUCTS_SECONDS)
    return Pace(products * 2 * ROWS * WIDTH * INNER / 1e9, 1000 * _rate(_loop, OTHER_SECONDS))


def _loop() -> None:
    """A thousand rounds."""
    total = 0
    for number in range(1000):
        total += number


def _rate(work: Callable[[], object], seconds: float) -> float:
    """How often a second."""
    began, times = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds or not times:
        work()
        times += 1
    return times / passed


def spared(cache: Path, model: str) -> set[str]:
    """Kinds of which something is in the cache. What stands there is not looked into: it may be of other models."""
    found = {kind for kind in NAMES if any((cache / kind).glob("[!.]*"))}
    if model != EMBEDDED and not model.endswith(".gguf"):
        found.add("models")  # read as it is
    return found


def expected(pace: Pace, cached: Collection[str], left: Collection[str]) -> float:
    """Seconds for the steps that are left."""
    return sum(pace.seconds(work) for work in WORK if work.step in left and not (work.cached and work.cached in cached))


def announced(seconds: float, cached: Collection[str], resumed: bool, model: str = EMBEDDED) -> str:
    """The demo's first words; the table is of the embedded model."""
    kept = [name for kind, name in NAMES.items() if kind in cached]
    reuse = f"cached already: {', '.join(kept)}" if kept else "nothing is cached yet"
    what = "the rest of the demo" if resumed else "the demo"
    if model != EMBEDDED:
        return (
            f"with the embedded model {what} would take about {rounded(seconds)} here ({reuse}); another takes as many "
            "times as long as it is larger, and is asked first what it gets wrong"
        )
    return f"{what} will take about {rounded(seconds)} here ({reuse})"


def rounded(seconds: float) -> str:
    """To ten seconds below three minutes, then to half minutes: it is an estimate, and reads like one."""
    if seconds < 180:
        return f"{max(10, 10 * round(seconds / 10))} seconds"
    halves = round(seconds / 30)
    return f"{halves // 2}{' and a half' if halves % 2 else ''} minutes"
