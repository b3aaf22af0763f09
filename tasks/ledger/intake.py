"""Requests on their way in: written down as they come, refused with the reason, or queued."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from editing.digests import sha256
from editing.edit import Edit
from editing.readers import BadRecord
from tasks.ledger.appending import Known, Request
from tasks.ledger.events import Event
from tasks.ledger.reserved import fault_now
from tasks.ledger.table import Ledger

AT_ONCE = 1000
"""Requests in one append."""
STANDING = {"queued", "applied", "validated", "committed", "approved", "promoted"}
"""States of a request that must not be submitted again."""
Contents = dict[str, tuple[str, Mapping[str, Any] | None]]
"""State and content of each request, by id."""


@dataclass
class Submitted:
    """What a submission came to, as request ids; `rejected` with the reasons."""

    queued: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    findings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What was left out of those that were queued, or should be looked at."""


def _nothing(request: str) -> tuple[str, ...]:
    return ()


def submit(
    ledger: Ledger,
    line: str,
    records: Iterable[Edit | BadRecord],
    actor: str,
    findings: Callable[[str], tuple[str, ...]] = _nothing,
) -> Submitted:
    """Write down every record as received, and as queued or as rejected with its reason.

    The same request again is recognised by its id and content and changes nothing, unless it was refused or taken
    back before: then it is queued again. Others may submit at the same time: a record is judged by what the ledger
    knows when it is written.
    """
    done = Submitted()
    remaining = iter(records)
    while chunk := list(islice(remaining, AT_ONCE)):
        names = [name for record in chunk for name in _names(record)]
        judged = Submitted()

        def judge(known: Mapping[Request, Known], chunk: list[Edit | BadRecord] = chunk) -> list[Event]:
            nonlocal judged
            judged = Submitted()  # anew each time that another process was faster
            found: Contents = {name: (state.state, state.payload) for (_, name), state in known.items() if state.state}
            return [event for record in chunk for event in _received(found, line, record, actor, judged, findings)]

        ledger.write([(line, name) for name in names], judge)
        done.queued += judged.queued
        done.present += judged.present
        done.rejected |= judged.rejected
        done.findings |= judged.findings
    return done


def _names(record: Edit | BadRecord) -> list[str]:
    """The ids that a record may stand under."""
    if isinstance(record, BadRecord):
        return [_bad_id(_bad_payload(record))]
    return [record.id, _other_id(record.id, record.model_dump(mode="json"))]


def _bad_payload(record: BadRecord) -> dict[str, Any]:
    return {"row": record.row, "field": record.field, "raw": record.raw}


def _bad_id(payload: Mapping[str, Any]) -> str:
    return f"bad-{_digest(payload)}"


def _other_id(request_id: str, payload: Mapping[str, Any]) -> str:
    """The id of a request whose own is taken by another content."""
    return f"{request_id}#{_digest(payload)}"


def _received(
    known: Contents,
    line: str,
    record: Edit | BadRecord,
    actor: str,
    done: Submitted,
    findings: Callable[[str], tuple[str, ...]],
) -> list[Event]:
    write = partial(Event, line=line, actor=actor)
    if isinstance(record, BadRecord):
        payload: dict[str, Any] = _bad_payload(record)
        request_id, reason = _bad_id(payload), record.reason
    else:
        payload = record.model_dump(mode="json")
        request_id, (state, earlier) = record.id, known.get(record.id, ("", None))
        if (fault := fault_now(record)) is not None and state not in STANDING:
            request_id, reason = _other_id(request_id, payload), fault
        elif state not in STANDING | {"received"}:
            done.queued.append(request_id)
            known[request_id] = ("queued", payload)
            received = write(request_id=request_id, event="received", payload=payload)
            if looked := findings(request_id):
                done.findings[request_id] = looked
            return [received, write(request_id=request_id, event="queued", reason="; ".join(looked) or None)]
        elif earlier is not None and _content(earlier) == _content(payload):
            done.present.append(request_id)
            return []
        else:
            reason = f"request '{request_id}' is {state} with other content; give this one another id"
            request_id = _other_id(request_id, payload)
    done.rejected[request_id] = reason
    if request_id in known:
        return []
    known[request_id] = ("rejected", payload)
    received = write(request_id=request_id, event="received", payload=payload)
    return [received, write(request_id=request_id, event="rejected", reason=reason)]


def _content(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A request without what readers of earlier releases did not yet read of its probes: it asks for the same."""

    def asked(probes: Any) -> Any:
        return [{"prompt": probe.get("prompt"), "answer": probe.get("answer")} for probe in probes]

    probed = ("neighborhood", "portability")
    return {name: asked(value) if name in probed else value for name, value in payload.items()}


def _digest(payload: Mapping[str, Any]) -> str:
    return sha256(json.dumps(payload, sort_keys=True).encode())[:12]
