"""Facts taken out for good: what they say is erased wherever this installation has written it.

In this order, so that what is killed can be repeated:

1. What can still be served or written is taken out first (`removals`): a fact in service or in a version that waits is
   queued as a removal, and forgotten when the version without it is in service.
2. Of each version that held it, `forgotten/` says so, HEAD is moved where it stands, so that nobody who looked before
   can put such a version in service, and its tensors and manifest go.
3. MLflow: reports are made anew, descriptions, tags and traces rewritten. Prefect's database in a file, caches and all
   other files of the home.
4. The ledger last, since it alone says what there is to look for. Its events stay, with a digest of what they said.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from editing.digests import json_digest
from editing.edit import shown
from editing.errors import UsageError
from editing.files import write_atomically
from editing.progress import OnProgress
from tasks.keeping.databases import sweep
from tasks.keeping.needles import Needles, needles_of
from tasks.keeping.places import FolderFiles, places_of
from tasks.keeping.unserved import holders, needed, rewrite_forgotten, rewrite_heads, take_away
from tasks.ledger.catching_up import catch_up
from tasks.ledger.removals import OPEN, UNWRITTEN, WRITTEN, removals_of, removed_by, take_out
from tasks.ledger.reserved import RESERVED
from tasks.ledger.rewriting import FORGOTTEN, drop_history, rewrite
from tasks.ledger.view import LineView
from tasks.lines.stored import check_known
from tasks.progress import stage
from tasks.stores.lease import holder
from tasks.stores.opening import open_store
from tasks.stores.searches import FOLDER as SEARCHES
from tasks.text import check_length
from tasks.tracking.errors import TrackingError
from tasks.tracking.forgetting import drop_reviews, rewrite_tags
from tasks.workplace import Workplace


@dataclass
class Forgotten:
    """What became of the requests."""

    forgotten: list[str] = field(default_factory=list)
    queued: dict[str, str] = field(default_factory=dict)
    """Those that are in service or wait, each with the removal that the next job carries out."""
    versions: list[int] = field(default_factory=list)
    """What can be served no more."""
    notes: list[str] = field(default_factory=list)
    """What could not be reached, or stays because another says it as well."""


def forget(workplace: Workplace, line: str, requests: Sequence[str], reason: str) -> Forgotten:
    """Forget requests of a line. Safe to repeat, and to repeat after a kill.

    Raises:
        UsageError: no request, no reason, no such line or request, or a job works on the line; nothing was changed.
    """
    names = list(dict.fromkeys(name.strip() for name in requests if name.strip()))
    _check(workplace, line, names, reason)
    actor, done = workplace.settings.who, Forgotten()
    needles, shared = needles_of(*_said(workplace, line, names))
    if (kept := needles.replaced(reason.strip())) != reason.strip():
        done.notes.append(f"the reason says some of it, and is kept as {shown(kept)}")
    view = _taken_out(workplace, line, names, kept, done)
    erased = [name for name in names if name not in done.queued]
    if not erased:
        return done
    if done.queued:  # what these say stays for now
        needles, shared = needles_of(*_said(workplace, line, erased))
    if shared:
        more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
        done.notes.append(f"request {shown(shared[0])}{more} says some of it as well, and that stays: forget it, too")
    telling = [name for name in erased if needles.found(name)]
    done.notes += [f"the id of request {shown(name)} says some of it, and stays" for name in telling]
    done.notes += _exports(workplace, line, erased)
    with stage("versions that held them") as tell:
        held = holders(view, erased)
        done.versions = [version.number for version in held]
        take_away(workplace.store.store, view, held, actor, kept, tell)
    _forget_in_tracking(workplace, line, erased, held, needles, done)
    _forget_in_files(workplace, needles, done)
    with stage("ledger"):
        _forget_in_ledger(workplace, line, erased, needles, (actor, kept))
    done.forgotten = erased
    return done


def _exports(workplace: Workplace, line: str, names: Sequence[str]) -> list[str]:
    """Where copies of them went, which nobody but a person can delete."""
    events = (one for name in names for one in workplace.ledger.history(name, line=line) if one.event == "exported")
    told = {one.reason: f"version {one.version} by {one.actor} at {one.time:%Y-%m-%d %H:%M} UTC" for one in events}
    return [f"exported, and to be deleted by you: {what} {reason}" for reason, what in told.items()]


def is_forgotten(payload: Mapping[str, Any] | None) -> bool:
    return bool(payload and FORGOTTEN in payload)


def _check(workplace: Workplace, line: str, names: Sequence[str], reason: str) -> None:
    if not names:
        raise UsageError("name the requests that are to be forgotten, by their ids; errata history shows them")
    if not check_length(reason).strip():
        raise UsageError("to forget needs a reason: it stands in the ledger in the place of what was said")
    store = workplace.store.store
    check_known(workplace.store, workplace.ledger, line)
    seen = workplace.ledger.look(line).get(line)
    for name in names:
        if seen is None or name not in seen.standings:
            raise UsageError(f"line '{line}' knows no request {shown(name)}; see errata history --line {line}")
        if name.startswith(RESERVED):
            raise UsageError(f"request {shown(name)} takes a fact out and says nothing of its own: forget the fact")
    if (job := holder(store, line)) is not None and not job.is_free():
        raise UsageError(f"a job works on line '{line}' (process {job.pid} on {job.host}): forget when it has ended")


def _taken_out(workplace: Workplace, line: str, names: Sequence[str], reason: str, done: Forgotten) -> LineView:
    """Take out what could be served or written; what is left to a job is told in `done.queued`."""
    store, ledger, who = workplace.store, workplace.ledger, workplace.settings.who
    view = catch_up(store, ledger, line, who)
    standings = view.events.standings
    for name in names:
        if standings[name].state in WRITTEN:
            pending = [one for one in removals_of(ledger, line, name) if standings[one].state in OPEN]
            done.queued[name] = pending[0] if pending else ""
    fresh = [name for name, removal in done.queued.items() if not removal]
    waiting = [name for name in names if standings[name].state in UNWRITTEN]
    if fresh or waiting:
        taken = take_out(store, ledger, line, [*fresh, *waiting], who, reason)
        done.queued |= taken.queued
        view = catch_up(store, ledger, line, who)
    for name in names:
        if name not in done.queued and (still := {*needed(view)} & {one.snapshot for one in holders(view, [name])}):
            number = view.by_snapshot[still.pop()].number
            raise UsageError(
                f"request {shown(name)} was taken out, and version {number}, which held it, is still built on: "
                f"errata rebase {line}, approve what it makes, then forget again"
            )
    return view


def _said(workplace: Workplace, line: str, names: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All that these requests ever said, and what all others say; removals say nothing but their reasons."""
    own, others = list[dict[str, Any]](), list[dict[str, Any]]()
    for row in workplace.ledger.rows():
        if row["event"] == "received" and row["payload"] is not None:
            payload = json.loads(row["payload"])
            if is_forgotten(payload) or removed_by(payload):
                continue
            (own if row["line"] == line and row["request_id"] in names else others).append(payload)
    return own, others


