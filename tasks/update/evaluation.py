"""The candidate as a whole: its numbers beside base and champion, its report, its place in MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from editing.edit import Edit
from editing.measure.metrics import evaluate, summarise
from tasks.ledger.view import LineView
from tasks.progress import progress
from tasks.report.data import EditRow, JobReport, Sample
from tasks.report.pages import TABLES, report_files
from tasks.review.aliases import register, sync_aliases
from tasks.stores.manifest import Head, Version
from tasks.tracking.client import Tracker
from tasks.update.journal import Journal
from tasks.update.run import Run, Taken
from tasks.update.screening import readable
from tasks.update.session import Session
from tasks.update.stages import live_sample, say
from tasks.update.validation import Reference, Verdict, judge_candidate

DRIFT = ("efficacy_prob", "generalization_prob", "locality_prob", "fluency", "perplexity_ratio")
SAMPLES = 4
FREE_PROMPTS = ("The best way to learn is", "Once upon a time,")


@dataclass(frozen=True)
class Champion:
    """What the version in service says to this job's questions."""

    metrics: dict[str, float]
    answers: dict[str, str]


@dataclass(frozen=True)
class Waiting:
    """What is evaluated: the versions that wait, on the base's numbers, beside the champion."""

    waiting: Sequence[Version]
    taken: Taken
    reference: Reference
    champion: Champion | None
    head: Head | None
    """HEAD as the job found it."""

    @property
    def edits(self) -> list[Edit]:
        """The edits of the versions that wait."""
        return edits_of(self.waiting, self.taken)


def edits_of(versions: Sequence[Version], taken: Taken) -> list[Edit]:
    """The edits of some versions, as far as the ledger still knows what they say."""
    return [taken.known[name] for v in versions for name in v.manifest.request_ids if name in taken.known]


def measure_champion(run: Run, session: Session, edits: Sequence[Edit]) -> Champion:
    """Ask the version in service, while it stands in the weights, what the candidate will be asked."""
    loaded, probes = session.loaded, run.policy.neighborhood_probes
    edits = readable(loaded, edits).accepted
    before = session.base_scores(edits, probes)
    scores = evaluate(loaded.model, loaded.tokenizer, edits, before=before, max_neighborhood=probes)
    prompts = sample_prompts(edits)
    return Champion(summarise(scores), dict(zip(prompts, say(session, prompts), strict=True)))


def job_report(run: Run, session: Session, asked: Waiting, journal: Journal) -> JobReport:
    """Measure candidate and base on every fact that waits, ask both a few prompts, and put the report together."""
    edits = asked.edits
    progress("evaluation", 0, 3)
    earlier = live_sample(session, asked.taken, run.policy.retained_sample)
    found = judge_candidate(session, edits, earlier, asked.reference, run.policy)
    rows = _rows(journal, found.verdict)
    prompts = sample_prompts(edits)
    progress("evaluation", 1, 3)
    after = dict(zip(prompts, say(session, prompts), strict=True))
    after_rows = say(session, [row.prompt for row in rows])
    progress("evaluation", 2, 3)
    with session.weights.at_base():
        before = dict(zip(prompts, say(session, prompts), strict=True))
        before_rows = say(session, [row.prompt for row in rows])
    progress("evaluation", 3, 3)
    champion = asked.champion.answers if asked.champion else None
    return JobReport(
        line=run.line,
        base=run.spec.model,
        base_digest=session.loaded.digest,
        method=session.config.method,
        config=session.config.model_dump(mode="json") | {"layers": list(session.method_input.layers)},
        policy=run.policy.model_dump(mode="json"),
        flow_run_id=run.flow_run_id,
        mlflow_run_id=run.mlflow_run_id,
        started=run.started,
        finished=datetime.now(UTC),
        from_version=asked.head.version if asked.head else 0,
        to_version=asked.waiting[-1].number if asked.waiting else None,
        baseline=found.baseline,
        champion=asked.champion.metrics if asked.champion else None,
        candidate=found.numbers,
        checks=found.verdict.checks,
        drift=tuple(_drift(session, asked)),
        batches=tuple(journal.batches),
        edits=tuple(_answered(row, b, a) for row, b, a in zip(rows, before_rows, after_rows, strict=True)),
        samples=tuple(
            Sample(prompt=p, base=before[p], champion=champion.get(p) if champion else None, candidate=after[p])
            for p in prompts
        ),
    )


def register_candidate(tracker: Tracker, run: Run, report: JobReport, waiting: Sequence[Version]) -> LineView:
    """Log the report; register the newest waiting version; make the aliases say what HEAD and the queue say now.

    Returns the line as it was when they did. Safe to repeat.
    """
    final = {f"final/{name}": value for name, value in report.candidate.items()}
    tracker.log_steps(run.mlflow_run_id, [(len(report.drift), final)])
    tracker.log_report(run.mlflow_run_id, report_files(report), TABLES)
    if waiting:
        register(tracker, run.workplace, waiting[-1], run.mlflow_run_id)
    view = sync_aliases(tracker, run.workplace, run.line)
    tracker.finish_run(run.mlflow_run_id)
    return view


def sample_prompts(edits: Sequence[Edit]) -> list[str]:
    """A few prompts that show a reviewer the model: edited ones, their paraphrases, neighbors, and free ones."""
    chosen = [edits[i * len(edits) // SAMPLES] for i in range(SAMPLES)] if len(edits) > SAMPLES else list(edits)
    prompts = [edit.text for edit in chosen]
    prompts += [edit.paraphrases[0] for edit in chosen[:2] if edit.paraphrases]
    prompts += [edit.neighborhood[0].prompt for edit in chosen if edit.neighborhood]
    return list(dict.fromkeys([*prompts, *FREE_PROMPTS]))


def _rows(journal: Journal, verdict: Verdict) -> list[EditRow]:
    """The journal's rows of requests, with their numbers as they are at the end."""
    now = verdict.request_metrics
    return [row.model_copy(update={"metrics": now.get(row.request_id, row.metrics)}) for row in journal.edits.values()]


def _drift(session: Session, asked: Waiting) -> list[dict[str, float]]:
    """One point a version that waits, by the number of facts that stood in the weights then."""
    rows: list[dict[str, float]] = []
    edits = len(session.live) - sum(len(version.manifest.request_ids) for version in asked.waiting)
    for version in asked.waiting:
        edits += len(version.manifest.request_ids)
        metrics: Mapping[str, float] = version.manifest.metrics
        rows.append({"edits": float(edits)} | {name: metrics[name] for name in DRIFT if name in metrics})
    return rows


def _answered(row: EditRow, before: str, after: str) -> EditRow:
    return row.model_copy(update={"answer_before": before, "answer_after": row.answer_after or after})
