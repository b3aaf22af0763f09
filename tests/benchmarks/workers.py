"""What workers bring: values a second of one process and of two, the same digests, and what that means for a job.

    python -m tests.benchmarks.workers --data counterfact_dev.parquet [--edits 40] [--processes 1 2] [--template raw]
    python -m tests.benchmarks.workers --statistics 49152 [--processes 1 2]

Each process searches its shard of one thread as a worker does, without Prefect; what loading takes is told apart. Then
a job's other stages are measured in this process (writing, validation, what the base says), and the table computes from
their shares how long a fact takes with 1, 8 and 64 workers. The job writes while they search:

    seconds a fact = max(search / n, the rest)        and before the first batch: loading, and one chunk

With `--statistics` text of so many tokens is sampled and its keys are summed by them, in the place of values.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

from torch import Tensor

from editing.cache import Cache
from editing.collection import parts_of
from editing.contexts import TEXT_TOKENS
from editing.digests import json_digest
from editing.edit import Edit
from editing.groups import content_digest
from editing.layout import layout_of
from editing.methods import edited_layers, method_config
from editing.methods.memit import MemitConfig
from editing.token_rows import TokenRow
from flows.benchmark import read_benchmark
from tasks.base_model import loaded_base
from tasks.lines.specs import LineSpec
from tasks.settings import load_settings
from tasks.stores.objects import ObjectStore
from tasks.stores.opening import open_store
from tasks.stores.search_records import UNNAMED, Chunk, Passage, Search
from tasks.stores.searches import Searches
from tasks.update import stages, validation
from tasks.update.ahead import planned
from tasks.update.policy import Policy
from tasks.update.prepared import PASS_ROWS
from tasks.update.preparing import planned as planned_preparation
from tasks.update.preparing import row_of
from tasks.update.reference import ask_base, measure_reference
from tasks.update.run import Batch, Run, spread_sample
from tasks.update.session import Session, open_session
from tasks.update.shards import same_threads, search_shard

BATCH = 10
COUNTS = (1, 2, 4, 8, 16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--statistics", type=int, metavar="TOKENS")
    parser.add_argument("--edits", type=int, default=40)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--template", choices=["raw", "chat"], default="raw")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=JSON", help="option of the method")
    parser.add_argument("--shard", nargs=4, metavar=("STORE", "SEARCH", "FIRST", "EVERY"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.shard:
        store, digest, first, every = asked.shard
        done = search_shard(open_store(store), load_settings(), digest, int(first), int(every))
        print(json.dumps(done.model_dump() | {"processor": processor_time()}))
        return
    if asked.statistics:
        with same_threads(1):
            tell_preparation(asked)
        return
    options = {name: json.loads(value) for name, _, value in (one.partition("=") for one in asked.option)}
    spec = LineSpec(line="bench", model="embedded", template=asked.template, config=method_config("memit", options))
    edits = read_benchmark(asked.data, asked.edits, 0)
    session = open_session(spec, load_settings())
    with TemporaryDirectory() as folder:
        session.cache = Cache(Path(folder, "cache"))
        run = cast(Run, SimpleNamespace(line="bench", spec=spec, policy=Policy()))
        search = planned(run, session, edits, [])
        assert search is not None
        search = search.model_copy(update={"threads": 1})
        found = [measured(search, Path(folder), count, asked) for count in asked.processes]
        rates = " and ".join(f"{count} {rate:.2f}" for count, rate, _ in found)
        same = len({digests for _, _, digests in found}) == 1
        print(f"values a second, by processes: {rates}; the same digests: {same}", flush=True)
        tell_shares(session, edits, search, open_store(str(Path(folder, f"store-{asked.processes[0]}"))))


def measured(search: Search, folder: Path, count: int, asked: Any) -> tuple[int, float, tuple[str, ...]]:
    """So many processes on an empty store: values a second once they have loaded, and the digests found."""
    store = open_store(str(folder / f"store-{count}"), create=True)
    searches = Searches(store)
    started = time.perf_counter()
    shards = run_shards(store, search, count)
    wall, values = time.perf_counter() - started, sum(one["facts"] for one in shards)
    searching = max(one["search_seconds"] for one in shards)
    loading = max(one["load_seconds"] for one in shards)
    processor = sum(one["processor"] for one in shards)
    print(
        f"{count} processes: {values} values in {searching:.1f} s of search, {loading:.1f} s of loading, {wall:.1f} s "
        f"in all, {processor:.1f} s of processor time ({processor / values:.2f} a value)",
        flush=True,
    )
    answers = [found for chunk in search.chunks if (found := searches.found(chunk)) is not None]
    return count, values / searching, tuple(answer.values for _, answer in answers)


def run_shards(store: ObjectStore, search: Search, count: int) -> list[dict[str, Any]]:
    """What so many processes came to, of one thread each."""
    base = [sys.executable, "-m", "tests.benchmarks.workers", "--shard", store.uri, Searches(store).begin(search)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([*base, str(first), str(count)], stdout=subprocess.PIPE, text=True, env=environment)
        for first in range(count)
    ]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]


def tell_preparation(asked: Any) -> None:
    """Seconds that processes take to sample text and to sum its keys, and whether they come to the same."""
    config = MemitConfig()
    spec = LineSpec(line="bench", model="embedded", config=config)
    loaded = loaded_base(spec.model, spec.dtype, load_settings())
    run = cast(Run, SimpleNamespace(line="bench", spec=spec))
    layers = edited_layers(loaded.model, layout_of(loaded.model), config)
    rows = -(-asked.statistics // TEXT_TOKENS)
    passages = [
        Passage(first=first, stop=min(first + PASS_ROWS, rows), seed=0, alternatives=config.statistics_alternatives)
        for first in range(0, rows, PASS_ROWS)
    ]
    found = set()
    with TemporaryDirectory() as folder:
        for count in asked.processes:
            store = open_store(str(Path(folder, str(count))), create=True)
            search = planned_preparation(run, loaded, (), [Chunk(name=UNNAMED, passage=one) for one in passages])
            sampling = run_shards(store, search, count)
            sampled = [Searches(store).sampled(chunk) for chunk in search.chunks]
            texts = [TokenRow(row.ids, row.others) for one in sampled if one is not None for row in one[0].rows]
            parts = parts_of(loaded.model, loaded.tokenizer, texts, asked.statistics)
            chunks = [Chunk(name=UNNAMED, rows=tuple(map(row_of, chain(*part)))) for part in parts]
            search = planned_preparation(run, loaded, layers, chunks)
            summing = run_shards(store, search, count)
            answers = [Searches(store).sums(chunk) for chunk in search.chunks]
            found.add(json_digest([[*one[1].blobs] for one in answers if one is not None]))
            seconds = [max(one["search_seconds"] for one in some) for some in (sampling, summing)]
            print(
                f"{count} processes: {len(texts)} rows sampled in {seconds[0]:.1f} s, {len(chunks)} parts summed in "
                f"{seconds[1]:.1f} s, beside loading",
                flush=True,
            )
    print(f"the same digests: {len(found) == 1}", flush=True)


def tell_shares(session: Session, edits: Sequence[Edit], search: Search, store: ObjectStore) -> None:
    """The stages of a job with values that are there, in seconds of processor time a fact; and what follows."""
    known, seconds = dict[str, Tensor](), 0.0
    for chunk in search.chunks:
        found = Searches(store).found(chunk)
        assert found is not None
        known |= {content_digest(group): value for group, value in zip(chunk.groups, found[0], strict=True)}
        seconds += found[1].seconds
    searching = seconds / len(edits)
    session.values_known.stored = known.get
    policy, spent = Policy(), dict.fromkeys(("base", "write", "validate"), 0.0)
    reference = measure_reference(session, policy)
    started = time.process_time()
    ask_base(session, edits, policy)
    spent["base"] = time.process_time() - started
    for start in range(0, len(edits), BATCH):
        batch = edits[start : start + BATCH]
        started = time.process_time()
        written = stages.write(session, Batch(str(start // BATCH + 1), tuple(batch)))
        spent["write"] += time.process_time() - started
        session.remember([edit.id for edit in batch], written.update)
        started = time.process_time()
        earlier = spread_sample(edits[:start], policy.retained_sample)
        validation.validate_batch(session, batch, earlier, reference, policy)
        spent["validate"] += time.process_time() - started
    each = {name: seconds / len(edits) for name, seconds in spent.items()}
    rest = sum(each.values())
    print(f"a fact: search {searching:.2f} s; " + ", ".join(f"{name} {some:.2f}" for name, some in each.items()))
    print(f"the search is {searching / (searching + rest):.0%} of it; with n workers, seconds a fact and times faster:")
    for count in COUNTS:
        now = max(searching / count, rest)
        print(f"  {count:3d} workers: {now:.2f} s, {(searching + rest) / now:.1f} times")


def processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
