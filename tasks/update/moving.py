"""The facts of a line on another base: what moves, what that base says already, and what each of them answers."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from editing.chat import question_about
from editing.edit import Edit, shown
from editing.errors import InvalidEdit, UsageError
from editing.measure.said import Said, others_of_its_kind
from editing.progress import OnProgress
from editing.request import fact_of, make_request, with_join
from tasks.ledger import intake
from tasks.ledger.appending import Known
from tasks.ledger.appending import Request as Named
from tasks.ledger.choosing import question
from tasks.ledger.events import Event
from tasks.ledger.view import LineView, chain, look
from tasks.lines.specs import LineSpec, Template, existing_line
from tasks.progress import note, stage
from tasks.report.data import Moved, MovedRow
from tasks.update.saying import conversation, said_about
from tasks.update.screening import readable
from tasks.update.session import Session, open_session
from tasks.workplace import Workplace

KNOWN = "known"
"""Metric of the event that ends a request whose answer its base gives already."""


@dataclass(frozen=True)
class Source:
    """What is moved: the facts in service, and those that the line's own base was found to know."""

    spec: LineSpec
    view: LineView
    requests: Mapping[str, Edit]
    """By id, with what each carries."""
    facts: Mapping[str, Edit]
    """The same as the methods take them."""


def source_of(workplace: Workplace, line: str, to: str) -> Source:
    """The facts that a line stands for, oldest first, to be moved to another one.

    Raises:
        UsageError: it does not exist, has no facts, or is that other one.
    """
    if line == to:
        raise UsageError(f"line '{line}' cannot be moved onto itself; choose another --to")
    spec = existing_line(workplace.store, workplace.ledger, line)
    view = look(workplace.store, workplace.ledger, line)
    states = workplace.ledger.states(line)
    known = [name for name, one in states.items() if one.state == "rejected" and (one.metrics or {}).get(KNOWN)]
    requests = {}
    for name, payload in workplace.ledger.payloads(line, [*view.live, *known]).items():
        with suppress(InvalidEdit):
            requests[name] = make_request(payload or {})
    asked = {question(requests[name]) for name in view.live if name in requests}
    kept = {n: one for n, one in requests.items() if n in view.live or question(one) not in asked}
    if lost := [name for name in view.live if name not in kept]:
        raise UsageError(f"the ledger of line '{line}' does not know what {shown(lost[0])} says; it cannot be moved")
    if not kept:
        raise UsageError(
            f"nothing of line '{line}' is in service, so there is nothing to move; see errata review {line}"
        )
    return Source(spec, view, kept, {n: with_join(fact_of(one), spec.join) for n, one in kept.items()})


def definition(
    source: Source, model: str, dtype: str | None, template: Template | None, system: str | None, method: str | None,
    options: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """How the new line is made: what is not said is as the line that is moved has it, but for its options.

    Where bare prompts alone are asked for, its system message is left behind.
    """
    return {
        "model": model,
        "dtype": dtype,
        "template": template or source.spec.template,
        "system": source.spec.system if system is None and template != "raw" else system,
        "join": source.spec.join,
        "method": method or source.spec.config.method,
        "options": options,
    }


def check_target(workplace: Workplace, source: Source, spec: LineSpec) -> None:
    """Refuse to move onto the same base, or onto a line that holds anything else.

    Raises:
        UsageError
    """
    if spec.model == source.spec.model:
        raise UsageError(f"line '{source.spec.line}' stands on '{spec.model}' already; name another --model")
    others = workplace.ledger.states(spec.line).keys() - source.requests.keys()
    if others:
        raise UsageError(
            f"line '{spec.line}' has requests that are no facts of line '{source.spec.line}', such as "
            f"{shown(min(others))}; choose another --to"
        )


def ask_both(workplace: Workplace, source: Source, spec: LineSpec) -> Moved:
    """What the version in service answers to each fact, and what the new base does, one model after the other.

    Raises:
        ModelError: a base cannot be loaded.
        UsageError: both have the very same weights.
    """
    edits = list(source.facts.values())
    others = others_of_its_kind(edits)
    with stage(f"what line {source.spec.line} says") as tell:
        session = _serving(workplace, source)
        then, digest = _answers(session, edits, others, tell), session.loaded.digest
    del session
    with stage(f"what {spec.model} says") as tell:
        session = open_session(spec, workplace.settings, only_asked=True)
        if session.loaded.digest == digest:
            raise UsageError(
                f"'{spec.model}' has the very weights that line '{source.spec.line}' stands on; name another --model"
            )
        base = _answers(session, edits, others, tell)
    return Moved(
        line=source.spec.line,
        version=source.view.head.version if source.view.head else 0,
        model=source.spec.model,
        rows=tuple(_row(edit, then.get(edit.id), base.get(edit.id)) for edit in edits),
    )


def submit(workplace: Workplace, source: Source, line: str, moved: Moved) -> None:
    """Queue what the new base gets wrong, under the same ids; what it knows ends as such. Safe to repeat."""
    known = {row.request_id: row for row in moved.rows if row.known}
    wrong = [request for name, request in source.requests.items() if name not in known]
    done = intake.submit(workplace.ledger, line, wrong, workplace.settings.who)
    note(f"{len(done.queued)} queued, {len(done.present)} already there, {len(known)} known to the new base")
    _end_known(workplace, {name: source.requests[name] for name in known}, line)


def _end_known(workplace: Workplace, requests: Mapping[str, Edit], line: str) -> None:
    by = {"line": line, "actor": workplace.settings.who}
    reason = "known: the base says it already, asked as people ask"

    def events(states: Mapping[Named, Known]) -> Sequence[Event]:
        new = [name for name in requests if not states[line, name].event_ids]
        return [
            event
            for name in new
            for event in (
                Event(request_id=name, event="received", payload=requests[name].model_dump(mode="json"), **by),
                Event(request_id=name, event="rejected", reason=reason, metrics={KNOWN: 1.0}, **by),
            )
        ]

    if requests:
        workplace.ledger.write([(line, name) for name in requests], events)


def _serving(workplace: Workplace, source: Source) -> Session:
    """The version in service, to be asked alone."""
    session = open_session(source.spec, workplace.settings, only_asked=True)
    session.restore_from(workplace.store, chain(source.view, source.view.serving))
    return session


def _answers(
    session: Session, edits: Sequence[Edit], others: Mapping[str, Sequence[str]], tell: OnProgress
) -> dict[str, Said]:
    """By id; nothing of what this model cannot read."""
    asked = readable(session.loaded, edits).accepted
    return said_about(session, asked, conversation(session), others, paraphrases=False, on_progress=tell)


def _row(edit: Edit, then: Said | None, base: Said | None) -> MovedRow:
    in_chat = base is not None and base.chat is not None
    return MovedRow(
        request_id=edit.id,
        asked=question_about(edit) if in_chat else edit.text,
        target=edit.target_new,
        line_says=_text(then),
        base_says=_text(base),
        known=base is not None and base.right,
    )


def _text(said: Said | None) -> str:
    return (said.chat or said.prompt).text if said else ""
