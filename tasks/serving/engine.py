"""The version in service of a line, answering many at once, and following HEAD.

One thread has the model. HEAD is read before each batch, and a batch is answered by one version from beginning to end:
so each answer is of a version that was in service while it was made, and nobody waits for a reload but those who come
during it. A version that cannot be loaded is not served, nor is the one before it in its place.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from editing.errors import ErrataError
from editing.filled import Filled
from editing.measure.fluency import rows_of
from editing.measure.writing import Row, Writing
from editing.models import LoadedModel
from editing.tokens import pad_token
from tasks.retries import may_pass
from tasks.serving.pieces import Pieces, before
from tasks.stores.batches import Travelling
from tasks.stores.snapshots import SnapshotStore

ROWS_AT_ONCE = 32
"""Texts that are written together."""
LOOK_SECONDS = 1.0
"""So often an idle server looks at HEAD."""
BLIND_SECONDS = 60.0
"""So long it goes on with what it has where a store on the network does not answer."""

logger = logging.getLogger(__name__)


class Full(ErrataError):
    """As many requests wait as may."""


class NotServed(ErrataError):
    """What is in service cannot be loaded, or it cannot be said what is."""


@dataclass(frozen=True)
class Served:
    """What answers."""

    line: str
    version: int
    snapshot: str | None
    sequence: int
    """Of the HEAD that put it in service; 0 before the first."""

    @property
    def fingerprint(self) -> str:
        return f"{self.line}-v{self.version}-{(self.snapshot or 'base')[:12]}"


@dataclass(frozen=True)
class Asked:
    """Texts of one request, all answered by the same version."""

    prompts: Callable[[], Sequence[Filled]]
    """Gives them, on the engine's thread: no tokenizer is shared by two."""
    tokens: int
    stops: tuple[str, ...] = ()
    hear: "Callable[[Served, int, str], None] | None" = None
    """Is told who answers, then each text piece by piece as it is written, on the engine's thread."""


@dataclass(frozen=True)
class Answer:
    text: str
    prompt_tokens: int
    tokens: int
    ended: bool
    """By itself or at a stop; else it is as long as it may be."""


@dataclass(frozen=True)
class Answers:
    by: Served
    answers: tuple[Answer, ...]


@dataclass
class _Waiting:
    asked: Asked
    future: "Future[Answers]"
    prompts: Sequence[Filled] = ()
    rows: Sequence[Row] = ()


