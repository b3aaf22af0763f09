"""What a validation costs, as a share of the time in which its batch is written, on a raw line and on one of the chat.

    python -m tests.benchmarks.validation --data counterfact_dev.parquet [--batches 3] [--only chat]

Batches of ten are searched anew, written and validated as a job does it, with the facts before them as those that must
still hold. Reported is the median over the batches, in seconds of processor time, with what each kind of question
takes; and at the end what the evaluation of all of them takes.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from editing.edit import Edit
from editing.methods import method_config
from flows.benchmark import read_benchmark
from flows.cli.app import method_options
from tasks.lines.specs import LineSpec, Template
from tasks.settings import load_settings
from tasks.update import validation
from tasks.update.policy import Policy
from tasks.update.reference import ask_base, measure_reference
from tasks.update.run import spread_sample
from tasks.update.session import Session, open_session
from tests.benchmarks.sequence import BATCH, write_batch

PARTS = {
    "scores": (Session, "scores"),
    "said": (validation, "said_about"),
    "perplexity": (Session, "perplexity"),
    "fluency": (Session, "fluency"),
}
Costs = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="option of the method")
    parser.add_argument("--only", choices=["raw", "chat"])
    parser.add_argument("--cached", action="store_true", help="values from the cache: what editing takes says nothing")
    asked = parser.parse_args()
    edits = read_benchmark(asked.data, asked.batches * BATCH, asked.seed)
    for template in ("raw", "chat") if asked.only is None else (asked.only,):
        measure(template, edits, method_config("memit", method_options(asked.option)), asked.cached)


def measure(template: Template, edits: Sequence[Edit], config: object, cached: bool) -> None:
    session = open_session(LineSpec(line="bench", model="embedded", template=template, config=config), load_settings())
    policy, costs = Policy(), defaultdict[str, list[float]](list)
    with timed(costs, "reference"):
        reference = measure_reference(session, policy)
    with timed(costs, "base"):
        ask_base(session, edits, policy)
    failed = 0
    for start in range(0, len(edits), BATCH):
        batch, live = edits[start : start + BATCH], edits[:start]
        with timed(costs, "editing"):
            write_batch(session, batch, cached, keep=True, live=live)
        earlier = spread_sample(edits[: start + BATCH], policy.retained_sample)
        with timed(costs, "validation"), parts(costs):
            verdict = validation.validate_batch(session, batch, earlier, reference, policy)
        failed += any(check.fails for check in verdict.checks)
        costs["share"].append(costs["validation"][-1] / costs["editing"][-1])
        print(f"  {start + len(batch)} facts: validation {costs['validation'][-1]:.2f} s", *verdict.reasons, flush=True)
    with timed(costs, "evaluation"):
        validation.judge_candidate(session, edits, earlier, reference, policy)
    print(f"{template}, {len(edits)} facts in batches of {BATCH}, {failed} of which failed")
    for name, seconds in costs.items():
        print(f"  {name:12}{statistics.median(seconds):8.2f}")


@contextmanager
def timed(costs: Costs, name: str) -> Iterator[None]:
    started = time.process_time()
    yield
    costs[name].append(time.process_time() - started)


@contextmanager
def parts(costs: Costs) -> Iterator[None]:
    """While it is open, what each kind of question takes is added up, and noted at its end."""
    spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    def measured(name: str, asks: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any, **options: Any) -> Any:
            started = time.process_time()
            found = asks(*arguments, **options)
            spent[name] += time.process_time() - started
            return found

        return ask

    with ExitStack() as stack:
        for name, (owner, attribute) in PARTS.items():
            stack.enter_context(patch.object(owner, attribute, measured(name, getattr(owner, attribute))))
        yield
    for name, seconds in spent.items():
        costs[name].append(seconds)


if __name__ == "__main__":
    main()
