"""A trial: what each correction would do alone, against the base. Nothing accumulates and no weight is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import BaseModel, ConfigDict

from editing.edit import Edit
from editing.errors import UsageError
from editing.measure.fluency import generate
from editing.measure.metrics import EditScores, evaluate
from editing.measure.said import PROMPT_TOKENS
from editing.methods import check_mode, compute_independent_updates
from flows.endings import ended_well
from tasks.ledger.trying import to_try
from tasks.lines.specs import LineSpec, resolve_line
from tasks.meter import Meter
from tasks.progress import note, stage
from tasks.runlog import told_to_prefect
from tasks.settings import Settings
from tasks.update.screening import screen
from tasks.update.session import Session, open_session
from tasks.workplace import open_workplace

EDITS_AT_ONCE = 32
"""Edits evaluated together: fills batches, and lets progress be seen."""


class TrialRow(BaseModel):
    """What one correction would do."""

    model_config = ConfigDict(frozen=True)

    request_id: str
    prompt: str
    target_new: str
    answer_before: str
    answer_after: str
    before: dict[str, float]
    after: dict[str, float]


@flow(name="trial", flow_run_name="{line}", persist_result=False)
@ended_well
def trial(
    line: str = "main",
    records: str = "",
    file: Path | None = None,
    limit: int | None = None,
    probes: int | None = None,
    model: str | None = None,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> list[TrialRow]:
    """Try every correction alone against the base of a line: answers and metrics before and after. Nothing is kept.

    Args:
        line: The line: one served model.
        records: Corrections to try, one JSON record a line.
        file: File of corrections on the machine of the job, in place of records; neither, what is queued.
        limit: Only the first so many; none, all.
        probes: Neighborhood prompts asked for each; none, all that it has.
        model: Base, where the line does not exist yet.
        method: Method, where the line does not exist yet; none, memit.
        options: Options of the method, where the line does not exist yet.
    """
    workplace = open_workplace()
    spec = resolve_line(workplace.store.store, workplace.settings, line, model=model, method=method, options=options)
    check_mode(spec.config.method, "independent")
    with told_to_prefect("trials", "trial"):
        edits, left_out = to_try(workplace.ledger, line, records, file, limit)
        for reason in left_out:
            note(reason, "warning")
        rows = try_each(workplace.settings, spec, edits, probes)
        for row in rows:
            note(f"{row.request_id}: {row.prompt} {row.answer_before!r} → {row.answer_after!r}")
        return rows


def try_each(settings: Settings, spec: LineSpec, edits: Sequence[Edit], probes: int | None = None) -> list[TrialRow]:
    """The same without Prefect. Edits are searched and evaluated together, each overlaid on its own questions alone.

    What this model cannot take is left out, and said.

    Raises:
        UsageError: it can take none of them.
    """
    check_mode(spec.config.method, "independent")
    session = open_session(spec, settings)
    edits = _screened(session, edits)
    before = session.base_scores(edits, probes)
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    prompts = [edit.text for edit in edits]
    with stage("answers of the base") as tell:
        said = generate(model, tokenizer, prompts, PROMPT_TOKENS, on_progress=tell)
    updates = compute_independent_updates(session.method_input, edits, session.values(edits), session.config)
    rows: list[TrialRow] = []
    with Meter("trials", 2 * len(edits)) as meter:  # each is measured, and answers
        for start in range(0, len(edits), EDITS_AT_ONCE):
            chunk = slice(start, start + EDITS_AT_ONCE)
            asked, made = edits[chunk], updates[chunk]
            tell = meter.part(len(asked))
            after = evaluate(
                model, tokenizer, asked, before=before, max_neighborhood=probes, updates=made, on_progress=tell
            )
            tell = meter.part(len(asked))
            says = generate(model, tokenizer, prompts[chunk], PROMPT_TOKENS, updates=made, on_progress=tell)
            for edit, then, now, scores in zip(asked, said[chunk], says, after, strict=True):
                rows.append(_row(edit, then, now, before[edit.id], scores))
    return rows


def _screened(session: Session, edits: Sequence[Edit]) -> Sequence[Edit]:
    screened = screen(session, edits)
    for request_id, reason in screened.rejected.items():
        note(f"{request_id}: {reason}", "rejected")
    for request_id, findings in screened.findings.items():
        note(f"{request_id}: {'; '.join(findings)}", "warning")
    if not screened.accepted:
        reason = next(iter(screened.rejected.values()), "there is none")
        raise UsageError(f"nothing to try: the model can take none of {len(edits)} edits; the first: {reason}")
    return screened.accepted


def _row(edit: Edit, said: str, says: str, before: EditScores, after: EditScores) -> TrialRow:
    return TrialRow(
        request_id=edit.id,
        prompt=edit.text,
        target_new=edit.target_new,
        answer_before=said.strip(),
        answer_after=says.strip(),
        before=before.numbers(),
        after=after.numbers(),
    )
