"""The candidate as a whole: its numbers beside base and champion, its report, its place in MLflow."""

from collections.abc import Mapping
from datetime import UTC, datetime

from editing.edit import Edit
from editing.measure.metrics import evaluate, summarise
from tasks.progress import progress
from tasks.report.data import EditRow, JobReport, Sample
from tasks.report.pages import TABLES, report_files
from tasks.review.aliases import pointer, sync_aliases
from tasks.update.job import Job, sample_prompts
from tasks.update.validation import bare, measure_fluency, measure_perplexity

DRIFT = ("efficacy_prob", "generalization_prob", "locality_prob", "fluency", "perplexity_ratio")


def job_report(job: Job) -> JobReport:
    """Measure candidate and base on every fact that waits, ask both a few prompts, and put the report together."""
    edits = job.waiting()
    candidate, base = _measure(job, edits)
    asked = list(job.rows.values())
    prompts = sample_prompts(edits)
    progress("evaluation", 1, 3)
    after = dict(zip(prompts, job.say(prompts), strict=True))
    after_rows = job.say([row.prompt for row in asked])
    progress("evaluation", 2, 3)
    with job.session.weights.at_base():
        before = dict(zip(prompts, job.say(prompts), strict=True))
        before_rows = job.say([row.prompt for row in asked])
    progress("evaluation", 3, 3)
    champion = job.champion.answers if job.champion else None
    return JobReport(
        line=job.line,
        base=job.spec.model,
        base_digest=job.session.loaded.digest,
        method=job.session.config.method,
        config=job.session.config.model_dump(mode="json") | {"layers": list(job.session.setting.layers)},
        policy=job.policy.model_dump(mode="json"),
        flow_run_id=job.flow_run_id,
        mlflow_run_id=job.mlflow_run_id,
        started=job.started,
        finished=datetime.now(UTC),
        from_version=job.head.version if job.head else 0,
        to_version=job.tip.number if job.tip else None,
        baseline=base,
        champion=job.champion.metrics if job.champion else None,
        candidate=candidate,
        drift=tuple(_drift(job)),
        batches=tuple(job.batches),
        edits=tuple(_answered(row, b, a) for row, b, a in zip(asked, before_rows, after_rows, strict=True)),
        samples=tuple(
            Sample(prompt=p, base=before[p], champion=champion.get(p) if champion else None, candidate=after[p])
            for p in prompts
        ),
    )


def register_candidate(job: Job, report: JobReport) -> None:
    """Log the report; register the newest waiting version; make the aliases say what HEAD and the queue say."""
    job.tracker.log_steps(
        job.mlflow_run_id, [(len(report.drift), {f"final/{k}": v for k, v in report.candidate.items()})]
    )
    job.tracker.log_report(job.mlflow_run_id, report_files(report), TABLES)
    if job.tip is not None and job.open:
        job.tracker.register_version(job.line, job.mlflow_run_id, pointer(job.workplace, job.tip))
    sync_aliases(job.tracker, job.workplace, job.line, job.head, job.open[-1] if job.open else None)
    job.tracker.finish_run(job.mlflow_run_id)


def _measure(job: Job, edits: list[Edit]) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of the candidate and of the base on the same questions."""
    session, probes = job.session, job.policy.neighborhood_probes
    before = session.base_scores(edits, probes)
    scores = evaluate(session.loaded.model, session.loaded.tokenizer, edits, before=before, max_neighborhood=probes)
    for one in scores:
        if one.edit_id in job.rows:
            job.rows[one.edit_id] = job.rows[one.edit_id].model_copy(update={"metrics": one.numbers()})
    base = summarise(list(before.values())) | {"perplexity": job.reference.perplexity, "perplexity_ratio": 1.0}
    candidate = summarise(scores) | measure_perplexity(session, job.reference, job.policy)
    if edits:
        spread = measure_fluency(session, edits, job.policy)
        base["fluency"] = spread["fluency"] / spread["fluency_ratio"] if spread["fluency_ratio"] else 0.0
        candidate |= spread
    sample = [bare(edit) for edit in job.earlier_sample()]
    if sample:
        kept = evaluate(session.loaded.model, session.loaded.tokenizer, sample)
        candidate |= {f"retained_{k}": v for k, v in summarise(kept).items() if k.startswith("efficacy")}
    return candidate, base


def _drift(job: Job) -> list[dict[str, float]]:
    """One point a version that waits, by the number of facts that stood in the weights then."""
    rows: list[dict[str, float]] = []
    edits = len(job.session.live) - sum(len(version.manifest.request_ids) for version in job.open)
    for version in job.open:
        edits += len(version.manifest.request_ids)
        metrics: Mapping[str, float] = version.manifest.metrics
        rows.append({"edits": float(edits)} | {name: metrics[name] for name in DRIFT if name in metrics})
    return rows


def _answered(row: EditRow, before: str, after: str) -> EditRow:
    return row.model_copy(update={"answer_before": before, "answer_after": row.answer_after or after})
