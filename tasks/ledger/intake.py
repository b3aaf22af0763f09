"""Requests on their way in: written down as they come, refused with the reason, or queued."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from editing.edit import Edit, make_edit
from editing.errors import InvalidEdit
from editing.readers import BadRecord
from tasks.ledger.events import Event, RequestState
from tasks.ledger.table import Ledger

AT_ONCE = 1000
"""Requests in one append."""
STANDING = {"queued", "applied", "validated", "committed", "approved", "promoted"}
"""States of a request that must not be submitted again."""
Known = dict[str, tuple[str, Mapping[str, Any] | None]]
"""State and content of each request, by id."""


@dataclass
class Submitted:
    """What a submission came to, as request ids; `rejected` with the reasons."""

    queued: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)


def submit(ledger: Ledger, line: str, records: Iterable[Edit | BadRecord], actor: str) -> Submitted:
    """Write down every record as received, and as queued or as rejected with its reason.

    The same request again is recognised by its id and content and changes nothing, unless it was refused or taken
    back before: then it is queued again.
    """
    known: Known = {name: (state.state, state.payload) for name, state in ledger.states(line).items()}
    done = Submitted()
    events: list[Event] = []
    for record in records:
        events += _received(known, line, record, actor, done)
        if len(events) >= AT_ONCE:
            ledger.append(events)
            events = []
    if events:
        ledger.append(events)
    return done


def _received(known: Known, line: str, record: Edit | BadRecord, actor: str, done: Submitted) -> list[Event]:
    if isinstance(record, BadRecord):
        payload: dict[str, Any] = {"row": record.row, "field": record.field, "raw": record.raw}
        return _refused(line, f"bad-{_digest(payload)}", payload, record.reason, actor, done, known)
    payload = record.model_dump(mode="json")
    state, earlier = known.get(record.id, ("", None))
    if state in STANDING | {"received"}:
        if earlier == payload:
            done.present.append(record.id)
            return []
        reason = f"request '{record.id}' is {state} with other content; give this one another id"
        return _refused(line, f"{record.id}#{_digest(payload)}", payload, reason, actor, done, known)
    done.queued.append(record.id)
    known[record.id] = ("queued", payload)
    received = Event(request_id=record.id, event="received", line=line, actor=actor, payload=payload)
    return [received, Event(request_id=record.id, event="queued", line=line, actor=actor)]


def _refused(
    line: str,
    request_id: str,
    payload: dict[str, Any],
    reason: str,
    actor: str,
    done: Submitted,
    known: Known,
) -> list[Event]:
    done.rejected[request_id] = reason
    if request_id in known:
        return []
    known[request_id] = ("rejected", payload)
    return [
        Event(request_id=request_id, event="received", line=line, actor=actor, payload=payload),
        Event(request_id=request_id, event="rejected", line=line, actor=actor, reason=reason),
    ]


def _digest(payload: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Intake:
    """What a job takes up: edits in their order, and what it refuses, with reasons by request id."""

    accepted: tuple[Edit, ...]
    rejected: dict[str, str]


def take(queued: Sequence[RequestState], live: Sequence[Edit], limit: int | None = None) -> Intake:
    """Choose from the queue, oldest first, what does not contradict or repeat a live fact or an earlier request."""
    stands = {_question(edit): edit for edit in live}
    accepted: list[Edit] = []
    rejected: dict[str, str] = {}
    for request in queued:
        if limit is not None and len(accepted) >= limit:
            break
        try:
            edit = make_edit(request.payload or {})
        except InvalidEdit as error:
            rejected[request.request_id] = str(error)
            continue
        other = stands.get(_question(edit))
        if other is None:
            stands[_question(edit)] = edit
            accepted.append(edit)
        elif other.target_new == edit.target_new:
            rejected[edit.id] = f"says the same as request '{other.id}'"
        else:
            rejected[edit.id] = (
                f"contradicts request '{other.id}': '{edit.text}' is to answer '{other.target_new}' there and "
                f"'{edit.target_new}' here; take the other back first"
            )
    return Intake(tuple(accepted), rejected)


def _question(edit: Edit) -> tuple[str, str]:
    """Two edits ask the same when subject and filled-in prompt agree but for case and spaces."""
    return " ".join(edit.subject.casefold().split()), " ".join(edit.text.casefold().split())
