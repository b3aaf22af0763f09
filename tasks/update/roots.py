"""A root: all live facts of a line, or all but some, solved together from the base with the values that they have.

It takes the place of everything before it, so it is judged as a whole, against what it takes the place of: what held
there holds, and nothing is worse than the policy allows or than it was. Where it is not, each removal is tried alone,
so that one that does harm keeps no other from being done.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, zeros

from editing.config import LocatingConfig
from editing.edit import Edit
from editing.errors import EditingError, UsageError
from editing.groups import canonical_order
from editing.methods import check_mode, compute_rebase, compute_replay
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import BatchUpdate, MethodInput
from editing.weights import Undo
from tasks.ledger.catching_up import version_events
from tasks.retries import RETRIES
from tasks.stores.batches import apply, finished_in
from tasks.stores.manifest import Manifest, Version
from tasks.stores.roots import pack_root
from tasks.update.function import function_of
from tasks.update.journal import Journal
from tasks.update.records import record_of
from tasks.update.root_verdict import ask, judge_root
from tasks.update.run import Footing, Leaving, Reference, Run, Taken
from tasks.update.session import Session
from tasks.update.steps import run_step
from tasks.update.validation import failed_verdict
from tasks.update.values import Target, base_states, known_by, old_values, standing_after, told_standing
from tasks.update.verdicts import Verdict
from tasks.update.writing import told

ROOT = "root"
"""How reports call the attempt."""


@dataclass(frozen=True)
class Rooted:
    """What came of it."""

    stand: Footing
    version: Version | None = None
    """None: nothing was made, the line stands as it did."""
    refused: Mapping[str, Verdict] = field(default_factory=dict)
    """Why facts stay that were to leave, by the request that asked for it: a removal, or what was to replace one."""


@dataclass(frozen=True)
class _Tip:
    """What stands in the session before a root, to come back to."""

    undo: Undo
    given: MethodInput
    live: list[str]
    targets: dict[str, Target]


@dataclass(frozen=True)
class _Made:
    """A root that stands in the weights, and the verdict on it."""

    edits: tuple[Edit, ...]
    verdict: Verdict
    update: BatchUpdate = field(default_factory=lambda: BatchUpdate({}, {}))
    z_star: Tensor = field(default_factory=lambda: zeros(0, 0))
    known_by: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    """What it takes to judge it again."""


def stand_on_base(session: Session) -> Undo:
    """Leave all facts out: the weights of the base and an empty history; what puts the weights back."""
    session.method_input, session.live = replace(session.method_input, history=KeyHistory()), []
    return session.weights.to_base()


def make_root(
    run: Run, session: Session, given: tuple[Footing, Taken, Reference], leaving: Leaving, journal: Journal
) -> Rooted:
    """Make the line anew from the base, without the facts that leave, judge it, and publish it as its next version.

    Where it misses a gate, each fact is taken out alone, and those that can leave leave; where nothing was to leave,
    the line stands as it did. The session stands on what is returned.

    Raises:
        UsageError: the method can neither solve from values nor write anew, or the ledger lacks a live fact.
    """
    stand, taken, reference = given
    maker = _Maker(run, session, taken, reference)
    older = old_values(session, run.workplace.store.chain(stand.tip), taken.known)
    stored = session.values_known.stored
    session.values_known.stored = lambda name: older.get(name) if (found := stored(name)) is None else found
    made: _Made | None = maker.attempt(leaving)
    refused: dict[str, Verdict] = {}
    if made is not None and not made.verdict.passed:
        leaving, made, refused = maker.one_by_one(leaving, made, journal)
    if made is None:
        return Rooted(stand, None, refused)
    version = _publish(run, session, made, stand, leaving)
    journal.rooted(version, made.verdict)
    return Rooted(Footing(version.snapshot, stand.sequence, (*stand.waiting, version)), version, refused)


def check_known(line: str, live: Iterable[str], known: Container[str]) -> None:
    """Raises UsageError where the ledger does not know what one of the live facts says."""
    lacking = [name for name in live if name not in known]
    if lacking:
        raise UsageError(
            f"line '{line}' cannot be made anew: the ledger does not know what its fact '{lacking[0]}' says; "
            "restore the ledger from a copy"
        )


class _Maker:
    """Tries roots of a line; after each that fails the session stands as it did."""

    def __init__(self, run: Run, session: Session, taken: Taken, reference: Reference) -> None:
        self.run, self.session, self.reference = run, session, reference
        check_known(run.line, session.live, taken.known)
        if isinstance(session.config, LocatingConfig):
            check_mode(session.config.method, "rebase")
        self.live = [taken.known[name] for name in session.live]
        self.tip = _Tip(Undo({}, {}), session.method_input, session.live, session.values_known.targets)

    def attempt(self, leaving: Leaving) -> _Made:
        """Make and judge the root without these; one that fails is taken back."""
        staying = tuple(edit for edit in self.live if edit.id not in leaving.facts)
        asked = partial(ask, self.session, staying, self.reference, self.run.policy)
        before = asked()
        about = f"{len(staying)} facts" + (f", without {len(leaving.facts)}" if leaving else "")
        try:
            made = run_step("make_root", lambda: self._write(staying), about=about)
            verdict = run_step(
                "validate_root",
                lambda: judge_root(before, asked(), self.run.policy),
                about=about,
                outcome=lambda found: "; ".join(found.reasons) or "holds",
            )
            sample = [edit for edit in staying if edit.id in before.facts]
            record = record_of(self.run.policy, self.session, self.reference, sample, (), verdict.checks)
            made = replace(made, verdict=verdict, record=record)
        except EditingError as error:
            made = _Made(staying, failed_verdict(error))
        if not made.verdict.passed:
            self._back()
        return made

    def one_by_one(
        self, leaving: Leaving, whole: _Made, journal: Journal
    ) -> tuple[Leaving, _Made | None, dict[str, Verdict]]:
        """Those that can leave, the root without them, and why the others stay."""
        journal.root_failed(leaving.facts, whole.verdict)
        parts, gone = list(leaving.singly()), Leaving()
        made: _Made | None = None
        refused: dict[str, Verdict] = {}
        for part in parts:
            if len(parts) == 1:
                failed = whole
            else:
                if made is not None:
                    self._back()
                tried = self.attempt(gone | part)
                if tried.verdict.passed:
                    gone, made = gone | part, tried
                    continue
                failed = tried
                made = self.attempt(gone) if gone else None
            journal.root_failed(part.facts, failed.verdict)
            refused |= dict.fromkeys((*part.removals, *part.replaced.values()), failed.verdict)
        if made is not None and not made.verdict.passed:  # it did a moment ago
            raise UsageError(f"line '{self.run.line}': a root that held does not hold; run the job again")
        return gone, made, refused

    def _write(self, staying: Sequence[Edit]) -> _Made:
        session, config = self.session, self.session.config
        self.tip = replace(self.tip, undo=stand_on_base(session))
        if isinstance(config, LocatingConfig):
            edits = tuple(staying[number] for number in canonical_order(staying))
            z_star = session.values(edits)
            with told(session.method_input, edits) as given:
                update = compute_rebase(given, edits, z_star, config)
        else:
            edits, z_star = tuple(staying), zeros(len(staying), 0)
            with told(session.method_input, edits) as given:
                update = compute_replay(given, session.weights, edits, config)
        apply(session.weights, update.update)
        session.remember([edit.id for edit in edits], update)
        session.values_known.targets = {}
        return _Made(edits, Verdict({}, {}, ()), update, z_star, tuple(known_by(session, edits)))

    def _back(self) -> None:
        session, tip = self.session, self.tip
        if tip.undo.weights:
            session.weights.revert(tip.undo)
        session.method_input, session.live, session.values_known.targets = tip.given, tip.live, tip.targets


def _publish(run: Run, session: Session, made: _Made, stand: Footing, leaving: Leaving) -> Version:
    rows: dict[str, Tensor] = {}
    told = {}
    if made.known_by:
        z_base = base_states(session, made.edits)
        standing = standing_after(session, made.known_by, (made.z_star, z_base), made.edits)
        rows = {"z_base": z_base, "missing": z_base.new_tensor([standing[edit.id].missing for edit in made.edits])}
        told = told_standing(standing)
    update, rest = pack_root(made.update, made.z_star, rows, session.weights)
    if finished_in(update):
        session.weights.settle(made.update.update)
    store, ledger = run.workplace.store, run.workplace.ledger
    manifest = Manifest(
        line=run.line,
        version=store.next_number(run.line),
        parent=None,
        after=stand.tip,
        based_on=stand.sequence,
        base=run.spec.model,
        base_digest=session.loaded.digest,
        config=run.spec.config.model_dump(mode="json"),
        request_ids=tuple(leaving.removals),
        live=tuple(edit.id for edit in made.edits),
        removed=leaving.facts,
        removals=dict(leaving.removals),
        replaced=dict(leaving.replaced),
        values=made.known_by,
        function=function_of(session),
        standing=told,
        tensor_digests=session.weights.digests(),
        metrics=made.verdict.metrics,
        judged=dict(made.record),
        batch=0,
        flow_run_id=run.flow_run_id,
        mlflow_run_id=run.mlflow_run_id,
    )

    def publish() -> Version:
        run.lease.renew()
        version = store.publish(manifest, update, rest)
        ledger.append_possible(version_events(version, run.actor))
        return version

    return run_step(
        "snapshot_root",
        publish,
        about=f"{len(made.edits)} facts",
        outcome=lambda found: f"version {found.number}, snapshot {found.snapshot[:12]}",
        retries=RETRIES,
    )
