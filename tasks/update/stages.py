"""The stages of a knowledge update as plain functions: values in, values out. The model lives in the session alone.

    take_up → load → (write → judge → publish, or undo and look for the culprits) → evaluate → register

Each can be called by itself. The flow wraps each in a Prefect task (tasks/update/steps.py).
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from editing.edit import Edit
from editing.errors import EditingError, InvalidEdit
from editing.methods import compute_update
from editing.request import Request, fact_of, make_request, with_join
from tasks.ledger import choosing
from tasks.ledger.catching_up import version_events
from tasks.ledger.choosing import Line, departed, plain
from tasks.ledger.events import Event, State
from tasks.ledger.removals import take_out_expired, take_out_withdrawn
from tasks.ledger.table import Ledger
from tasks.ledger.view import LineView, chain
from tasks.lines.hypernetworks import keep
from tasks.lines.specs import read_line, save_line
from tasks.retries import outlasting
from tasks.stores.batches import apply, pack, read_each
from tasks.stores.manifest import Manifest, Version, members, open_replacements
from tasks.stores.roots import StoredValues
from tasks.update.beforehand import check_queued
from tasks.update.elsewhere import NOBODY
from tasks.update.function import check_statistics, function_of, note_other_statistics, stored_function
from tasks.update.preparing import Workers
from tasks.update.records import record_of
from tasks.update.reference import measure_reference
from tasks.update.run import Batch, Footing, Judged, Reference, Run, Sharing, Taken, Written
from tasks.update.saying import shown
from tasks.update.screening import screen
from tasks.update.session import Session, open_session
from tasks.update.validation import failed_verdict, validate_batch
from tasks.update.values import base_states, known_by, told_standing
from tasks.update.writing import told


def take_up(run: Run, view: LineView, limit: int | None, only: Sequence[str] | None = None) -> Taken:
    """What is written, taken out and replaced of what is queued, what is refused or left, and why.

    Raises:
        UsageError: `only` names what is not queued.
    """
    ledger = run.workplace.ledger
    take_out_withdrawn(run.workplace.store, ledger, view, run.actor)
    take_out_expired(run.workplace.store, ledger, view, run.actor)
    queued = ledger.queued(run.line)
    check_queued(run.line, queued, only)
    held = list(members(chain(view, view.tip)))
    join = run.spec.join
    live = known_edits(ledger, run.line, held, join)
    # What a killed job took out before it wrote what was to take its place.
    gone = known_edits(ledger, run.line, [name for one in view.waiting for name in one.manifest.removed], join)
    stands = Line(
        [*live.values(), *gone.values()], held, {*held} - view.live.keys(), view.events.standings.keys(), departed(view)
    )
    found = choosing.take(queued, stands, limit, run.policy.on_conflict, only)
    requests = {one.request_id: edit for one in queued if (edit := _request(one.payload, join)) is not None}
    accepted = tuple(with_join(edit, join) for edit in found.accepted)
    return Taken(
        accepted, found.rejected, gone | {name: fact_of(edit) for name, edit in requests.items()} | live,
        removals=found.removals, replaced=found.replaced, ended=found.ended, left=found.left,
        carried={name: edit.carried for name, edit in requests.items() if isinstance(edit, Request)}
        | {one.request_id: {"reason": (one.payload or {}).get("reason", "")}
           for one in queued if one.request_id in found.removals},
    )  # fmt: skip


def known_edits(ledger: Ledger, line: str, requests: Sequence[str], join: str | None) -> dict[str, Edit]:
    """What these requests say, in their order, as far as the ledger still knows it; `join`: as the line joins them."""
    payloads = ledger.payloads(line, requests)
    return {name: edit for name in requests if (edit := _edit(payloads.get(name), join)) is not None}


def write_rejections(run: Run, rejected: dict[str, str], ended: Mapping[str, tuple[State, str]] | None = None) -> None:
    """The last event of what is refused or ends otherwise, where it is queued when it is written; safe to repeat."""
    endings: dict[str, tuple[State, str]] = {name: ("rejected", reason) for name, reason in rejected.items()}
    endings |= ended or {}
    events = [
        Event(
            request_id=request_id,
            event=event,
            line=run.line,
            actor=run.actor,
            reason=reason,
            flow_run_id=run.flow_run_id or None,
        )
        for request_id, (event, reason) in endings.items()
    ]
    run.workplace.ledger.write(
        [(run.line, request_id) for request_id in endings],
        lambda known: [event for event in events if known[run.line, event.request_id].state == "queued"],
    )


def load(run: Run, statistics_texts: Sequence[str] | None) -> Session:
    """The base of the line with its key statistics; the line is defined from then on, as `Session.spec` says.

    Raises:
        UsageError: the line has other key statistics than of this text.
    """
    store, made = run.workplace.store.store, [one.manifest for one in run.workplace.store.versions(run.line)]
    function = stored_function(made)
    check_statistics(run.line, function, statistics_texts)
    known = read_line(store, run.line)
    session = open_session(
        known or run.spec,
        run.workplace.settings,
        statistics_texts=statistics_texts,
        function=function or None,
        new=known is None,
        shared=Workers(run) if run.policy.workers else NOBODY,
    )
    note_other_statistics(run.line, function, session)
    session.values_known.stored = StoredValues(run.workplace.store, made).get
    keep(store, session.config)
    save_line(store, session.spec)
    return session


def restore(run: Run, session: Session, versions: Sequence[Manifest]) -> None:
    """Apply further versions to the session's model; every digest is verified."""
    store = run.workplace.store
    session.restore(read_each(versions, lambda manifest: outlasting(partial(store.tensors, manifest))))


