"""The candidate as a whole: its numbers beside base and champion, and its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from editing.chat import question_about
from editing.edit import Edit
from editing.measure.metrics import summarise
from editing.measure.said import others_of_its_kind
from tasks.lines.rules import read_rules
from tasks.meter import Meter
from tasks.report.data import EditRow, GoneRow, JobReport, LiveFacts, Sample
from tasks.retries import outlasting
from tasks.stores.manifest import Head, Version, members
from tasks.update.asked import ask_with_workers
from tasks.update.capacity import PAST, capacity_of
from tasks.update.champion import measure_served
from tasks.update.journal import Journal, row_of
from tasks.update.live import live_facts, live_sample
from tasks.update.measured import Served
from tasks.update.run import Reference, Run, Taken
from tasks.update.saying import conversation, said_about, shown
from tasks.update.screening import readable
from tasks.update.session import Session
from tasks.update.validation import judge_candidate
from tasks.update.values import standing_of, told_standing
from tasks.update.verdicts import Verdict
from tasks.update.wider import ask_in_context

DRIFT = ("efficacy_prob", "generalization_prob", "locality_prob", "fluency", "perplexity_ratio")
SAMPLES = 4
NEIGHBORS_NAMED = 5
"""Of one request."""
AGES, LIVE_NAMED = 4, 20
"""Parts by age, and facts that no longer hold that are named."""
FREE_PROMPTS = ("The best way to learn is", "Once upon a time,")


@dataclass(frozen=True)
class Champion:
    """What the version in service says to this job's questions."""

    metrics: dict[str, float]
    answers: dict[str, str]
    served: Served = field(default_factory=Served)
    """What the judge holds the candidate against."""


@dataclass(frozen=True)
class Candidate:
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
    """What the edits of some versions say, one after the other, but for those that a later one takes out again."""
    held = members(version.manifest for version in versions)
    own = [name for v in versions for name in (*v.manifest.facts, *v.manifest.restored)]
    return [taken.known[name] for name in dict.fromkeys(own) if name in held and name in taken.known]


def measure_champion(run: Run, session: Session, edits: Sequence[Edit], reference: Reference) -> Champion:
    """Ask the version in service, while it stands in the weights, what the candidate will be asked."""
    probes = run.policy.neighborhood_probes
    edits = readable(session.loaded, edits).accepted
    before = session.base_scores(edits, probes)
    with Meter("what the version in service says", len(edits)) as meter:
        scores = session.scores(edits, before, probes, meter.part(len(edits)))
    prompts = sample_prompts(edits)
    answers = dict(zip(prompts, shown(session, prompts), strict=True))
    served = measure_served(session, edits, scores, reference, run.policy)
    return Champion(summarise(scores), answers, served)


def job_report(run: Run, session: Session, candidate: Candidate, journal: Journal) -> JobReport:
    """Measure candidate and base on every fact that waits, ask both a few prompts, and put the report together."""
    edits = candidate.edits
    standing = standing_of(session, live_facts(session, candidate.taken))
    earlier = live_sample(session, candidate.taken, run.policy.asked_at_the_end, standing)
    served = candidate.champion.served if candidate.champion else None
    if tip := _tip(candidate):
        ask_with_workers(run, session, edits, earlier, tip)
    found = judge_candidate(session, edits, earlier, candidate.reference, run.policy, served)
    # A job that only registers what a killed one wrote has no rows of its own: whoever decides sees the facts anyhow.
    known = list(journal.edits.values()) or _waiting_rows(candidate)
    rows = [_measured(row, session, found.verdict) for row in known]
    prompts = sample_prompts(edits)
    before, after = _answers(session, prompts, rows)
    asked = _asked_in_chat(session, rows, candidate.taken)
    champion = candidate.champion.answers if candidate.champion else None
    others = others_of_its_kind([*edits, *earlier])
    in_context = ask_in_context(session, edits, run.policy, conversation(session), others)
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
        from_version=candidate.head.version if candidate.head else 0,
        to_version=candidate.waiting[-1].number if candidate.waiting else None,
        baseline=found.baseline,
        champion=candidate.champion.metrics if candidate.champion else None,
        candidate=found.numbers,
        in_context=in_context,
        fewer_bits=dict(found.verdict.fewer_bits),
        live=_live(session, earlier, found.verdict),
        checks=found.verdict.checks,
        expires=_expiry(run, candidate),
        drift=tuple(_drift(session, candidate)),
        standing=told_standing(standing),
        capacity=capacity_of(session, run.workplace.store.past(_tip(candidate), PAST), run.policy),
        batches=tuple(journal.batches),
        gone=_heard_without(session, journal.gone, candidate.taken),
        moved=journal.moved,
        edits=tuple(_answered(row, before, after).model_copy(update=asked.get(row.request_id, {})) for row in rows),
        samples=tuple(
            Sample(prompt=p, base=before[p], champion=champion.get(p) if champion else None, candidate=after[p])
            for p in prompts
        ),
    )


def _tip(candidate: Candidate) -> str | None:
    """The snapshot that stands in the weights."""
    if candidate.waiting:
        return candidate.waiting[-1].snapshot
    return candidate.head.snapshot if candidate.head else None


