"""The values of a job's batches, searched by workers while the job writes: `workers` of its policy.

Values depend on the base and not on what is written, so all of them can be searched at once. The job says in the store
what is to be searched, in the very chunks in which it would search it itself, and starts a run of `values-shard/all`
for each worker. It takes what is found when a batch wants it. What a worker does not give (it was killed, refuses, or
is not there) is given to another, or searched here; so how many workers there are, and what becomes of them, changes
nothing but the time.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling
from torch import Tensor

from editing.config import LocatingConfig
from editing.edit import Edit
from editing.errors import UsageError
from tasks.progress import note
from tasks.retries import outlasting
from tasks.stores.errors import StorageError
from tasks.stores.searches import Chunk, Search, Searches
from tasks.update.live import live_facts
from tasks.update.policy import Policy
from tasks.update.run import Run, Taken, batches_of
from tasks.update.searched import Tell, chunk_name, search_chunk
from tasks.update.session import Session
from tasks.update.shards import release
from tasks.update.values import Wanted, chunked, missing_values, nowhere

DEPLOYMENT = "values-shard/all"
POLL_SECONDS = 0.25
STATE_SECONDS = 2.0
"""How often Prefect's server is asked about a run that is waited for."""
UNTAKEN_SECONDS = 60.0
"""A run that no worker has taken for so long is not waited for."""
SILENT_SECONDS = 300.0
"""Nor one that has found nothing for so long, or for SILENT_TIMES as long as its longest chunk took."""
SILENT_TIMES = 5
TRIES = 2
"""Runs of one shard that may be killed before the job searches the rest of it itself."""


def check_workers(policy: Policy) -> None:
    """Raises UsageError where the policy wants workers, and Prefect's server knows no shards."""
    if not policy.workers:
        return
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound as error:
            raise UsageError(
                f"workers = {policy.workers}: Prefect's server has no deployment '{DEPLOYMENT}'; make it with "
                "errata deploy, or leave workers out"
            ) from error


@contextmanager
def searched_elsewhere(run: Run, session: Session, taken: Taken) -> Iterator[None]:
    """Inside, workers search the values of what is taken up, where the policy asks for them."""
    search = planned(run, session, taken.edits, live_facts(session, taken)) if run.policy.workers else None
    if search is None:
        yield
        return
    team = Team(run, session, search)
    session.values_known.elsewhere = team.values
    try:
        team.begin()
        yield
    finally:
        session.values_known.elsewhere = nowhere
        team.end()


def planned(run: Run, session: Session, edits: Sequence[Edit], live: Sequence[Edit]) -> Search | None:
    """What is to be searched for the batches of these edits, if all of them are kept; None where nothing is."""
    config, chunks, written = session.config, list[Chunk](), len(live)
    if not isinstance(config, LocatingConfig):
        return None
    keyed: dict[tuple[int, ...], list[tuple[int, Edit]]] = {}
    for number, edit in enumerate(live):
        keyed.setdefault(session.keys.of(edit), []).append((number, edit))
    for batch in batches_of(session, edits, run.policy):
        names = dict.fromkeys(session.keys.of(edit) for edit in batch)
        sharing = sorted((one for name in names for one in keyed.get(name, ())), key=lambda one: one[0])
        for chunk in chunked(config, missing_values(session, batch, [edit for _, edit in sharing])):
            chunks.append(Chunk(name=_name(session, chunk), groups=tuple(one.edits for one in chunk)))
        for number, edit in enumerate(batch, start=written):
            keyed.setdefault(session.keys.of(edit), []).append((number, edit))
        written += len(batch)
    if not chunks:
        return None
    return Search(
        line=run.line,
        release=release(),
        base=session.loaded.digest,
        spec=session.spec.model_dump(mode="json"),
        layers=session.method_input.layers,
        contexts=session.method_input.prefixes,
        threads=torch.get_num_threads(),
        chunks=tuple(chunks),
    )


@dataclass
class _Shard:
    """One worker's part."""

    first: int
    run: FlowRun | None = None
    """None: nobody does it but the job itself."""
    tries: int = 0
    heard: float = 0.0
    """When it was begun, taken, or last gave something."""
    asked: float = 0.0
    at_work: bool = False
    ended: "State[Any] | None" = None
    longest: float = 0.0
    told: set[str] = field(default_factory=set)


