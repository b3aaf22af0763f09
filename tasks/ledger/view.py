"""The ledger's view of versions and HEAD: which events they imply, which versions wait, and catching up after a crash.

A version object is created before its events are written, and HEAD is moved before its events are written. Both
carry all that the events say, so a job that was killed in between is completed by `reconcile`. Event ids are derived
from what happened, so writing the same events again adds nothing.
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime

from tasks.ledger.events import Event, State
from tasks.ledger.table import Ledger
from tasks.stores.manifest import Head, Version
from tasks.stores.snapshots import SnapshotStore

BATCH_EVENTS: tuple[State, ...] = ("applied", "validated", "committed")


def version_events(version: Version, actor: str) -> list[Event]:
    """What happened to the requests of a version when it was made."""
    manifest = version.manifest
    return [
        Event(
            event_id=_event_id(version.snapshot, request_id, event),
            time=datetime.fromisoformat(manifest.created),
            request_id=request_id,
            event=event,
            line=manifest.line,
            version=version.number,
            batch=manifest.batch,
            actor=actor,
            flow_run_id=manifest.flow_run_id,
            mlflow_run_id=manifest.mlflow_run_id,
            snapshot=version.snapshot,
            metrics=dict(manifest.request_metrics.get(request_id, {})),
        )
        for event in BATCH_EVENTS
        for request_id in manifest.request_ids
    ]


def head_events(store: SnapshotStore, head: Head, before: Version | None) -> list[Event]:
    """What a move of HEAD means for requests: those that come into service and those that leave it."""
    now = _members(store, head.snapshot)
    earlier = _members(store, before.snapshot if before else None)
    came: tuple[State, ...] = ("approved", "promoted") if head.action == "promote" else ("promoted",)
    steps = [(version, request_id, came) for version, request_id in now if (version, request_id) not in set(earlier)]
    gone: tuple[State, ...] = ("rolled_back",)
    steps += [(version, request_id, gone) for version, request_id in earlier if (version, request_id) not in set(now)]
    return [
        Event(
            event_id=_event_id(head.token, f"{version} {request_id}", event),
            time=head.moved,
            request_id=request_id,
            event=event,
            line=head.line,
            version=version,
            actor=head.actor,
            snapshot=head.snapshot,
            reason=head.reason or None,
        )
        for version, request_id, events in steps
        for event in events
    ]


def reconcile(store: SnapshotStore, ledger: Ledger, line: str, actor: str) -> None:
    """Write the events that a killed job or command left out.

    Every move of HEAD begins with this, so only the latest can lack its events.
    """
    known = ledger.version_states(line)
    events: list[Event] = []
    for version in store.versions(line):
        if version.number not in known:
            events += version_events(version, actor)
    head = store.head(line)
    if head is not None:
        events += head_events(store, head, store.version(line, head.previous) if head.previous else None)
    if events:
        ledger.append(events, once=True)
    strand(store, ledger, line, actor)


def strand(store: SnapshotStore, ledger: Ledger, line: str, actor: str) -> None:
    """Take back versions that wait but are built on what HEAD left: nobody could put them in service any more."""
    states = ledger.version_states(line)
    waiting = {version.number for version in open_versions(store, ledger, line)}
    events = [
        Event(
            event_id=_event_id(version.snapshot, request_id, "stranded"),
            request_id=request_id,
            event="rolled_back",
            line=line,
            version=version.number,
            batch=version.manifest.batch,
            actor=actor,
            snapshot=version.snapshot,
            reason="built on a version that was taken out of service; submit it again",
        )
        for version in store.versions(line)
        if states.get(version.number) == "committed" and version.number not in waiting
        for request_id in version.manifest.request_ids
    ]
    if events:
        ledger.append(events, once=True)


def open_versions(store: SnapshotStore, ledger: Ledger, line: str) -> list[Version]:
    """The versions that wait for review, oldest first: committed, built on HEAD one after the other."""
    head = store.head(line)
    states = ledger.version_states(line)
    tip = head.snapshot if head else None
    waiting: list[Version] = []
    for version in store.versions(line):
        if states.get(version.number) == "committed" and version.manifest.parent == tip:
            waiting.append(version)
            tip = version.snapshot
    return waiting


def live_requests(store: SnapshotStore, snapshot: str | None) -> list[str]:
    """Ids of the requests whose facts a snapshot holds, oldest first."""
    return [request_id for _, request_id in _members(store, snapshot)]


def _members(store: SnapshotStore, snapshot: str | None) -> list[tuple[int, str]]:
    return list(_chain_members(store, snapshot))


def _chain_members(store: SnapshotStore, snapshot: str | None) -> Iterator[tuple[int, str]]:
    for manifest in store.chain(snapshot):
        for request_id in manifest.request_ids:
            yield manifest.version, request_id


def _event_id(source: str, request: str, event: str) -> str:
    return hashlib.sha256(f"{source} {request} {event}".encode()).hexdigest()[:32]
