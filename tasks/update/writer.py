"""The loop around one batch: write, judge, keep or undo, and look for the culprits in the parts of what failed."""

from collections.abc import Sequence

from editing.config import LocatingConfig
from editing.errors import ErrataError
from editing.methods.alike import nearly_alike
from editing.progress import unheard
from tasks.report.data import Check
from tasks.retries import RETRIES
from tasks.stores.manifest import Manifest, Version
from tasks.update import stages
from tasks.update.journal import Journal
from tasks.update.live import live_facts, live_sample, stand_of
from tasks.update.root_verdict import filled_by
from tasks.update.run import Batch, Footing, Judged, Reference, Run, Sharing, Taken, Written
from tasks.update.screening import REQUEST_FAULTS, readable, told_alike
from tasks.update.session import Session
from tasks.update.steps import run_step
from tasks.update.texts import measure_perplexity
from tasks.update.validation import bare


class Writer:
    """Writes batches, keeps those that validate, and finds the culprits of those that do not."""

    def __init__(self, run: Run, session: Session, taken: Taken, reference: Reference, journal: Journal) -> None:
        self.run, self.session, self.taken, self.reference, self.journal = run, session, taken, reference, journal
        self.stopped = False
        """A breach that ends the job, by its policy: what is not written stays queued."""

    def write(self, batch: Batch, stand: Footing) -> Footing:
        """Write a batch and keep it if it validates; else undo it and try its parts. Returns the new footing."""
        judged = self._judge(batch)
        if judged.verdict.passed and judged.written is not None:
            return self._publish(judged, judged.written, stand)
        self.stopped = judged.verdict.stops
        answer = self._take_back(judged)
        self.journal.undone(judged)
        if full := self._filled_by(judged):
            self.journal.full(full)
            self.stopped = True
            return stand
        self._settle(judged, answer)
        if len(batch.edits) > 1:
            for part in stages.halves(judged):
                stand = stand if self.stopped else self.write(part, stand)
        return stand

    def write_back(self, facts: Sequence[str], batch: int, stand: Footing) -> Footing:
        """Write facts again whose replacements were not kept. They are in service still, so they are kept in any case.

        Raises:
            ErrataError: they cannot be written.
        """
        known = stages.known_edits(self.run.workplace.ledger, self.run.line, facts, self.run.spec.join)
        judged = self._judge(Batch(str(batch), tuple(known.values())))
        written = judged.written
        if written is None:
            why = "; ".join(judged.verdict.reasons)
            raise ErrataError(f"line '{self.run.line}': '{facts[0]}' cannot be written back: {why}; reject what waits")
        made = stages.manifest_of(self.run, self.session, judged, stand, self.taken, {})
        made = made.model_copy(update={"request_ids": (), "restored": judged.batch.ids})
        version = run_step(
            "snapshot", lambda: stages.publish(self.run, written, made), about=_named(judged.batch), retries=RETRIES
        )
        self.session.remember(judged.batch.ids, written.update)
        self.journal.written_back(judged, version, known)
        return Footing(version.snapshot, stand.sequence, (*stand.waiting, version))

    def _judge(self, batch: Batch) -> Judged:
        written: Written | None = None
        try:
            sharing = self._sharing(batch)
            self.journal.alike_before(sharing.alike)
            written = run_step(
                "apply_batch",
                lambda: stand_of(self.session, self.taken, stages.write(self.session, batch, sharing)),
                about=_named(batch),
                outcome=lambda found: f"values in {found.search_seconds:.1f} s",
            )
            done = written
            sample = self.run.policy.retained_sample
            earlier = live_sample(self.session, self.taken, sample, done.standing)
            return run_step(
                "validate",
                lambda: stages.judge(self.run, self.session, done, earlier, self.reference),
                about=_named(batch),
                outcome=lambda found: "; ".join(found.verdict.reasons) or "holds",
            )
        except REQUEST_FAULTS as error:
            return stages.failed(batch, error, written)

    def _sharing(self, batch: Batch) -> Sharing:
        """The facts in the weights that are written where the batch is: one value says them, or one changes another."""
        session = self.session
        if not isinstance(session.config, LocatingConfig):
            return Sharing()
        live = live_facts(session, self.taken)
        same = session.sharing(batch.edits, live)
        alike = nearly_alike(session.method_input, session.keys, batch.edits, live)
        reached = {one.other.id for one in alike}
        near = [edit for edit in live if edit.id in reached]
        asked = readable(session.loaded, [bare(edit) for edit in (*same, *near)]).accepted
        holding = {one.edit_id for one in session.scores(asked) if one.efficacy_prob}
        return Sharing(tuple(same), tuple(edit for edit in asked if edit.id in holding), told_alike(alike))

    def _publish(self, judged: Judged, written: Written, stand: Footing) -> Footing:
        once: list[Manifest] = []

        def publish() -> Version:
            # Made once: a repetition must publish the same version again, not a second one.
            made = once or [stages.manifest_of(self.run, self.session, judged, stand, self.taken, self.journal.alike)]
            once[:] = made
            return stages.publish(self.run, written, made[0])

        version = run_step(
            "snapshot",
            publish,
            about=_named(judged.batch),
            outcome=lambda made: f"version {made.number}, snapshot {made.snapshot[:12]}",
            retries=RETRIES,
        )
        self.session.remember(judged.batch.ids, written.update)
        self.journal.kept(judged, version)
        return Footing(version.snapshot, stand.sequence, (*stand.waiting, version))

    def _take_back(self, judged: Judged) -> str:
        """Returns what the model with a single edit said to its prompt."""
        written = judged.written
        if written is None:
            return ""
        return run_step("roll_back", lambda: stages.undo(self.session, written), about=_named(judged.batch))

    def _filled_by(self, judged: Judged) -> tuple[Check, ...]:
        """Why the line takes nothing more, where that is all that the batch, which was taken back, has shown."""
        if judged.written is None or not self.session.live or self.stopped:
            return ()
        before = measure_perplexity(self.session, self.reference, self.run.policy, unheard)["perplexity_ratio"]
        live, facts = len(self.session.live), len(judged.batch.edits)
        return filled_by(judged.verdict, before, live, facts, self.run.policy)

    def _settle(self, judged: Judged, answer: str) -> None:
        """What becomes of a batch that was taken back: a single request of it is quarantined."""
        if self.stopped:
            self.journal.stopped(judged)
        elif len(judged.batch.edits) == 1:
            events = stages.quarantine_events(self.run, judged)
            run_step(
                "quarantine",
                lambda: self.run.workplace.ledger.append_possible(events),
                about=_named(judged.batch),
                retries=RETRIES,
            )
            self.journal.quarantined(judged, answer)


def _named(batch: Batch) -> str:
    size = len(batch.edits)
    return f"batch {batch.name} ({size} {'edit' if size == 1 else 'edits'})"