def screen_taken(session: Session, taken: Taken, probes: int) -> Taken:
    """Without the requests that this model cannot take, which are refused, and without what it cannot be asked."""
    subjects = Counter(plain(edit.subject) for edit in taken.known.values())
    heirs = {*taken.replaced.values()}
    changed = {edit.subject for edit in taken.edits if subjects[plain(edit.subject)] > 1 or edit.id in heirs}
    found = screen(session, taken.edits, changed, probes)
    known = taken.known | {edit.id: edit for edit in found.accepted}
    replaced = {old: new for old, new in taken.replaced.items() if new not in found.rejected}
    return replace(
        taken, edits=found.accepted, rejected=found.rejected, findings=found.findings, known=known, replaced=replaced
    )


def write(session: Session, batch: Batch, sharing: Sharing | None = None) -> Written:
    """Search values and write the batch into the weights. Raises EditingError; the model is as it was then.

    `sharing`: the live facts that are written where the batch is; none, where there are none.
    """
    started = time.perf_counter()
    sharing = sharing or Sharing()
    z_star = session.values(batch.edits, sharing.same)
    searched = time.perf_counter() - started
    names = tuple(known_by(session, batch.edits, sharing.same))
    z_base = base_states(session, batch.edits) if names else None
    with told(session.method_input, batch.edits) as given:
        update = compute_update(given, batch.edits, z_star, session.config, live=sharing.same)
    undo = apply(session.weights, update.update)
    return Written(batch, update, z_star, undo, searched, sharing.holding, z_base, names)


def judge(run: Run, session: Session, written: Written, earlier: Sequence[Edit], reference: Reference) -> Judged:
    """Measure what was written and judge it by the policy; `earlier`: a sample of the live facts."""
    started = time.perf_counter()
    verdict = validate_batch(session, written.batch.edits, earlier, reference, run.policy, written.beside, written.undo)
    seconds = time.perf_counter() - started
    counted = [edit for edit in earlier if edit.id not in verdict.fallen]
    record = record_of(run.policy, session, reference, counted, written.beside, verdict.checks)
    return Judged(written.batch, verdict, written, seconds + written.search_seconds, seconds, record)


def failed(batch: Batch, error: EditingError, written: Written | None = None) -> Judged:
    """The verdict on a batch that could not be written or measured: what one request cannot do must not end a job."""
    return Judged(batch, failed_verdict(error), written)


