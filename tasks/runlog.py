"""Progress on the page of a flow's run in Prefect: lines in its log now and then, and an artifact with the share done.

A thread of its own tells it. The lines go to Prefect's API whatever level the console's log has; where the API does
not answer, the page misses a line and the work goes on.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from tasks.courses import Courses, described, duration
from tasks.names import artifact_key
from tasks.progress import NoteKind, listening
from tasks.text import storable

LINE_SECONDS = 10.0
"""At most one line of progress in so long; what ends sooner has none."""
FIRST_SECONDS = 2.0
"""The first line comes sooner: whoever has just started a run looks at its page."""
LAST_SECONDS = 10.0
"""The end of a flow waits no longer than this for its last lines."""

logger = logging.getLogger(__name__)


class RunLog:
    """A listener that tells the page of the flow's run that it is made in.

    Args:
        whole: The stage whose share is that of the whole run.
        kind: Of the artifact that shows this share, see `artifact_key`; empty: there is none.
    """

    def __init__(self, whole: str, kind: str) -> None:
        self._whole, self._kind, self._name, self._id = whole, kind, str(flow_run.name), str(flow_run.id)
        self._courses, self._share = Courses(), 0.0
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._artifact: UUID | None = None
        self._ended = threading.Event()
        # In the context of the flow: there is its run, and the address of its server.
        self._telling = threading.Thread(target=copy_context().run, args=(self._tell_on,), name="runlog", daemon=True)

    def __enter__(self) -> "RunLog":
        self._telling.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._telling.join(LAST_SECONDS)

    def progress(self, what: str, done: int, total: int) -> None:
        over = self._courses.report(what, done, total)
        if what == self._whole:
            self._share = max(self._share, done / max(total, 1))
        if over is not None and over[0].counted and over[1] >= LINE_SECONDS:
            self._line(f"{what}: {over[0].total:,} of {over[0].total:,} in {duration(over[1])}")

    def note(self, text: str, kind: NoteKind) -> None:
        self._line(f"{kind} {text}".strip(), logging.INFO if kind in ("", "kept") else logging.WARNING)

    def _line(self, text: str, level: int = logging.INFO) -> None:
        time_now = datetime.now(UTC).isoformat()
        written = {"name": "errata.progress", "level": level, "message": storable(text), "timestamp": time_now}
        self._lines.put(written | {"flow_run_id": self._id})

    def _tell_on(self) -> None:
        told = time.monotonic() - max(0.0, LINE_SECONDS - FIRST_SECONDS)
        while not self._ended.wait(max(0.0, told + LINE_SECONDS - time.monotonic())):
            told = time.monotonic()
            now = "; ".join(described(*one) for one in self._courses.now())
            if now:
                self._line(now)
            self._tell(now)
        self._tell("")

    def _tell(self, now: str) -> None:
        lines = [self._lines.get() for _ in range(self._lines.qsize())]
        try:
            if lines and get_current_settings().logging.to_api.enabled:
                get_client(sync_client=True).create_logs(lines)
            if self._kind and (now or self._share):
                self._follow(f"{self._name}: {now or self._whole}")
        except Exception as error:  # whatever ails the server: the work is not stopped because its page cannot follow
            logger.debug("progress could not be told to Prefect: %s", error)

    def _follow(self, description: str) -> None:
        percent = 100.0 * min(self._share, 1.0)
        if self._artifact is None:
            made = create_progress_artifact(percent, artifact_key(self._name, self._kind), description)
            assert isinstance(made, UUID)
            self._artifact = made
        else:
            update_progress_artifact(self._artifact, percent, description)


@contextmanager
def told_to_prefect(whole: str, kind: str = "") -> Iterator[None]:
    """Inside, in a flow, progress and notes are heard by the page of its run, too; arguments as for `RunLog`."""
    with RunLog(whole, kind) as log, listening(log):
        yield
