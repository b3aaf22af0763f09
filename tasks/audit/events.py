"""The ledger's rows: each as it was written, each a step that its request can take, none missing of a commit."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from editing.progress import OnProgress, unheard
from tasks.audit.findings import Findings
from tasks.ledger.appending import row_digest
from tasks.ledger.errors import IllegalStep
from tasks.ledger.events import State, after, check_transition
from tasks.ledger.rewriting import FORGOTTEN
from tasks.ledger.table import Ledger

SHOWN = 10
"""Faults of one kind that are told one by one."""


class Events:
    """One reading of the ledger, in its order."""

    def __init__(self, found: Findings, tell: Callable[[int], None]) -> None:
        self.found, self._tell_commit = found, tell
        self.states: dict[tuple[str, str], State] = {}
        self.ids: set[str] = set()
        self.commit, self.rows_of_commit = 0, 0
        self.decided: dict[str, int] = {}
        """When the last event of each line was that put something in service, in microseconds since 1970."""
        self.told: dict[str, int] = {}

    def read(self, rows: Iterator[Mapping[str, Any]]) -> None:
        for row in rows:
            self.found.count("events")
            self._count_forgotten(row)
            if row["commit"] is None:
                self._step(row, follows_rules=False)  # release 0.1 knew no such rule
                continue
            self._place(row)
            if row["digest"] is not None and row_digest(row) != row["digest"]:
                self._tell("changed", f"{_named(row)} is not as it was written: restore the ledger from a copy")
            if row["event_id"] in self.ids:
                self._tell("twice", f"{_named(row)} stands there twice: restore the ledger from a copy")
            self.ids.add(row["event_id"])
            self._step(row)
        for kind, count in self.told.items():
            if count > SHOWN:
                self.found.fault(f"{count - SHOWN} more events that are {kind}")

    def _count_forgotten(self, row: Mapping[str, Any]) -> None:
        if (
            row["payload"] is not None
            and f'"{FORGOTTEN}"' in row["payload"]
            and FORGOTTEN in json.loads(row["payload"])
        ):
            self.found.count("forgotten requests")

    def _place(self, row: Mapping[str, Any]) -> None:
        if row["commit"] != self.commit:
            self.commit, self.rows_of_commit = row["commit"], 0
            self._tell_commit(self.commit)
        if row["sequence"] != self.rows_of_commit:
            self._tell("missing", f"before {_named(row)}, events are missing: restore the ledger from a copy")
        self.rows_of_commit = row["sequence"] + 1

    def _step(self, row: Mapping[str, Any], follows_rules: bool = True) -> None:
        request = (row["line"], row["request_id"])
        try:
            check_transition(self.states.get(request), row["event"], row["request_id"])
        except (IllegalStep, KeyError) as error:
            if follows_rules:
                self._tell("illegal", f"{_named(row)}: {error}; restore the ledger from a copy")
            return
        if (state := after(self.states.get(request), row["event"])) is not None:
            self.states[request] = state
        if row["event"] == "promoted":
            self.decided[row["line"]] = max(row["time"], self.decided.get(row["line"], 0))

    def _tell(self, kind: str, text: str) -> None:
        self.told[kind] = self.told.get(kind, 0) + 1
        if self.told[kind] <= SHOWN:
            self.found.fault(text)


def audit_events(ledger: Ledger, found: Findings, tell: OnProgress = unheard) -> dict[str, int]:
    """Every row of the ledger, of all lines: an append may be about several. Returns when each line was decided on.

    `tell` hears how many commits were read.
    """
    last = 0
    events = Events(found, lambda commit: tell(commit, last))
    with found.tried():
        last = files.commit if (files := ledger.files()) else 0
        for fault in ledger.log_faults():
            found.fault(f"{fault}: restore the ledger from a copy")
        events.read(ledger.rows())
    return events.decided


def _named(row: Mapping[str, Any]) -> str:
    return f"event '{row['event']}' of request '{row['request_id']}' (line '{row['line']}', commit {row['commit']})"