def manifest_of(
    run: Run, session: Session, judged: Judged, stand: Footing, taken: Taken, alike: dict[str, tuple[str, ...]]
) -> Manifest:
    """What a batch that stands in the weights is as the next version of its line."""
    batch = judged.batch
    return Manifest(
        line=run.line,
        version=run.workplace.store.next_number(run.line),
        parent=stand.tip,
        based_on=stand.sequence,
        base=run.spec.model,
        base_digest=session.loaded.digest,
        config=run.spec.config.model_dump(mode="json"),
        request_ids=batch.ids,
        values=judged.written.known_by if judged.written else (),
        function=function_of(session),
        standing=told_standing(judged.written.standing) if judged.written else {},
        tensor_digests=session.weights.digests(),
        metrics=judged.verdict.metrics,
        request_metrics=judged.verdict.request_metrics,
        findings={name: taken.findings[name] for name in batch.ids if name in taken.findings},
        judged=dict(judged.record),
        alike={name: alike[name] for name in batch.ids if name in alike},
        batch=batch.number,
        flow_run_id=run.flow_run_id,
        mlflow_run_id=run.mlflow_run_id,
    )


def publish(run: Run, written: Written, manifest: Manifest) -> Version:
    """Publish the batch as a version, then write its events; safe to repeat, each part happens once.

    Where something became of a request in the meantime (an earlier version that holds it was put back in service),
    the version tells nothing about it: whether it can be put in service itself is asked before the next batch.
    """
    run.lease.renew()
    version = run.workplace.store.publish(manifest, pack(written.update, written.z_star, written.rows))
    run.workplace.ledger.append_possible(version_events(version, run.actor))
    return version


def unfinished(view: LineView) -> bool:
    """Whether a job was killed between taking a fact out and writing what replaces it."""
    held = members(chain(view, view.tip))
    taken_out = open_replacements(one.manifest for one in view.waiting)
    return any(not {old, new} & held.keys() for old, new in taken_out.items())


def unreplaced(session: Session, stand: Footing) -> list[str]:
    """Facts in service that waiting versions take out for others which are not there: those were not kept."""
    taken_out = open_replacements(version.manifest for version in stand.waiting)
    return [old for old, new in taken_out.items() if old not in session.live and new not in session.live]


def undo(session: Session, written: Written) -> str:
    """Take a batch back, bit for bit; returns what the model with a single edit said to its prompt."""
    answer = shown(session, [written.batch.edits[0].text])[0] if len(written.batch.edits) == 1 else ""
    session.weights.revert(written.undo)
    return answer


def quarantine_events(run: Run, judged: Judged) -> list[Event]:
    """What happened to an edit that failed alone, with its numbers and the reasons; it waits for a person."""
    [edit] = judged.batch.edits
    common = {
        "request_id": edit.id,
        "line": run.line,
        "actor": run.actor,
        "batch": judged.batch.number,
        "flow_run_id": run.flow_run_id,
        "mlflow_run_id": run.mlflow_run_id,
    }
    metrics = judged.verdict.metrics | judged.verdict.request_metrics.get(edit.id, {})
    reason = "; ".join(judged.verdict.reasons)
    return [
        Event.model_validate(common | {"event": "applied"}),
        Event.model_validate(common | {"event": "quarantined", "reason": reason, "metrics": metrics}),
    ]


def halves(judged: Judged) -> tuple[Batch, Batch]:
    """How a failed batch is tried again: those that did well and those that did not, or else the two halves."""
    edits, failing = judged.batch.edits, set(judged.verdict.failing)
    middle = (len(edits) + 1) // 2
    parts = edits[:middle], edits[middle:]
    if 0 < len(failing) < len(edits):
        kept = tuple(edit for edit in edits if edit.id not in failing)
        parts = kept, tuple(edit for edit in edits if edit.id in failing)
    return Batch(f"{judged.batch.name}.1", parts[0]), Batch(f"{judged.batch.name}.2", parts[1])


def reference_of(run: Run, session: Session, texts: Sequence[str] | None) -> Reference:
    """The base's numbers, which everything is compared with."""
    return measure_reference(session, run.policy, texts)


def _edit(payload: object, join: str | None) -> Edit | None:
    """The fact of a request, or None where it is none."""
    request = _request(payload, join)
    return None if request is None else fact_of(request)


def _request(payload: object, join: str | None) -> Edit | None:
    """A request with what it carries, or None where it is none; intake says why."""
    try:
        return with_join(make_request(payload), join) if isinstance(payload, dict) else None
    except InvalidEdit:
        return None
