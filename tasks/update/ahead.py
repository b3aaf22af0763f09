"""The values of a job's batches, searched by workers while the job writes: `workers` of its policy.

Values depend on the base and not on what is written, so all of them can be searched at once, in the very chunks in
which the job would search them itself.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from editing.config import LocatingConfig
from editing.edit import Edit
from editing.progress import OnProgress
from tasks.stores.search_records import Chunk, Search
from tasks.update.live import live_facts
from tasks.update.run import Run, Taken, batches_of
from tasks.update.searched import chunk_name, search_chunk
from tasks.update.session import Session
from tasks.update.team import Team, shared_out
from tasks.update.values import Wanted, chunked, missing_values, nowhere


@contextmanager
def searched_elsewhere(run: Run, session: Session, taken: Taken) -> Iterator[None]:
    """Inside, workers search the values of what is taken up, where the policy asks for them."""
    search = planned(run, session, taken.edits, live_facts(session, taken)) if run.policy.workers else None
    if search is None:
        yield
        return
    team = Searchers(run, session, search)
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
    return shared_out(run, session, chunks) if chunks else None


class Searchers(Team):
    """The workers that search values of one job."""

    def __init__(self, run: Run, session: Session, search: Search) -> None:
        facts = sum(len(chunk.groups) for chunk in search.chunks)
        super().__init__(run, search, f"{facts} values in {len(search.chunks)} chunks are searched")
        self.session, self.numbers = session, {chunk.name: number for number, chunk in enumerate(search.chunks)}

    def values(self, chunk: Sequence[Wanted], tell: OnProgress) -> Tensor | None:
        """The values of a chunk, (n, m), once they are there; None where it is none of those that were planned."""
        number = self.numbers.get(_name(self.session, chunk))
        if number is None:
            return None
        found = self.found(number, self.searches.found)
        if found is None:
            wanted, begun = self.search.chunks[number], time.monotonic()
            found = search_chunk(self.session.search, wanted.groups, tell)
            self.answer(wanted, found, time.monotonic() - begun)
        tell(1, 1)
        return found


def _name(session: Session, chunk: Sequence[Wanted]) -> str:
    config = session.config
    assert isinstance(config, LocatingConfig)  # of no other is anything searched
    abouts = [one.about(session, config) for one in chunk]
    return chunk_name(session.loaded.tokenizer, abouts, [one.edits for one in chunk])