class Team:
    """The workers of one job, as the job sees them."""

    def __init__(self, run: Run, session: Session, search: Search) -> None:
        self.run, self.session, self.search = run, session, search
        self.searches, self.digest = Searches(run.workplace.store.store), ""
        self.numbers = {chunk.name: number for number, chunk in enumerate(search.chunks)}
        self.used: list[Chunk] = []
        self.shards = [_Shard(first) for first in range(min(run.policy.workers, len(search.chunks)))]

    def begin(self) -> None:
        """Say what is to be searched, and start the workers."""
        self.digest = outlasting(partial(self.searches.begin, self.search))
        for shard in self.shards:
            mine = self.search.chunks[shard.first :: len(self.shards)]
            if not all(outlasting(partial(self.searches.is_answered, chunk.name)) for chunk in mine):
                self._start(shard)
        begun = sum(shard.run is not None for shard in self.shards)
        facts = sum(len(chunk.groups) for chunk in self.search.chunks)
        note(f"{facts} values in {len(self.search.chunks)} chunks are searched by {begun} workers")

    def end(self) -> None:
        """End what the workers do, and take away what was used of it; the rest is there for the next job."""
        used = {chunk.name for chunk in self.used}
        for shard in self.shards:
            with suppress(Exception):  # the task is gone in a moment, so it ends anyway
                self._dismiss(shard, used)
        if self.digest:
            with suppress(StorageError):  # `errata maintain` takes what is left
                self.searches.end(self.digest, self.used)

    def _dismiss(self, shard: _Shard, used: set[str]) -> None:
        """End the run of a shard, unless it has given all that it could, and ends just now."""
        if shard.run is None:
            return
        self._look(shard, shard.run)
        mine = self.search.chunks[shard.first :: len(self.shards)]
        if shard.run is not None and not (shard.at_work and used.issuperset(chunk.name for chunk in mine)):
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(shard.run.id, Cancelling(message="the job has ended"))

    def values(self, chunk: Sequence[Wanted], tell: Tell) -> Tensor | None:
        """The values of a chunk, (n, m), once they are there; None where it is none of those that were planned."""
        number = self.numbers.get(_name(self.session, chunk))
        if number is None:
            return None
        wanted, shard = self.search.chunks[number], self.shards[number % len(self.shards)]
        self.used.append(wanted)
        while (found := self._found(wanted, shard)) is None:
            if self._goes_on(shard):
                time.sleep(POLL_SECONDS)
                continue
            found = self._found(wanted, shard)  # it may have been its last
            if found is None and not self._begun_anew(shard):
                return self._search_here(wanted, tell)
        tell(1, 1)
        return found

    def _found(self, chunk: Chunk, shard: _Shard) -> Tensor | None:
        found = outlasting(partial(self.searches.found, chunk))
        if found is None:
            return None
        shard.heard, shard.longest = time.monotonic(), max(shard.longest, found[1].seconds)
        return found[0]

    def _search_here(self, chunk: Chunk, tell: Tell) -> Tensor:
        begun = time.monotonic()
        z_star = search_chunk(self.session.search, chunk.groups, tell)
        device, seconds = self.run.workplace.settings.device, time.monotonic() - begun
        with suppress(StorageError):  # a worker that comes late does it once more
            self.searches.answer(chunk.name, z_star, "the job", device, seconds)
        return z_star

    def _start(self, shard: _Shard) -> None:
        parameters = {"line": self.run.line, "search": self.digest, "first": shard.first, "every": len(self.shards)}
        shard.tries, shard.heard, shard.at_work, shard.ended = shard.tries + 1, time.monotonic(), False, None
        try:
            made = run_deployment(DEPLOYMENT, parameters=parameters, timeout=0)
        except Exception as error:  # of whatever server: the job can do without
            shard.run = None
            self._tell(shard, f"could not be started ({error}); the job searches its values itself")
        else:
            assert isinstance(made, FlowRun)
            shard.run = made

    def _goes_on(self, shard: _Shard) -> bool:
        """Whether to wait for a shard."""
        if shard.run is None:
            return False
        now = time.monotonic()
        if now - shard.asked > STATE_SECONDS:
            shard.asked = now
            with suppress(Exception):  # the server is away for a moment: what is known of the run stands
                self._look(shard, shard.run)
        limit = max(SILENT_SECONDS, SILENT_TIMES * shard.longest) if shard.at_work else UNTAKEN_SECONDS
        if shard.run is None or now - shard.heard <= limit:
            return shard.run is not None
        said = "has found nothing" if shard.at_work else "was taken by no worker"
        self._tell(shard, f"{said} for {limit:.0f} s; the job goes on by itself")
        return False

    def _look(self, shard: _Shard, run: FlowRun) -> None:
        """What became of the run of a shard."""
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run.id).state
        if state is None:
            return
        if state.is_final():
            shard.run, shard.ended = None, state
        elif state.is_running() and not shard.at_work:
            shard.at_work, shard.heard = True, time.monotonic()

    def _begun_anew(self, shard: _Shard) -> bool:
        """Whether another run does what one that was killed, or whose answers are gone, has not."""
        state = shard.ended
        if shard.run is not None or state is None:
            return False
        if (state.is_crashed() or state.is_completed()) and shard.tries < TRIES:
            self._tell(shard, "was killed; it is begun anew" if state.is_crashed() else "is begun anew")
            self._start(shard)
            return shard.run is not None
        said = " ".join((state.message or "no reason given").split())
        self._tell(shard, f"ended {(state.name or state.type.value).lower()}: {said}; the job does the rest")
        return False

    def _tell(self, shard: _Shard, what: str) -> None:
        """Once each."""
        if what not in shard.told:
            shard.told.add(what)
            note(f"shard {shard.first} of {len(self.shards)} {what}", "warning")


def _name(session: Session, chunk: Sequence[Wanted]) -> str:
    config = session.config
    assert isinstance(config, LocatingConfig)  # of no other is anything searched
    abouts = [one.about(session, config) for one in chunk]
    return chunk_name(session.loaded.tokenizer, abouts, [one.edits for one in chunk])