def sample_prompts(edits: Sequence[Edit]) -> list[str]:
    """A few prompts that show a reviewer the model: edited ones, their paraphrases, neighbors, and free ones."""
    chosen = [edits[i * len(edits) // SAMPLES] for i in range(SAMPLES)] if len(edits) > SAMPLES else list(edits)
    prompts = [edit.text for edit in chosen]
    prompts += [edit.paraphrases[0] for edit in chosen[:2] if edit.paraphrases]
    prompts += [edit.neighborhood[0].prompt for edit in chosen if edit.neighborhood]
    return list(dict.fromkeys([*prompts, *FREE_PROMPTS]))


def _expiry(run: Run, candidate: Candidate) -> datetime | None:
    """When what waits is refused without an answer, by the rules of the line as they are now."""
    newest = candidate.waiting[-1] if candidate.waiting else None
    return outlasting(lambda: read_rules(run.workplace.store.store, run.line)).expiry(newest) if newest else None


def _waiting_rows(candidate: Candidate) -> list[EditRow]:
    """The facts of the versions that wait, as their journal would have told them."""
    return [
        row_of(edit, "committed", batch=version.manifest.batch, version=version.number)
        for version in candidate.waiting
        for edit in edits_of([version], candidate.taken)
    ]


def _live(session: Session, asked: Sequence[Edit], verdict: Verdict) -> LiveFacts:
    """What became of the facts in the weights, oldest first."""
    known = {edit.id: edit for edit in asked}
    held = [(known[name], bool(holds)) for name, holds in verdict.live.items() if name in known]
    size = max(1, -(-len(held) // AGES))
    ages = [held[start : start + size] for start in range(0, len(held), size)]
    lost = [f"{edit.id}: {edit.taught}" for edit, holds in held if not holds]
    return LiveFacts(
        facts=len(session.live),
        asked=len(held),
        held=len(held) - len(lost),
        by_age=tuple(sum(holds for _, holds in age) / len(age) for age in ages),
        lost=tuple(lost[:LIVE_NAMED]),
    )


def _drift(session: Session, candidate: Candidate) -> list[dict[str, float]]:
    """One point a version that waits, by the number of facts that stood in the weights then."""
    rows: list[dict[str, float]] = []
    edits = len(session.live)
    for manifest in (version.manifest for version in reversed(candidate.waiting)):
        metrics: Mapping[str, float] = manifest.metrics
        rows.append({"edits": float(edits)} | {name: metrics[name] for name in DRIFT if name in metrics})
        edits += len(manifest.removed) - len(manifest.facts) - len(manifest.restored)
    return rows[::-1]


def _answers(
    session: Session, prompts: Sequence[str], rows: Sequence[EditRow]
) -> tuple[dict[str, str], dict[str, str]]:
    """What the base and the model say, by prompt: to a few prompts, and to those of the requests."""
    asked = list(dict.fromkeys([*prompts, *(row.prompt for row in rows)]))
    # What failed alone was answered then, but a request of the same prompt may have been refused.
    open_ones = {*prompts, *(row.prompt for row in rows if not row.answer_after)}
    now = [prompt for prompt in asked if prompt in open_ones]
    with Meter("answers", len(asked) + len(now)) as meter:
        after = shown(session, now, meter.part(len(now)))
        before = shown(session, asked, meter.part(len(asked)), at_base=True)
    return dict(zip(asked, before, strict=True)), dict(zip(now, after, strict=True))


def _measured(row: EditRow, session: Session, verdict: Verdict) -> EditRow:
    """The row with the numbers of the candidate as a whole, and the neighbors that this edit is asked about."""
    numbers, said = verdict.request_metrics.get(row.request_id), verdict.said.get(row.request_id)
    if numbers is None:
        return row
    lost = verdict.neighbors_lost.get(row.request_id, ())
    named = tuple(f"{one.prompt} “{one.before}” → “{one.now}”" for one in lost[:NEIGHBORS_NAMED])
    chat = said.chat.text if said and said.chat else ""
    return row.model_copy(update={"metrics": numbers, "chat_after": chat, "neighbors_lost": named})


def _asked_in_chat(session: Session, rows: Sequence[EditRow], taken: Taken) -> dict[str, dict[str, str]]:
    """By request what a person asks, and what the base says to it; nothing for a model without a chat."""
    chat = conversation(session)
    asked = [taken.known[row.request_id] for row in rows if row.state != "rejected" and row.request_id in taken.known]
    if chat is None or not asked:
        return {}
    said = said_about(session, asked, chat, {}, paraphrases=False, at_base=True)
    return {
        edit.id: {"question": question_about(edit), "chat_before": answer.text}
        for edit in asked
        if (answer := said[edit.id].chat) is not None
    }


def _heard_without(session: Session, gone: Sequence[GoneRow], taken: Taken) -> tuple[GoneRow, ...]:
    """The facts that are gone, with what the base and the model without them say where those taken out were asked."""
    out = dict.fromkeys(row.request_id for row in gone if row.taken_out)
    asked = [taken.known[name] for name in out if name in taken.known]
    if not asked:
        return tuple(gone)
    chat = conversation(session)
    with Meter("answers without what is taken out", 2 * len(asked)) as meter:
        parts = meter.part(len(asked)), meter.part(len(asked))
        base, now = (
            said_about(session, asked, chat, {}, paraphrases=False, at_base=at_base, on_progress=part)
            for at_base, part in zip((True, False), parts, strict=True)
        )
    heard = {}
    for edit in asked:
        before, after = base[edit.id], now[edit.id]
        question = question_about(edit) if after.chat else edit.text
        said = [(one.chat or one.prompt).text for one in (before, after)]
        heard[edit.id] = {"asked": question, "base_says": said[0], "now_says": said[1]}
    return tuple(row.model_copy(update=heard.get(row.request_id, {})) for row in gone)


def _answered(row: EditRow, before: Mapping[str, str], after: Mapping[str, str]) -> EditRow:
    said = row.answer_after or after[row.prompt]
    return row.model_copy(update={"answer_before": before[row.prompt], "answer_after": said})
