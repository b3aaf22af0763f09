"""One knowledge update under way: what its steps share and what its report will say.

A plain class on purpose: Prefect looks into dataclasses and models that are passed to tasks, and this one holds a
language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from torch import Tensor

from editing.edit import Edit
from editing.measure.metrics import evaluate, summarise
from editing.methods.base import BatchUpdate
from editing.weights import Undo
from tasks.lines.specs import LineSpec
from tasks.progress import note
from tasks.report.data import BatchRow, EditRow
from tasks.stores.lease import Lease
from tasks.stores.manifest import Head, Manifest, Version
from tasks.tracking.client import Tracker
from tasks.update.policy import Policy
from tasks.update.screening import answers, readable
from tasks.update.session import Session
from tasks.update.validation import Reference, Verdict
from tasks.workplace import Workplace

ANSWER_TOKENS = 12
SAMPLES = 4
FREE_PROMPTS = ("The best way to learn is", "Once upon a time,")


class Attempt:
    """A batch on its way: written, then kept or undone."""

    def __init__(self, name: str, edits: Sequence[Edit]) -> None:
        self.name = name
        self.edits = tuple(edits)
        self.batch: BatchUpdate | None = None
        self.z_star: Tensor | None = None
        self.undo: Undo | None = None
        self.manifest: Manifest | None = None
        self.verdict: Verdict | None = None
        self.started = datetime.now(UTC)
        self.search_seconds = 0.0
        self.validate_seconds = 0.0
        self.answers: list[str] = []

    @property
    def number(self) -> int:
        return int(self.name.split(".")[0])

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(edit.id for edit in self.edits)

    def row(self, kept: bool, version: int | None) -> BatchRow:
        assert self.verdict is not None
        return BatchRow(
            batch=self.number,
            attempt=self.name,
            version=version,
            request_ids=self.ids,
            kept=kept,
            checks=self.verdict.checks,
            metrics=self.verdict.metrics,
            seconds=(datetime.now(UTC) - self.started).total_seconds(),
            search_seconds=self.search_seconds,
            validate_seconds=self.validate_seconds,
        )


@dataclass
class Champion:
    """What the version in service says to this job's questions."""

    metrics: dict[str, float] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)


