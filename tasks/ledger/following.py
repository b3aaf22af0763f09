"""What the ledger knows of some requests, followed from commit to commit by whoever is about to write."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from deltalake import DeltaTable

from tasks.ledger import queries
from tasks.ledger.appending import Known, Request
from tasks.ledger.events import State, fold
from tasks.ledger.scanning import ADDED


@dataclass
class _Rows:
    """What was read up to a commit."""

    steps: dict[Request, list[tuple[State, str]]]
    payloads: dict[Request, str | None] = field(default_factory=dict)
    commit: int | None = None
    files: frozenset[str] = frozenset()
    numbered: bool = False
    """Rows of release 0.1 do not say of which commit they are."""


class Following:
    """What a table says of these requests. A row that was read once is not read again, so that who loses a race pays
    for the commits that came between, not for the size of the ledger."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self._names = sorted({name for _, name in requests})
        self._rows = self._nothing()

    def known(self, table: DeltaTable) -> dict[Request, Known]:
        """What the table says as it was opened: later than the one before, or the same."""
        files = frozenset(table.get_add_actions()["path"].to_pylist())
        if not (self._rows.numbered and self._rows.files <= files):  # some were joined, or rows were written anew
            self._rows = self._nothing()
        rows = self._rows
        if table.version() != rows.commit:
            self._read(table)
        rows.commit, rows.files = table.version(), files
        rows.numbered = {*ADDED} <= {column.name for column in table.schema().fields}
        return {
            request: Known(
                fold(state for state, _ in steps),
                None if (payload := rows.payloads.get(request)) is None else json.loads(payload),
                frozenset(event_id for _, event_id in steps),
            )
            for request, steps in rows.steps.items()
        }

    def _nothing(self) -> _Rows:
        return _Rows({request: [] for request in self._requests})

    def _read(self, table: DeltaTable) -> None:
        rows = self._rows
        for row in queries.run_named(table, queries.STEPS, requests=self._names, after=rows.commit):
            request = (row["line"], row["request_id"])
            if request in rows.steps:
                rows.steps[request].append((row["event"], row["event_id"]))
                rows.payloads[request] = row["payload"] or rows.payloads.get(request)
