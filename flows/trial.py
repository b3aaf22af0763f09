"""A trial: what each correction would do alone, against the base. Nothing accumulates and no weight is written."""

from collections.abc import Sequence

from prefect import flow
from pydantic import BaseModel, ConfigDict

from editing.edit import Edit
from editing.errors import UsageError
from editing.measure.fluency import generate
from editing.measure.metrics import EditScores, evaluate
from editing.methods import check_mode, compute_independent_updates
from tasks.lines.specs import LineSpec
from tasks.meter import Meter
from tasks.progress import note, stage
from tasks.runlog import told_to_prefect
from tasks.settings import Settings, load_settings
from tasks.update.screening import screen
from tasks.update.session import Session, open_session
from tasks.update.stages import ANSWER_TOKENS

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


@flow(name="trial", flow_run_name="{spec.line}", persist_result=False)
def trial(spec: LineSpec, edits: list[Edit], probes: int | None = None) -> list[TrialRow]:
    """Each edit alone on the base of a line: answers and metrics before and after."""
    with told_to_prefect("trials", "trial"):
        return try_each(load_settings(), spec, edits, probes)


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
        said = generate(model, tokenizer, prompts, ANSWER_TOKENS, on_progress=tell)
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
            says = generate(model, tokenizer, prompts[chunk], ANSWER_TOKENS, updates=made, on_progress=tell)
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