def _forget_in_tracking(
    workplace: Workplace, line: str, names: Sequence[str], held: Sequence[Any], needles: Needles, done: Forgotten
) -> None:
    from tasks.keeping.reports import forget_in_reports  # figures take a second to import, and a mistake none

    try:
        tracker = workplace.tracker()
        with stage("MLflow"):
            drop_reviews(tracker, held, names)
            rewrite_tags(tracker, line, needles.replaced)
        forget_in_reports(tracker, line, {*names}, needles)
    except TrackingError as error:
        raise UsageError(f"{error}; nothing is forgotten yet but the versions that held it: repeat it then") from error
    places = places_of(workplace.settings)
    if places.mlflow is not None:
        with stage("MLflow's database") as tell:
            sweep(places.mlflow, needles, tell)
    else:
        done.notes.append("MLflow's server keeps what was deleted until its database is vacuumed (VACUUM FULL)")


def _forget_in_files(workplace: Workplace, needles: Needles, done: Forgotten) -> None:
    """Prefect's database, results and logs; artifacts; records of lines; the cache."""
    settings, places = workplace.settings, places_of(workplace.settings)
    if places.prefect.exists():
        with stage("Prefect's database") as tell:
            sweep(places.prefect, needles, tell)
    if settings.prefect_api_url:
        done.notes.append("Prefect's server keeps parameters and logs of its runs: delete those of the runs that tell")
    with stage("records of lines") as tell:
        _forget_in_records(workplace, needles, tell)
    databases = {one.resolve() for one in (places.mlflow, places.prefect) if one}
    ledger_and_store = [Path(one.uri) for one in (places.store, places.ledger) if isinstance(one, FolderFiles)]
    folders = [settings.home_folder, *(p for p in places.folders if p not in ledger_and_store), places.prefect.parent]
    for folder in ledger_and_store:  # what killed writers have not finished
        for path in _files(folder / ".tmp"):
            if needles.found_in(path.read_bytes()):
                path.unlink(missing_ok=True)
    elsewhere = [*ledger_and_store, settings.cache_folder, settings.home_folder / "settings.toml"]
    with stage("files") as tell:
        paths = dict.fromkeys(path for folder in folders for path in _files(folder))
        for number, path in enumerate(paths):
            tell(number, len(paths))
            if not any(path.is_relative_to(one) for one in elsewhere) and not _is_of(path, databases):
                _forget_in_file(path, needles, done)
    with stage("cache") as tell:
        _forget_in_cache(settings.cache_folder, needles, tell)


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _is_of(path: Path, databases: set[Path]) -> bool:
    """Whether a file is one of these databases, or its journal."""
    return any(path.resolve() == one or path.name.startswith(f"{one.name}-") for one in databases)


