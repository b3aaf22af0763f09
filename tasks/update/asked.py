"""What a long candidate says, asked by the workers of its job as well: `workers` of its policy.

Whoever asks stands on the candidate as it is stored, digest by digest, and asks a chunk of its facts by itself. What is
told is then known in the job's session, where the judge finds it. Chunks have fixed borders, so that the job and any
number of workers come to the same bits.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from functools import cached_property

from editing.digests import json_digest
from editing.edit import Edit
from editing.measure.metrics import edit_pairs
from editing.measure.said import Asked as Text
from editing.measure.said import others_of_its_kind, questions
from editing.measure.scoring import Score
from editing.progress import OnProgress
from tasks.lines.specs import LineSpec
from tasks.meter import Meter
from tasks.settings import Settings
from tasks.stores.errors import StorageError
from tasks.stores.objects import ObjectStore
from tasks.stores.search_records import UNNAMED, Asked, Chunk, Search, Told
from tasks.stores.searches import REMEDY
from tasks.stores.snapshots import SnapshotStore
from tasks.update.run import Run
from tasks.update.saying import conversation, say, scored, texts_of
from tasks.update.screening import REQUEST_FAULTS, readable
from tasks.update.searched import chunk_name
from tasks.update.session import MEASURED_VERSION, Session, open_session
from tasks.update.team import Team, shared_out
from tasks.update.validation import bare

FACTS = 25
"""Of a chunk; no more than these the job asks alone."""


@dataclass(frozen=True)
class AskedVersion:
    """A version in memory that is asked for facts, and nothing else is done."""

    session: Session
    search: Search

    @cached_property
    def others(self) -> dict[str, tuple[str, ...]]:
        return others_of_its_kind([edit for chunk in self.search.chunks for edit in chunk.edits])

    def work(self, chunk: Chunk) -> int:
        """What it counts, for progress."""
        return len(chunk.edits)

    def name(self, number: int) -> str:
        """What a chunk is known by: what is told of it depends on the version, and on all that is asked."""
        chunk = self.search.chunks[number]
        return chunk_name(self.session.loaded.tokenizer, [self._about, number], chunk.groups)

    @cached_property
    def _about(self) -> str:
        edits = [[edit.model_dump(mode="json") for edit in chunk.edits] for chunk in self.search.chunks]
        return json_digest([MEASURED_VERSION, self.search.model_dump(mode="json", include={"threads", "asked"}), edits])

    def find(self, number: int, on_progress: OnProgress) -> Told:
        """What the version says of a chunk."""
        (pairs, texts), session = self._asked(number), replace(self.session, texts={}, said={}, begun=None)
        size = len(pairs) + len(texts)
        said = say(
            session, texts, lambda done, total: on_progress(len(texts) * done // max(total, 1), size), pairs=pairs
        )
        known = scored(
            session,
            pairs,
            lambda done, total: on_progress(len(texts) + len(pairs) * done // max(total, 1), size),
        )
        on_progress(size, size)
        return Told(scores=tuple(astuple(known[pair]) for pair in pairs), texts=tuple(said))

    def know(self, number: int, told: Told) -> None:
        """What was told of a chunk is asked no more while the weights are as they are.

        Raises:
            StorageError: it answers other questions.
        """
        (pairs, texts), session = self._asked(number), self.session
        if (len(told.scores), len(told.texts)) != (len(pairs), len(texts)):
            name = self.search.chunks[number].name
            raise StorageError(f"what was told of chunk {name[:12]} answers other questions: {REMEDY}")
        state = session.weights.state
        scores = [Score(*fields) for fields in told.scores]
        session.said.setdefault(state, {}).update(zip(pairs, scores, strict=True))
        session.texts |= {(state, *text): said for text, said in zip(texts, told.texts, strict=True)}

    def _asked(self, number: int) -> tuple[list[tuple[str, str]], list[Text]]:
        """(prompt, target) to score, and texts to go on from, each once."""
        about, session, chunk = self.search.asked, self.session, self.search.chunks[number]
        assert about is not None  # else values are searched
        pairs = [pair for edit in chunk.edits for pair in edit_pairs(edit, edit.neighborhood[: about.probes])]
        texts: list[Text] = []
        if number < about.whole:
            tokenizer, chat = session.loaded.tokenizer, conversation(session)
            found = questions(tokenizer, chunk.edits, chat, self.others, paraphrases=True)
            texts = texts_of(found, shown_whole=True)
        return list(dict.fromkeys(pairs)), list(dict.fromkeys(texts))


def open_asked(search: Search, store: ObjectStore, settings: Settings) -> AskedVersion:
    """Load the version that is asked.

    Raises:
        UsageError: another release of Errata began this, or the questions would be others here.
        ModelError: the base here has other weights, or cannot be loaded.
        DigestMismatch: a stored file or a resulting tensor is not what was recorded.
    """
    assert search.asked is not None  # else values are searched
    search.check_release()
    session = open_session(LineSpec.model_validate(search.spec), settings, only_asked=True)
    search.check_base(session.loaded.digest)
    snapshots = SnapshotStore(store)
    session.restore_from(snapshots, snapshots.chain(search.asked.snapshot))
    return AskedVersion(session, search)


def ask_with_workers(run: Run, session: Session, facts: Sequence[Edit], earlier: Sequence[Edit], tip: str) -> None:
    """Ask the facts of a candidate all that its judge will ask, and the prompts of earlier ones, beside workers.

    Only where the policy has any, and the facts are many. `tip`: the snapshot that stands in the weights.
    """
    if not run.policy.workers or len(facts) + len(earlier) <= FACTS:
        return
    version = AskedVersion(session, _planned(run, session, facts, earlier, tip))
    search = version.search
    count = sum(map(version.work, search.chunks))
    team = Team(run, search, f"{count} facts in {len(search.chunks)} chunks are asked", helps=True)
    try:
        team.begin()
        with Meter("what the candidate says", count) as meter:
            for number in team.order:
                begun, tell = time.monotonic(), meter.part(version.work(search.chunks[number]))
                with suppress(*REQUEST_FAULTS):  # the judge comes to it, and says so
                    told = team.found(number, team.searches.told)
                    if told is None:
                        told = version.find(number, tell)
                        team.answer(search.chunks[number], told, time.monotonic() - begun)
                    version.know(number, told)
                tell(1, 1)
    finally:
        team.end()


def _planned(run: Run, session: Session, facts: Sequence[Edit], earlier: Sequence[Edit], tip: str) -> Search:
    """All that is asked, in chunks; earlier facts are asked their prompts alone."""
    asked, prompts = (readable(session.loaded, some).accepted for some in (facts, [bare(edit) for edit in earlier]))
    parts = [some[start : start + FACTS] for some in (asked, prompts) for start in range(0, len(some), FACTS)]
    chunks = [Chunk(name=UNNAMED, groups=tuple((edit,) for edit in part)) for part in parts]
    about = Asked(snapshot=tip, probes=run.policy.neighborhood_probes, whole=-(-len(asked) // FACTS))
    search = shared_out(run, session, chunks, about)
    return search.named(AskedVersion(session, search).name)