class Job:
    """What the steps of one run share."""

    session: Session
    reference: Reference
    tracker: Tracker

    def __init__(self, workplace: Workplace, spec: LineSpec, policy: Policy, lease: Lease, flow_run_id: str) -> None:
        self.workplace, self.spec, self.policy, self.lease = workplace, spec, policy, lease
        self.flow_run_id = flow_run_id
        self.mlflow_run_id = ""
        self.started = datetime.now(UTC)
        self.head: Head | None = workplace.store.head(spec.line)
        self.tip: Version | None = None
        """The newest version that waits, or HEAD's: new batches build on it."""
        self.open: list[Version] = []
        """The versions that wait for review, those of earlier runs included."""
        self.known: dict[str, Edit] = {}
        """Every edit that this job may look at, by id."""
        self.champion: Champion | None = None
        self.taken: tuple[Edit, ...] = ()
        self.batches: list[BatchRow] = []
        self.rows: dict[str, EditRow] = {}
        self.findings: dict[str, tuple[str, ...]] = {}

    @property
    def line(self) -> str:
        return self.spec.line

    @property
    def actor(self) -> str:
        return self.workplace.settings.who

    @property
    def tip_snapshot(self) -> str | None:
        if self.tip is not None:
            return self.tip.snapshot
        return self.head.snapshot if self.head else None

    def live_edits(self) -> list[Edit]:
        """The facts in the weights, oldest first, as far as the ledger still knows what they say."""
        return [self.known[request_id] for request_id in self.session.live if request_id in self.known]

    def earlier_sample(self) -> list[Edit]:
        """A fixed, evenly spread sample of live facts, by the policy's size."""
        live, size = self.live_edits(), self.policy.retained_sample
        if len(live) <= size:
            return live
        return [live[i * len(live) // size] for i in range(size)]

    def answers(self, edits: Sequence[Edit]) -> list[str]:
        """What the model, as it stands, says to each edit's prompt."""
        return self.say([edit.text for edit in edits])

    def say(self, prompts: Sequence[str]) -> list[str]:
        return answers(self.session.loaded, prompts, ANSWER_TOKENS)

    def measure_champion(self) -> None:
        """Ask the version in service, while it stands in the weights, what the candidate will be asked."""
        loaded, probes = self.session.loaded, self.policy.neighborhood_probes
        edits = readable(loaded, self.questions()).accepted
        before = self.session.base_scores(edits, probes)
        scores = evaluate(loaded.model, loaded.tokenizer, edits, before=before, max_neighborhood=probes)
        prompts = sample_prompts(edits)
        self.champion = Champion(summarise(scores), dict(zip(prompts, self.say(prompts), strict=True)))

    def manifest(self, attempt: Attempt, version: int) -> Manifest:
        """What the batch of `attempt` is as a version, with the weights as they stand."""
        assert attempt.verdict is not None
        return Manifest(
            line=self.line,
            version=version,
            parent=self.tip_snapshot,
            base=self.spec.model,
            base_digest=self.session.loaded.digest,
            config=self.spec.config.model_dump(mode="json"),
            request_ids=attempt.ids,
            tensor_digests=self.session.weights.digests(),
            metrics=attempt.verdict.metrics,
            request_metrics=attempt.verdict.request_metrics,
            batch=attempt.number,
            flow_run_id=self.flow_run_id,
            mlflow_run_id=self.mlflow_run_id,
        )

    def waiting(self) -> list[Edit]:
        """The edits of the versions that wait for review."""
        return [self.known[name] for v in self.open for name in v.manifest.request_ids if name in self.known]

    def questions(self) -> list[Edit]:
        """The edits of the versions that wait, and those that this job takes up."""
        return [*self.waiting(), *self.taken]

    def keep(self, attempt: Attempt, version: Version) -> None:
        """A batch became a version."""
        assert attempt.batch is not None
        self.session.remember(attempt.ids, attempt.batch)
        self.tip = version
        self.open.append(version)
        self.batches.append(attempt.row(kept=True, version=version.number))
        for edit in attempt.edits:
            self.remember(edit, "committed", attempt=attempt, version=version.number)
        shown = "  ".join(
            f"{name} {version.manifest.metrics[name]:.3f}" for name in SHOWN if name in version.manifest.metrics
        )
        note(f"batch {attempt.name} ({len(attempt.edits)} edits) as version {version.number}: {shown}", "kept")

    def remember(
        self,
        edit: Edit,
        state: Literal["committed", "quarantined", "rejected"],
        *,
        attempt: Attempt | None = None,
        version: int | None = None,
        reason: str = "",
    ) -> None:
        """What became of a request, for the report."""
        metrics = attempt.verdict.request_metrics.get(edit.id, {}) if attempt and attempt.verdict else {}
        self.rows[edit.id] = EditRow(
            request_id=edit.id,
            subject=edit.subject,
            prompt=edit.text,
            target_new=edit.target_new,
            target_true=edit.target_true,
            state=state,
            batch=attempt.number if attempt else None,
            version=version,
            answer_after=attempt.answers[0] if attempt and attempt.answers else "",
            metrics=metrics,
            reason=reason,
            findings=self.findings.get(edit.id, ()),
        )


SHOWN = ("efficacy_prob", "generalization_prob", "locality_prob", "fluency_ratio", "perplexity_ratio")


def sample_prompts(edits: Sequence[Edit]) -> list[str]:
    """A few prompts that show a reviewer the model: edited ones, their paraphrases, neighbors, and free ones."""
    chosen = [edits[i * len(edits) // SAMPLES] for i in range(SAMPLES)] if len(edits) > SAMPLES else list(edits)
    prompts = [edit.text for edit in chosen]
    prompts += [edit.paraphrases[0] for edit in chosen[:2] if edit.paraphrases]
    prompts += [edit.neighborhood[0].prompt for edit in chosen if edit.neighborhood]
    return list(dict.fromkeys([*prompts, *FREE_PROMPTS]))


def read_texts(path: Path | None) -> list[str] | None:
    """The texts of a file, if one is given."""
    from tasks.parquet import read_text

    return None if path is None else read_text(path)
