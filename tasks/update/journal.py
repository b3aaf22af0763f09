"""What a knowledge update did so far, as rows for its report. The flow alone writes into it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from editing.edit import Edit
from tasks.ledger.reserved import REFUSE
from tasks.progress import note
from tasks.report.data import BatchRow, Check, EditRow, GoneRow, JobReport, Moved
from tasks.stores.manifest import Version
from tasks.update.run import Judged, Taken
from tasks.update.verdicts import Verdict

FULL = "the line is full"
REMEDIES = "Take facts out, make it anew (errata rebase), loosen the policy, edit more layers, or begin another line"
SHOWN = ("efficacy_prob", "generalization_prob", "locality_prob", "fluency_ratio", "perplexity_ratio")


class JobSummary(BaseModel):
    """What a knowledge update came to."""

    model_config = ConfigDict(frozen=True)

    line: str
    version: int | None = None
    """The newest version that waits for review; None when nothing does."""
    kept: int = 0
    quarantined: int = 0
    rejected: int = 0
    left: dict[str, str] = {}
    """What stays queued, and why, by request."""
    report: JobReport | None = None
    full: bool = False
    """Whether the line as it stood missed a threshold, or takes nothing more without missing it."""
    moved: Moved | None = None
    """The facts of another line that the job was to move."""

    @property
    def counted(self) -> str:
        """What became of requests, those that take facts out included."""
        rows = self.report.gone if self.report else ()
        gone = {"taken out": sum(row.taken_out for row in rows), "staying": sum(row.what == "stays" for row in rows)}
        written = {"kept": self.kept, "quarantined": self.quarantined, "rejected": self.rejected}
        more = gone | {"left in the queue": len(self.left)}
        counts = written | {name: count for name, count in more.items() if count}
        return ", ".join(f"{count} {name}" for name, count in counts.items())

    @property
    def said(self) -> str:
        """In one line."""
        waits = f"; version {self.version} waits for review" if self.version is not None else ""
        waits += f"; {FULL}" if self.full else ""
        return f"{self.counted}{waits}"


@dataclass
class Journal:
    """Rows of batches and requests."""

    batches: list[BatchRow] = field(default_factory=list)
    edits: dict[str, EditRow] = field(default_factory=dict)
    """By request."""
    findings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What was left out of requests, by request."""

    is_full: bool = False
    """As `JobSummary.full`."""
    alike: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What other facts the subjects of requests are hard to tell from, by request."""

    gone: list[GoneRow] = field(default_factory=list)
    """What leaves, stays though it was to leave, or was written back."""
    moved: Moved | None = None
    """The facts of another line that the job moves."""
    queued: dict[str, str] = field(default_factory=dict)
    """What stays queued because it may not be taken up yet, and why, by request."""
    taken_up: tuple[str, ...] = ()
    """What the job was to write."""
    carried: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What requests carry besides their facts, by request."""
    replaces: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What requests take the place of, with its answers, by request."""

    def begun(self, taken: Taken) -> None:
        """What is told of requests beside what becomes of them; what stays queued is heard at once."""
        self.carried, self.queued = self.carried | taken.carried, dict(taken.left)
        self.taken_up = tuple(edit.id for edit in taken.edits)
        for old, new in taken.replaced.items():
            was = f"{old} ({taken.known[old].target_new})" if old in taken.known else old
            self.replaces[new] = (*self.replaces.get(new, ()), was)
        for request_id, why in (taken.left | {name: why for name, (_, why) in taken.ended.items()}).items():
            note(f"{request_id}: {why}")

    def left(self, taken: Taken, removed: Collection[str]) -> None:
        """Facts were to leave, and those in `removed` did."""
        asked = [(fact, name, "left out" if name.startswith(REFUSE) else "retracted")
                 for name, fact in taken.removals.items()]  # fmt: skip
        asked += [(old, new, "replaced") for old, new in taken.replaced.items()]
        for fact, by, what in asked:
            why = str(taken.carried.get(by, {}).get("reason", "")) if fact in removed else ""
            self.gone.append(_gone(fact, taken.known, what if fact in removed else "stays", by, why))
            note(self.gone[-1].sentence, "undone" if fact in removed else "warning")

    def written_back(self, judged: Judged, version: Version, known: Mapping[str, Edit]) -> None:
        """What was to replace facts was not kept, so those were written again."""
        self.batches.append(judged.row(version.number))
        why = "; ".join(("what was to replace it was not kept", *judged.verdict.reasons))
        for edit in judged.batch.edits:
            self.gone.append(_gone(edit.id, known, "written back", "", why))
            note(self.gone[-1].sentence, "warning")

    def left_out(self, findings: Mapping[str, tuple[str, ...]]) -> None:
        """Some of what is to be asked about requests cannot be; heard before anything becomes of them."""
        self.findings |= findings
        for request_id, texts in findings.items():
            note(f"{request_id}: {'; '.join(texts)}", "warning")

    def alike_before(self, alike: Mapping[str, tuple[str, ...]]) -> None:
        """Facts of a batch have keys that are nearly those of others; heard before it is written, and once."""
        for request_id in alike.keys() - self.alike.keys():
            self.alike[request_id] = alike[request_id]
            note(f"{request_id}: {'; '.join(alike[request_id])}", "warning")

    def kept(self, judged: Judged, version: Version) -> None:
        """A batch became a version."""
        self.batches.append(judged.row(version.number))
        for edit in judged.batch.edits:
            self.edits[edit.id] = self._row(edit, "committed", judged=judged, version=version.number)
        batch, metrics = judged.batch, version.manifest.metrics
        shown = "  ".join(f"{name} {metrics[name]:.3f}" for name in SHOWN if name in metrics)
        note(f"batch {batch.name} ({len(batch.edits)} edits) as version {version.number}: {shown}", "kept")

    def rooted(self, version: Version, verdict: Verdict) -> None:
        """All live facts were written anew from the base, as a version."""
        self.batches.append(_row_of("root", version.manifest.request_ids, verdict, version.number))
        without = f", without {', '.join(version.manifest.removed)}" if version.manifest.removed else ""
        live = version.manifest.live or ()
        note(f"{len(live)} facts from the base{without} as version {version.number}", "kept")

    def root_failed(self, facts: Sequence[str], verdict: Verdict) -> None:
        """The line without these facts misses a gate, and stands as it did."""
        self.batches.append(_row_of("root", facts, verdict, None))
        without = f" without {', '.join(facts)}" if facts else ""
        note(f"the line{without}, made anew: {'; '.join(verdict.reasons)}", "undone")

    def full(self, checks: Sequence[Check]) -> None:
        """The line as it stands misses what its policy wants, or takes no ordinary batch more without missing it."""
        self.is_full = True
        reasons = "; ".join(check.reason for check in checks if check.fails)
        self.batches.append(_row_of("line", (), Verdict({}, {}, tuple(checks)), None))
        note(f"{FULL}: {reasons}. What is not written stays queued. {REMEDIES}", "warning")

    def undone(self, judged: Judged) -> None:
        """A batch was taken back; its parts are tried, or its one request is quarantined."""
        self.batches.append(judged.row(None))
        if len(judged.batch.edits) > 1:
            batch = judged.batch
            note(f"batch {batch.name} ({len(batch.edits)} edits): {'; '.join(judged.verdict.reasons)}", "undone")

    def stopped(self, judged: Judged) -> None:
        """A batch breached what ends the job, by its policy."""
        reasons = "; ".join(check.reason for check in judged.verdict.checks if check.fails and check.then == "stop")
        note(
            f"the policy ends the job at batch {judged.batch.name}, what is not written stays queued: {reasons}",
            "undone",
        )

    def quarantined(self, judged: Judged, answer: str) -> None:
        """A request failed alone; `answer` is what the model with it in the weights said."""
        [edit] = judged.batch.edits
        reason = "; ".join(judged.verdict.reasons)
        self.edits[edit.id] = self._row(edit, "quarantined", judged=judged, answer=answer, reason=reason)
        note(f"{edit.id}: {reason}", "quarantined")

    def rejected(self, request_id: str, reason: str, edit: Edit | None) -> None:
        """A request was refused; `edit` is None where it is none."""
        if edit is not None:
            self.edits[request_id] = self._row(edit, "rejected", reason=reason)
        note(f"{request_id}: {reason}", "rejected")

    def summary(self, line: str, waiting: Sequence[Version], report: JobReport | None) -> JobSummary:
        """What all of it came to."""
        states = [row.state for row in self.edits.values()]
        unwritten = FULL if self.is_full else "the job ended before it was written"
        return JobSummary(
            line=line,
            version=waiting[-1].number if waiting else None,
            kept=states.count("committed"),
            quarantined=states.count("quarantined"),
            rejected=states.count("rejected"),
            left=self.queued | dict.fromkeys((name for name in self.taken_up if name not in self.edits), unwritten),
            report=report,
            full=self.is_full,
            moved=self.moved,
        )

    def _row(
        self, edit: Edit, state: Literal["committed", "quarantined", "rejected"], *, judged: Judged | None = None,
        version: int | None = None, answer: str = "", reason: str = "",
    ) -> EditRow:  # fmt: skip
        return row_of(
            edit,
            state,
            batch=judged.batch.number if judged else None,
            version=version,
            answer_after=answer,
            chat_after=_said_in_chat(judged, edit) if answer else "",
            metrics=judged.verdict.request_metrics.get(edit.id, {}) if judged else {},
            reason=reason,
            findings=self.findings.get(edit.id, ()),
            alike=self.alike.get(edit.id, ()),
            replaces=self.replaces.get(edit.id, ()) if state == "committed" else (),
            carried=self.carried.get(edit.id, {}),
        )


def _row_of(attempt: str, requests: Sequence[str], verdict: Verdict, version: int | None) -> BatchRow:
    return BatchRow(
        batch=0,
        attempt=attempt,
        version=version,
        request_ids=tuple(requests),
        kept=version is not None,
        checks=verdict.checks,
        metrics=verdict.metrics,
        seconds=0.0,
    )


def _gone(fact: str, known: Mapping[str, Edit], what: str, by: str, reason: str = "") -> GoneRow:
    edit = known.get(fact)
    told = {"prompt": edit.text, "target": edit.target_new} if edit else {}
    return GoneRow.model_validate({"request_id": fact, "what": what, "by": by, "reason": reason, **told})


def row_of(edit: Edit, state: Literal["committed", "quarantined", "rejected"], **more: Any) -> EditRow:
    """The row of a request in that state."""
    asked = {"subject": edit.subject, "prompt": edit.text, "target_new": edit.target_new}
    return EditRow(request_id=edit.id, state=state, target_true=edit.target_true, **asked, **more)


def _said_in_chat(judged: Judged | None, edit: Edit) -> str:
    said = judged.verdict.said.get(edit.id) if judged else None
    return said.chat.text if said and said.chat else ""