class Engine(threading.Thread):
    """Started, it answers what is asked of it until it is stopped."""

    def __init__(
        self, loaded: LoadedModel, store: SnapshotStore, line: str, most_waiting: int, system: str | None = None
    ) -> None:
        """`system`: the message of conversations that have none of their own."""
        super().__init__(name="engine", daemon=True)
        self.loaded, self.store, self.line, self.system = loaded, store, line, system
        self._model = Travelling(loaded, store)
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(most_waiting)
        self._held: _Waiting | None = None
        self._seen = time.monotonic()
        self.served: Served | None = None
        self.fault: ErrataError | None = None
        """Why nothing is served now."""

    def ask(self, asked: Asked) -> "Future[Answers]":
        """Raises Full."""
        waiting = _Waiting(asked, Future())
        try:
            self._queue.put_nowait(waiting)
        except queue.Full as error:
            raise Full(f"{self._queue.maxsize} requests wait already: ask again in a moment") from error
        return waiting.future

    def follow(self) -> Served:
        """Stand at the version that is in service now.

        Raises:
            NotServed: it cannot be loaded, or HEAD cannot be read.
        """
        try:
            head = self.store.head(self.line)
        except ErrataError as error:
            away = self.store.store.uri.startswith("s3://") and may_pass(error)
            if self.served is not None and away and time.monotonic() - self._seen < BLIND_SECONDS:
                return self.served
            raise self._lost(error) from error
        found = Served(
            self.line, head.version if head else 0, head.snapshot if head else None, head.sequence if head else 0
        )
        if self.served is None or found.snapshot != self.served.snapshot:
            self.served = None
            try:
                self._model.to(found.snapshot)
            except ErrataError as error:
                raise self._lost(error) from error
            logger.info("line %s: version %d answers now", self.line, found.version)
        self.served, self.fault, self._seen = found, None, time.monotonic()
        return found

    def _lost(self, error: ErrataError) -> NotServed:
        self.served = None
        self.fault = NotServed(f"line '{self.line}' is not served: {error}")
        return self.fault

    def run(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                return
            try:
                by = self.follow()
                self._answer(batch, by)
            except Exception as error:  # whatever it is, the next ones are answered
                told = isinstance(error, ErrataError)
                if not told or batch:
                    logger.warning("line %s: %s", self.line, error, exc_info=not told)
                for one in batch:
                    if not one.future.done():
                        one.future.set_exception(error)

    def stop(self) -> None:
        """End once all that waits is answered."""
        self._queue.put(None)
        self.join()

    def _next(self) -> list[_Waiting] | None:
        """Requests that wait, as many as fit into a batch; none after a while without any; None: the end."""
        batch: list[_Waiting] = []
        texts = 0
        while True:
            try:
                if (one := self._held) is None:
                    one = self._queue.get(timeout=LOOK_SECONDS) if not batch else self._queue.get_nowait()
            except queue.Empty:
                return batch
            self._held = None
            if one is None:
                if batch:
                    self._queue.put(None)
                    return batch
                return None
            if not self._prepared(one):
                continue
            if batch and texts + len(one.rows) > ROWS_AT_ONCE:
                self._held = one
                return batch
            batch.append(one)
            texts += len(one.rows)

    def _prepared(self, one: _Waiting) -> bool:
        """Whether its texts can be read; whoever asked hears why not."""
        if one.rows:
            return True
        if not one.future.set_running_or_notify_cancel():
            return False
        try:
            one.prompts = one.asked.prompts()
            enough = [partial(_stopped, one.asked.stops)] * len(one.prompts) if one.asked.stops else None
            tokens = [one.asked.tokens] * len(one.prompts)
            one.rows = rows_of(self.loaded.model, self.loaded.tokenizer, one.prompts, tokens, enough=enough)
        except Exception as error:  # whatever it is, whoever asked hears it
            one.future.set_exception(error)
            return False
        return True

    def _answer(self, batch: Sequence[_Waiting], by: Served) -> None:
        if not batch:
            return
        rows = [row for one in batch for row in one.rows]
        tokenizer = self.loaded.tokenizer
        writing = Writing(self.loaded.model, tokenizer, rows, pad_token(tokenizer), 1)
        places = accumulate((len(one.rows) for one in batch), initial=0)
        begun = [
            (one, range(start, start + len(one.rows)), self._pieces(one.asked, by))
            for start, one in zip(places, batch, strict=False)
        ]

        def tell(done: int) -> None:
            for _, numbers, pieces in begun:
                if pieces is not None:
                    for number, i in enumerate(numbers):
                        pieces.go_on(number, writing.ids[i])

        writing.run(on_step=tell)
        for one, numbers, pieces in begun:
            answers = tuple(self._said(one.asked, rows[i], writing.ids[i]) for i in numbers)
            if pieces is not None:
                for number, answer in enumerate(answers):
                    pieces.end(number, answer.text)
            one.future.set_result(Answers(by, answers))

    def _pieces(self, asked: Asked, by: Served) -> Pieces | None:
        if asked.hear is None:
            return None
        hear = partial(asked.hear, by)
        hear(0, "")
        return Pieces(hear, asked.stops, partial(self.loaded.tokenizer.decode, skip_special_tokens=True))

    def _said(self, asked: Asked, row: Row, ids: Sequence[int]) -> Answer:
        text = self.loaded.tokenizer.decode(ids, skip_special_tokens=True)
        said = before(text, asked.stops)
        return Answer(said, len(row.prompt), len(ids), said != text or len(ids) < row.tokens)


def _stopped(stops: Sequence[str], text: str) -> bool:
    return any(stop in text for stop in stops)
