"""Where the requests of a line stand, in short, and where they stand after some more events."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tasks.ledger.events import NOTES, Event, State, after, is_legal


class Standing(NamedTuple):
    """Where a request stands, in short."""

    state: State
    version: int | None
    """The version that its present attempt got into."""
    events: int
    """How many events it has had."""


@dataclass(frozen=True)
class LineEvents:
    """What the ledger says about a line, at one moment."""

    standings: dict[str, Standing] = field(default_factory=dict)
    """By request."""
    committed: frozenset[int] = frozenset()
    """The versions whose events are written."""

    def followed(self, events: Sequence[Event]) -> "LineEvents":
        """The same once these events of the line are written: what `queries.STANDINGS` finds in the rows then."""
        found = dict(self.standings)
        for event in events:
            before = found.get(event.request_id)
            state, version, count = before or (None, None, 0)
            if event.event in NOTES or not is_legal(state, event.event):
                if before is not None:
                    found[event.request_id] = before._replace(events=before.events + 1)
            elif (now := after(state, event.event)) is not None:
                version = None if now == "queued" else event.version or version
                found[event.request_id] = Standing(now, version, count + 1)
        made = {event.version for event in events if event.event == "committed" and event.version is not None}
        return LineEvents(found, self.committed | made)
