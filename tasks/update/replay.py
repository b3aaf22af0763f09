"""A stored version judged again, by the policy that it was judged by: its batch or root, and the job at its end.

Nothing is written but caches. The model is the base with the version's factors, digest by digest as it was then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from editing.covariance import text_digest
from editing.edit import Edit
from editing.errors import UsageError
from tasks.lines.specs import LineSpec
from tasks.report.data import Check, JobReport
from tasks.stores.manifest import Manifest, Version, members
from tasks.stores.snapshots import SnapshotStore
from tasks.update.ability_files import read_sets, relocated
from tasks.update.champion import measure_served
from tasks.update.measured import Served
from tasks.update.policy import Policy
from tasks.update.records import Record, read_record, stored_policy
from tasks.update.reference import measure_reference
from tasks.update.root_verdict import Asked, ask, judge_root
from tasks.update.run import Reference, spread_sample
from tasks.update.session import Session, open_session
from tasks.update.stages import known_edits
from tasks.update.validation import judge_candidate, validate_batch
from tasks.workplace import Workplace

Scope = Literal["batch", "root", "job"]


@dataclass(frozen=True)
class Row:
    """One row of both verdicts; None where one of them has no such row."""

    then: Check | None
    now: Check | None

    @property
    def is_same(self) -> bool:
        """Whether both hold, or both do not; what no longer stands alone as the worst of many is no news.

        What was asked then and has nothing to ask now is another verdict.
        """
        return _fails(self.then) == _fails(self.now) and (not _asked(self.then) or _asked(self.now))


@dataclass(frozen=True)
class Replayed:
    """What a verdict came to then and now."""

    scope: Scope
    then: tuple[Check, ...]
    now: tuple[Check, ...]

    @property
    def rows(self) -> list[Row]:
        """Side by side: first those of then, in their order, then what is new."""
        left = {_key(one): one for one in self.now}
        paired = [Row(one, left.pop(_key(one), None)) for one in self.then]
        return [*paired, *(Row(None, one) for one in left.values())]

    @property
    def is_same(self) -> bool:
        return all(row.is_same for row in self.rows)


def judge_again(
    workplace: Workplace,
    spec: LineSpec,
    version: Version,
    report: JobReport | None,
    texts: Sequence[str] | None = None,
    ability: Sequence[Path] = (),
) -> list[Replayed]:
    """The verdict on the version's batch or root, and where its job ended with it the one on the whole job.

    Args:
        report: of the job that made it, where there is one to read.
        texts: the text that perplexity was taken on, where the job was given one.
        ability: files of the policy's questions that are not where they were, told by their digests.

    Raises:
        UsageError: no verdict is stored, or the text is not that of then.
        ReadError, PolicyError: a file of questions is not there, or another one.
        DigestMismatch: a stored file or a resulting tensor is not what was recorded.
        Forgotten: it, or what its root is held against, was taken away with a fact that was forgotten.
    """
    records = _records(version, report)
    _check_text(records, texts)
    were = [one.name for one in records["job"].policy.ability] if "job" in records else []
    records = {
        scope: replace(one, policy=relocated(one.policy, ability) if scope == "job" else _of_a_batch(one.policy))
        for scope, one in records.items()
    }
    read_sets(records["job"].policy.ability if "job" in records else ())  # refused before anything long begins
    session = open_session(spec, workplace.settings, only_asked=True)
    store, chain = workplace.store, workplace.store.chain(version.snapshot)
    served = (
        store.chain(store.version(version.manifest.line, report.from_version).snapshot)
        if report and report.from_version
        else []
    )
    known = _known(workplace, [*served, *chain], spec)
    waiting = [known[name] for name in _waiting(store, version, served) if name in known]
    references = {scope: measure_reference(session, one.policy, texts) for scope, one in records.items()}
    session.restore_from(store, served)
    champion = _champion(session, waiting, records["job"], references["job"]) if served and "job" in records else None
    came_after = store.chain(version.manifest.after) if "root" in records else chain[:-1]
    begun = came_after[: len(served)] == served  # else it begins anew, with a root
    session.restore_from(store, came_after[len(served) :] if begun else came_after)
    undo = session.weights.undo_from_here(version.manifest.tensor_digests)
    before = {
        scope: _ask_root(session, one, references[scope], known) for scope, one in records.items() if scope == "root"
    }
    session.restore_from(store, chain[-1:])
    found = []
    for scope, record in records.items():
        if scope in before:
            verdict = judge_root(before[scope], _ask_root(session, record, references[scope], known), record.policy)
        elif scope == "batch":
            names = (*version.manifest.facts, *version.manifest.restored)
            batch = [known[name] for name in names if name in known]
            earlier, beside = ([known[n] for n in some if n in known] for some in (record.earlier, record.beside))
            verdict = validate_batch(session, batch, earlier, references[scope], record.policy, beside, undo)
        else:
            live = [known[name] for name in session.live if name in known]
            sample = spread_sample(live, record.policy.asked_at_the_end)
            verdict = judge_candidate(session, waiting, sample, references[scope], record.policy, champion).verdict
        found.append(Replayed(scope, record.checks, _as_named_then(verdict.checks, record.policy, were)))
    return found


def _records(version: Version, report: JobReport | None) -> dict[Scope, Record]:
    """The verdicts that are stored, with their policies."""
    found: dict[Scope, Record] = {}
    number, own, is_root = version.number, version.manifest.judged, version.manifest.live is not None
    if own:
        found["root" if is_root else "batch"] = read_record(own)
    if report is not None and report.to_version == number and report.checks:
        text = next(iter(found.values())).text if found else None
        found["job"] = Record(stored_policy(report.policy), report.checks, text)
    if not found and is_root:
        raise UsageError(
            f"version {number} of line '{version.manifest.line}' was made anew from the base by a release that stored "
            "no verdict on that; judge the job's last version"
        )
    if not found:
        raise UsageError(
            f"version {number} of line '{version.manifest.line}' holds no verdict and its job's report is not there; "
            "versions made by this release hold one"
        )
    return found


def _check_text(records: dict[Scope, Record], texts: Sequence[str] | None) -> None:
    wanted = next(iter(records.values())).text
    given = None if texts is None else text_digest(texts)
    if wanted is not None and given is None:
        raise UsageError(f"its perplexity was taken on a text of its own, sha256 {wanted[:12]}; give it by --text FILE")
    if wanted != given:
        was = f"sha256 {wanted[:12]}" if wanted else "what the base sampled itself"
        raise UsageError(
            f"--text is another text (sha256 {(given or '')[:12]}) than then ({was}); give that one or none"
        )


def _known(workplace: Workplace, chain: Sequence[Manifest], spec: LineSpec) -> dict[str, Edit]:
    names = list(dict.fromkeys(n for one in chain for n in (*(one.live or ()), *one.request_ids, *one.restored)))
    return known_edits(workplace.ledger, chain[-1].line, names, spec.join)


def _waiting(store: SnapshotStore, version: Version, served: Sequence[Manifest]) -> list[str]:
    """The facts that waited at the end of its job, in the order that they were written in."""
    since = served[-1].version if served else 0
    past = [one for one in store.past(version.snapshot, version.number) if one.version > since]
    live, held = members(store.chain(version.snapshot)), members(served)
    written = [name for one in past for name in (*one.facts, *one.restored)]
    return [name for name in dict.fromkeys((*written, *(one for one in live if one not in held))) if name in live]


def _ask_root(session: Session, record: Record, reference: Reference, known: Mapping[str, Edit]) -> Asked:
    """What is asked of a root and of what it took the place of, of the model as it stands."""
    return ask(session, [known[name] for name in record.earlier if name in known], reference, record.policy)


def _champion(session: Session, edits: Sequence[Edit], record: Record, reference: Reference) -> Served:
    probes = record.policy.neighborhood_probes
    scores = session.scores(edits, session.base_scores(edits, probes), probes)
    return measure_served(session, edits, scores, reference, record.policy)


def _as_named_then(checks: Sequence[Check], policy: Policy, were: Sequence[str]) -> tuple[Check, ...]:
    """Rows of files of questions that were moved, by the names that they had."""
    moved = {f"ability.{one.name}": f"ability.{was}" for one, was in zip(policy.ability, were, strict=False)}
    return tuple(check.model_copy(update={"measure": moved.get(check.measure, check.measure)}) for check in checks)


def _of_a_batch(policy: Policy) -> Policy:
    """Without the files that only the end of a job asks for, which need not be there."""
    return policy.model_copy(update={"ability": ()})


def _key(check: Check) -> tuple[str, str, str]:
    """What a row is about. Of the requests only those that fail are named for themselves."""
    return check.measure, check.field, check.request_id or "" if not check.holds else ""


def _asked(check: Check | None) -> bool:
    """Whether it is a row of all requests together that something was asked for."""
    return check is not None and check.request_id is None and bool(check.sample)


def _fails(check: Check | None) -> bool:
    return check is not None and not check.holds
