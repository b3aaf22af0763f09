"""The ledger: a Delta table of events, appended to and never changed; the state of a request follows from its events.

Any number of processes write at once. An append is one atomic commit, and the number that it will have is written into
its rows: it is made for the table as it was read, without the library's own retries, and where another process was
faster, everything is read and judged again. So the order of events is that of the commits, whatever the clocks of the
machines say, no event is written twice, and no step that a request cannot take gets in. Read with DuckDB.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from deltalake import CommitProperties, write_deltalake
from deltalake.exceptions import CommitFailedError

from tasks.ledger import aliases, opening, queries, whole
from tasks.ledger.appending import Decide, Known, Request, checked, rows
from tasks.ledger.errors import LedgerError, one_line, what_libraries_raise
from tasks.ledger.events import Event, RequestState, State
from tasks.ledger.following import Following
from tasks.ledger.standings import LineEvents, Standing
from tasks.names import check_line
from tasks.text import storable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TRY_SECONDS = 300.0
"""Of eight writers on a large ledger far away one may lose again and again."""
_PAUSE_SECONDS = 0.05
_ONCE = CommitProperties(max_commit_retries=0)
_COMPACTION = CommitProperties(max_commit_retries=30)


class Files(NamedTuple):
    """The table at one commit: its number, and the files of rows that it consists of, by their names in the table."""

    commit: int
    names: list[str]


class Ledger:
    """The table at a local path or `s3://bucket/path`; it is created by the first append. Raises LedgerError."""

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri if uri.startswith("s3://") else str(Path(uri).expanduser().absolute())
        self._options = dict(storage_options or {})
        self._looked: dict[str | None, tuple[int, dict[str, LineEvents]]] = {}  # by what was asked, with its commit

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Write all events or none, in one commit; those that the table has already, by their id, are left out.

        An append that raised may have been written; to repeat it, pass the same events.

        Raises:
            IllegalStep: a request cannot take such a step.
            LedgerError: the table cannot be written.
        """
        return self.write([(event.line, event.request_id) for event in events], lambda known: checked(events, known))

    def append_possible(self, events: Sequence[Event]) -> list[Event]:
        """The same without the steps that requests cannot take (any more), for whoever worked on them meanwhile."""
        return self.write(
            [(event.line, event.request_id) for event in events],
            lambda known: checked(events, known, only_possible=True),
        )

    def append_unchanged(self, events: Sequence[Event], seen: Mapping[str, Standing]) -> list[Event]:
        """The same for events of one line that follow from where its requests stood when they were seen.

        What concerns a request that has had another event since then is left out.
        """
        counts = {name: standing.events for name, standing in seen.items()}

        def unchanged(known: Mapping[Request, Known]) -> list[Event]:
            return checked(
                [event for event in events if len(known[event.line, event.request_id].event_ids)
                 == counts.get(event.request_id, 0)],
                known,
            )  # fmt: skip

        return self.write([(event.line, event.request_id) for event in events], unchanged)

    def write(self, requests: Sequence[Request], decide: Decide) -> list[Event]:
        """Write what `decide` says, given what is known of the requests just then; returns what was written."""
        if not requests:
            return []
        with self._explained("written"):
            deadline = time.monotonic() + _TRY_SECONDS
            following = Following(requests)
            for attempt in range(1, 10_000):
                table = opening.found(self.uri, self._options) or opening.created(self.uri, self._options)
                pending = list(decide(following.known(table)))
                try:
                    if pending:
                        table = opening.upgraded(table)
                        commit = table.version() + 1
                        written = rows(pending, commit)
                        opening.check_space(self.uri, written.nbytes)
                        write_deltalake(table, written, mode="append", commit_properties=_ONCE, **aliases.hooks(table))
                        aliases.follow(table)
                        self._follow(commit, pending)
                    return pending
                except CommitFailedError as error:
                    if time.monotonic() > deadline:
                        raise LedgerError(
                            f"ledger '{self.uri}': other processes wrote first for {_TRY_SECONDS:g} s; nothing was "
                            "written, repeat it when they are done"
                        ) from error
                    time.sleep(random.uniform(0, _PAUSE_SECONDS * min(attempt, 10)))
        return []

    def check(self) -> None:
        """Raises LedgerError where it is there and cannot be read."""
        with self._explained("read"):
            opening.found(self.uri, self._options)

    def look(self, line: str | None = None) -> dict[str, LineEvents]:
        """Where every request of every line, or of one, stands, without what it says; the table is opened once, and its
        rows are read again only where something was written since."""
        with self._explained("read"):
            table = opening.found(self.uri, self._options)
            if table is None:
                return {}
            if line in self._looked and self._looked[line][0] == table.version():
                return self._looked[line][1]
            standings: dict[str, dict[str, Standing]] = {}
            committed: dict[str, set[int]] = {}
            for name, request, folded, events, versions in queries.run(table, queries.STANDINGS, line=line):
                if versions:
                    committed.setdefault(name, set()).update(versions)
                state, version = queries.unfolded(folded)
                if state is not None:
                    if name not in standings:
                        standings[name] = {}
                    standings[name][request] = Standing(state, version, events)
            looked = {name: LineEvents(found, frozenset(committed.get(name, ()))) for name, found in standings.items()}
            self._looked[line] = (table.version(), looked)
            return looked

    def _follow(self, commit: int, events: Sequence[Event]) -> None:
        """What was looked at just before this commit of ours is known after it, too: it holds these events alone."""
        for asked, (seen, looked) in list(self._looked.items()):
            if seen == commit - 1:
                now = dict(looked)
                for line in {event.line for event in events if asked in (None, event.line)}:
                    own = [event for event in events if event.line == line]
                    now[line] = looked.get(line, LineEvents()).followed(own)
                self._looked[asked] = (commit, now)

    def states(self, line: str, requests: Sequence[str] | None = None) -> dict[str, RequestState]:
        """The state of the line's requests with all that they say, the one that changed last at the end."""
        found: dict[str, RequestState] = {}
        for row in self._query(queries.REQUESTS, line, requests):
            state, version = queries.unfolded(row.pop("fold"))
            if state is not None:
                found[row["request_id"]] = RequestState.model_validate({**row, "state": state, "version": version})
        return found

    def payloads(self, line: str, requests: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """What these requests say, as they were received last."""
        rows = self._query(queries.PAYLOADS, line, requests) if requests else []
        return {row["request_id"]: row["payload"] for row in rows if row["payload"] is not None}

    def queued(self, line: str) -> list[RequestState]:
        """The requests that wait, in the order in which they were queued."""
        waiting = [name for name, standing in self._standings(line).items() if standing.state == "queued"]
        if not waiting:
            return []
        states = self.states(line, waiting)
        order = [row["request_id"] for row in self._query(queries.QUEUE, line, waiting)]
        return [states[name] for name in order]

    def history(
        self,
        request_id: str | None = None,
        version: int | None = None,
        line: str | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """Events in the order in which they happened; with `limit` the latest ones. Times are UTC."""
        requests = None if request_id is None else [storable(request_id)]
        rows = self._query(queries.HISTORY, line, requests, version=version, limit=limit)
        return [Event.model_validate(row) for row in rows]

    def log_faults(self) -> list[str]:
        """What is wrong with the log of the table; see `whole`."""
        with self._explained("read"):
            table = opening.found(self.uri, self._options)
            return [] if table is None else [f"ledger '{self.uri}': {fault}" for fault in whole.log_faults(table)]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row as it is stored, in order; for whoever looks whether they are whole. Times are microseconds."""
        with self._explained("read"):
            table = opening.found(self.uri, self._options)
            if table is not None:
                yield from queries.each_named(table, queries.ROWS)

    def files(self) -> Files | None:
        """What the table consists of now; None where nothing was written yet. Its files stay for seven days at least,
        whatever is joined meanwhile."""
        with self._explained("read"):
            table = opening.found(self.uri, self._options)
            return table and Files(table.version(), table.get_add_actions()["path"].to_pylist())

    def counts(self, line: str) -> dict[State, int]:
        """How many requests of the line are in each state; states without any are left out."""
        return dict(sorted(Counter(standing.state for standing in self._standings(line).values()).items()))

    def compact(self, more_than: int = 64) -> bool:
        """Join the files of many small appends when there are more than so many. Returns whether it did."""
        with self._explained("compacted"):
            table = opening.found(self.uri, self._options)
            if table is None or len(table.file_uris()) <= more_than:
                return False
            opening.check_space(self.uri, sum(table.get_add_actions()["size_bytes"].to_pylist()))
            try:
                table.optimize.compact(commit_properties=_COMPACTION, **aliases.hooks(table))
            except CommitFailedError:
                return False  # another process is at it; the next job tries again
            table.vacuum(dry_run=False, **aliases.hooks(table))  # keeps what a reader of the last seven days may hold
            return True

    def unused_files(self, *, remove: bool = False) -> list[str]:
        """Files that no state of the last seven days holds: of what was joined, and of writers that were killed.

        Readers and writers of these days lose nothing, whatever they do meanwhile.
        """
        with self._explained("tidied up"):
            table = opening.found(self.uri, self._options)
            return [] if table is None else list(table.vacuum(dry_run=not remove, full=True, **aliases.hooks(table)))

    def _standings(self, line: str) -> dict[str, Standing]:
        return self.look(check_line(line)).get(line, LineEvents()).standings

    def _query(
        self, sql: str, line: str | None, requests: Sequence[str] | None, **parameters: Any
    ) -> list[dict[str, Any]]:
        if line is not None:
            check_line(line)
        with self._explained("read"):
            table = opening.found(self.uri, self._options)
            if table is None:
                return []
            found = queries.run_named(table, sql, line=line, requests=requests, **parameters)
            return [_decoded(row) for row in found]

    @contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """Turn what the table's libraries raise into one line; their reports have many and repeat requests."""
        try:
            yield
        except what_libraries_raise() as error:
            where = "the endpoint and the AWS_* variables" if self.uri.startswith("s3://") else "the folder"
            raise LedgerError(
                f"ledger '{self.uri}' cannot be {verb} ({type(error).__name__}: {one_line(error)}): "
                f"look at {where}, or set another ledger"
            ) from error


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    texts = {name: json.loads(row[name]) for name in ("metrics", "payload") if row.get(name) is not None}
    times = {
        name: _EPOCH + timedelta(microseconds=row[name]) for name in ("time", "received") if row.get(name) is not None
    }
    return row | texts | times