def _forget_in_file(path: Path, needles: Needles, done: Forgotten) -> None:
    data = path.read_bytes()
    if not needles.found_in(data):
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        done.notes.append(f"'{path}' has some of it and is no text: remove it yourself")
        return
    write_atomically(path, needles.replaced(text).encode())


def _forget_in_records(workplace: Workplace, needles: Needles, tell: OnProgress) -> None:
    """What jobs left that workers were to search; reasons that people gave: in rules, votes, alerts, every HEAD, and
    where others were forgotten."""
    store = workplace.store.store
    for key in store.list(f"{SEARCHES}/"):  # a job that is at one goes on by itself
        store.delete(key)
    rewrite_forgotten(store, needles.replaced)
    for done, line in enumerate(lines := workplace.store.lines()):
        tell(done, len(lines))
        rewrite_heads(store, line, needles.replaced)
        for key in store.list(f"lines/{line}/"):
            name = key.split("/")[2]
            if name in ("HEAD", "heads", "versions", "line.json", "job.json"):
                continue
            data = store.get(key)[0]
            if needles.found_in(data):
                store.put(key, needles.replaced(data.decode("utf-8")).encode())


def _forget_in_cache(folder: Path, needles: Needles, tell: OnProgress) -> None:
    """What was found for facts, which is made again where it is wanted, and whatever else says it."""
    for done, path in enumerate(paths := list(_files(folder))):
        tell(done, len(paths))
        kind = path.relative_to(folder).parts[0]
        if kind == "values" or (kind in TEXTS and needles.found_in(path.read_bytes())):
            path.unlink(missing_ok=True)


TEXTS = frozenset({"answers", "texts", "probes", "scores", "ability", "contexts"})
"""Kinds of results in the cache that hold what a model said."""


def _forget_in_ledger(
    workplace: Workplace, line: str, names: Sequence[str], needles: Needles, by: tuple[str, str]
) -> None:
    actor, reason = by
    mark = {"time": datetime.now(UTC).isoformat(), "actor": actor, "reason": reason}

    def beside(row: Mapping[str, Any]) -> dict[str, Any] | None:
        payload = json.loads(row["payload"]) if row["payload"] is not None else {}
        told = payload.get(FORGOTTEN) or (payload if removed_by(payload) else None)
        new = {**row, "reason": row["reason"] and needles.replaced(row["reason"])}
        if told is not None:  # ids stay
            told["reason"] = needles.replaced(before := told.get("reason") or "")
            if told["reason"] != before:
                new["payload"] = json.dumps(payload, ensure_ascii=False)
        elif not is_own(row):
            new["payload"] = row["payload"] and needles.replaced(row["payload"])
        return new if new != dict(row) else None

    def own(row: Mapping[str, Any]) -> dict[str, Any] | None:
        payload = json.loads(row["payload"]) if row["payload"] is not None and is_own(row) else None
        if payload is None or is_forgotten(payload):
            return None
        told = {"id": row["request_id"], FORGOTTEN: {"digest": json_digest(payload), **mark}}
        return {**row, "payload": json.dumps(told, ensure_ascii=False)}

    def is_own(row: Mapping[str, Any]) -> bool:
        return row["line"] == line and row["request_id"] in names

    rewrite(workplace.ledger, beside)
    rewrite(workplace.ledger, own)  # last: it alone says what there is to look for
    used = workplace.settings
    drop_history(workplace.ledger, open_store(workplace.ledger.uri, endpoint_url=used.s3_endpoint_url))
