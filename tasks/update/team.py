"""The workers that do parts of a job beside it, as the job sees them: `workers` of its policy.

The job says in the store what is to be done, in chunks, and starts a run of `values-shard/all` for each worker. It
takes what is found when it wants it. What a worker does not give (it was killed, refuses, or is not there) is given to
another, or done by the job; so how many workers there are, and what becomes of them, changes nothing but the time.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling
from torch import Tensor

from editing.errors import UsageError
from tasks.progress import note
from tasks.retries import outlasting
from tasks.stores.errors import StorageError
from tasks.stores.search_records import Answer, Asked, Chunk, Search, Told, release
from tasks.stores.searches import Searches
from tasks.update.policy import Policy
from tasks.update.run import Run
from tasks.update.session import Session

T = TypeVar("T")

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
"""Runs of one shard that may be killed before the job does the rest of it itself."""


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


def shared_out(run: Run, session: Session, chunks: Sequence[Chunk], asked: Asked | None = None) -> Search:
    """What workers are to do for a job on the line and the base of this session."""
    return Search(
        line=run.line,
        release=release(),
        base=session.loaded.digest,
        spec=session.spec.model_dump(mode="json"),
        layers=session.method_input.layers,
        contexts=session.method_input.prefixes,
        threads=torch.get_num_threads(),
        chunks=tuple(chunks),
        asked=asked,
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
    """The workers of one job.

    `what` is done in the chunks of `search`, for whoever reads of it. Where the job `helps`, it does a share itself.
    """

    def __init__(self, run: Run, search: Search, what: str, *, helps: bool = False) -> None:
        self.run, self.search, self.what, self.helps = run, search, what, helps
        self.searches, self.digest = Searches(run.workplace.store.store), ""
        self.used: list[Chunk] = []
        self.parts = min(run.policy.workers + helps, len(search.chunks))
        self.shards = [_Shard(first) for first in range(int(helps), self.parts)]

    def begin(self) -> None:
        """Say what is to be done, and start the workers."""
        self.digest = outlasting(partial(self.searches.begin, self.search))
        for shard in self.shards:
            if not all(outlasting(partial(self.searches.is_answered, chunk.name)) for chunk in self._of(shard)):
                self._start(shard)
        begun = sum(shard.run is not None for shard in self.shards)
        note(f"{self.what} by {begun} workers{' and the job' if self.helps else ''}")

    def end(self) -> None:
        """End what the workers do, and take away what was used of it; the rest is there for the next job."""
        used = {chunk.name for chunk in self.used}
        for shard in self.shards:
            with suppress(Exception):  # the task is gone in a moment, so it ends anyway
                self._dismiss(shard, used)
        if self.digest:
            with suppress(StorageError):  # `errata maintain` takes what is left
                self.searches.end(self.digest, self.used)

    def found(self, number: int, read: Callable[[Chunk], tuple[T, Answer] | None]) -> T | None:
        """What was given for the chunk of that number, once it is there; None where the job is to do it."""
        chunk, place = self.search.chunks[number], number % self.parts - self.helps
        shard = self.shards[place] if place >= 0 else _Shard(0)
        look = partial(outlasting, partial(read, chunk))
        self.used.append(chunk)
        while (answer := look()) is None:
            if self._goes_on(shard):
                time.sleep(POLL_SECONDS)
            elif (answer := look()) is not None:  # it may have been its last
                break
            elif not self._begun_anew(shard):
                return None
        shard.heard, shard.longest = time.monotonic(), max(shard.longest, answer[1].seconds)
        return answer[0]

    @property
    def order(self) -> list[int]:
        """The numbers of all chunks: those that the job is to do come first, so that nobody waits for another."""
        return sorted(range(len(self.search.chunks)), key=lambda number: (number % self.parts >= self.helps, number))

    def answer(self, chunk: Chunk, found: Tensor | Told, seconds: float) -> None:
        """Store what the job itself came to for a chunk: a worker that comes late does it no more."""
        device = self.run.workplace.settings.device
        with suppress(StorageError):  # then it does it once more
            self.searches.answer(chunk.name, found, "the job", device, seconds)

    def _of(self, shard: _Shard) -> tuple[Chunk, ...]:
        return self.search.chunks[shard.first :: self.parts]

    def _dismiss(self, shard: _Shard, used: set[str]) -> None:
        """End the run of a shard, unless it has given all that it could, and ends just now."""
        if shard.run is None:
            return
        self._look(shard, shard.run)
        if shard.run is not None and not (shard.at_work and used.issuperset(chunk.name for chunk in self._of(shard))):
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(shard.run.id, Cancelling(message="the job has ended"))

    def _start(self, shard: _Shard) -> None:
        parameters = {"line": self.run.line, "search": self.digest, "first": shard.first, "every": self.parts}
        shard.tries, shard.heard, shard.at_work, shard.ended = shard.tries + 1, time.monotonic(), False, None
        try:
            made = run_deployment(DEPLOYMENT, parameters=parameters, timeout=0)
        except Exception as error:  # of whatever server: the job can do without
            shard.run = None
            self._tell(shard, f"could not be started ({error}); the job does it all")
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
            note(f"shard {shard.first} of {self.parts} {what}", "warning")
