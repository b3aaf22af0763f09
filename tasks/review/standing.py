"""Where a line stands, for whoever looks. Nothing is written, and nothing is imported that takes seconds."""

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.ledger.catching_up import count_states, standings
from tasks.ledger.standings import LineEvents
from tasks.ledger.view import look
from tasks.lines.stored import stored_line
from tasks.stores.lease import holder
from tasks.stores.manifest import Version
from tasks.workplace import Workplace


def waiting(workplace: Workplace, line: str) -> list[Version]:
    """The versions that wait for review, oldest first. A look: nothing is written."""
    return look(workplace.store, workplace.ledger, line).waiting


@dataclass(frozen=True)
class LineStatus:
    """Where a line stands."""

    line: str
    model: str
    method: str
    in_service: int
    """The version in service; 0 is the base."""
    waiting: list[int]
    requests: dict[str, int]
    """Number of requests by state."""
    running: str
    """Who works on the line now; empty when nobody does."""


def line_status(workplace: Workplace, line: str, known: Mapping[str, LineEvents] | None = None) -> LineStatus:
    """Where a line stands. A look: nothing is written. `known`: what `workplace.ledger.look()` has just said."""
    view, spec = look(workplace.store, workplace.ledger, line, known), stored_line(workplace.store.store, line)
    record = holder(workplace.store.store, line)
    return LineStatus(
        line=line,
        model=spec.model if spec else "",
        method=spec.method if spec else "",
        in_service=view.head.version if view.head else 0,
        waiting=[version.number for version in view.waiting],
        requests=count_states(standings(view)),
        running="" if record is None or record.is_free() else f"process {record.pid} on {record.host}",
    )
