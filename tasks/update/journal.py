"""What a knowledge update did so far, as rows for its report. The flow alone writes into it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from editing.edit import Edit
from tasks.progress import note
from tasks.report.data import BatchRow, EditRow, JobReport
from tasks.stores.manifest import Version
from tasks.update.run import Judged

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
    report: JobReport | None = None

    @property
    def said(self) -> str:
        """In one line."""
        waits = f"; version {self.version} waits for review" if self.version is not None else ""
        return f"{self.kept} kept, {self.quarantined} quarantined, {self.rejected} rejected{waits}"


@dataclass
class Journal:
    """Rows of batches and requests."""

    batches: list[BatchRow] = field(default_factory=list)
    edits: dict[str, EditRow] = field(default_factory=dict)
    """By request."""
    findings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What was left out of requests, by request."""

    alike: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What other facts the subjects of requests are hard to tell from, by request."""

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
        return JobSummary(
            line=line,
            version=waiting[-1].number if waiting else None,
            kept=states.count("committed"),
            quarantined=states.count("quarantined"),
            rejected=states.count("rejected"),
            report=report,
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
        )


def row_of(edit: Edit, state: Literal["committed", "quarantined", "rejected"], **more: Any) -> EditRow:
    """The row of a request in that state."""
    asked = {"subject": edit.subject, "prompt": edit.text, "target_new": edit.target_new}
    return EditRow(request_id=edit.id, state=state, target_true=edit.target_true, **asked, **more)


def _said_in_chat(judged: Judged | None, edit: Edit) -> str:
    said = judged.verdict.said.get(edit.id) if judged else None
    return said.chat.text if said and said.chat else ""
