"""A trial: what each correction would do alone, against the base. Nothing accumulates and no weight is written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import BaseModel, ConfigDict

from editing.chat import question_about
from editing.edit import Edit
from editing.errors import UsageError
from editing.measure.metrics import EditScores, evaluate
from editing.measure.said import Said, others_of_its_kind, said, summarise_said
from editing.methods import check_mode, compute_independent_updates
from editing.request import with_join
from flows.endings import ended_well
from tasks.ledger.trying import to_try
from tasks.lines.specs import LineSpec, Template, read_line, resolve_line
from tasks.meter import Meter
from tasks.progress import note, stage
from tasks.runlog import told_to_prefect
from tasks.settings import Settings
from tasks.update.function import stored_function
from tasks.update.saying import conversation, said_about
from tasks.update.screening import screen
from tasks.update.session import Session, open_session
from tasks.update.writing import told
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
    question: str = ""
    """What a person asks in the model's chat; empty where it has none, as the two answers to it."""
    chat_before: str = ""
    chat_after: str = ""
    said_before: dict[str, float] = {}
    said_after: dict[str, float] = {}
    """What is said, by prompt and in the chat, as a job's report counts it."""
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
    template: Template | None = None,
    system: str | None = None,
    join: str | None = None,
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
        template: How facts are asked, where the line does not exist yet: `raw`, or in a `chat` as well; none, `auto`.
        system: System message of its chat, where the line does not exist yet; none, the template's.
        join: What joins prompts and answers, where the line does not exist yet: `none`, `space` or `line`.
        method: Method, where the line does not exist yet; none, memit.
        options: Options of the method, where the line does not exist yet.
    """
    workplace = open_workplace()
    definition: dict[str, Any] = {"model": model, "template": template, "join": join}
    definition |= {"system": system, "method": method, "options": options}
    spec = resolve_line(workplace.store.store, workplace.settings, line, **definition)
    check_mode(spec.config.method, "independent")
    with told_to_prefect("trials", "trial"):
        edits, left_out = to_try(workplace.ledger, line, records, file, limit)
        for reason in left_out:
            note(reason, "warning")
        made = stored_function([version.manifest for version in workplace.store.versions(line)])
        new = read_line(workplace.store.store, line) is None
        rows = try_each(workplace.settings, spec, edits, probes, made, new=new)
        for row in rows:
            asked, *answers = heard(row)
            note(f"{row.request_id}: {asked} {answers[0]!r} → {answers[1]!r}")
        return rows


def try_each(
    settings: Settings,
    spec: LineSpec,
    edits: Sequence[Edit],
    probes: int | None = None,
    function: Mapping[str, Any] | None = None,
    *,
    new: bool = False,
) -> list[TrialRow]:
    """The same without Prefect. Edits are searched and evaluated together, each overlaid on its own questions alone.

    What this model cannot take is left out, and said.

    Args:
        function: layers, contexts and statistics of the line's versions, where it has some (tasks/update/function.py).
        new: the line is not there yet, so that it takes a calibration of its base.

    Raises:
        UsageError: it can take none of them.
    """
    check_mode(spec.config.method, "independent")
    session = open_session(spec, settings, function=function or None, new=new)
    edits = _screened(session, [with_join(edit, spec.join) for edit in edits], probes)
    before = session.base_scores(edits, probes)
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    chat, others = conversation(session), others_of_its_kind(edits)
    with stage("answers of the base") as tell:
        base = said_about(session, edits, chat, others, paraphrases=False, at_base=True, on_progress=tell)
    z_star = session.values(edits)
    with told(session.method_input, edits) as given:
        updates = compute_independent_updates(given, edits, z_star, session.config)
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
            says = said(model, tokenizer, asked, chat, others=others, paraphrases=False, updates=made, on_progress=tell)
            for edit, now, scores in zip(asked, says, after, strict=True):
                rows.append(_row(edit, (base[edit.id], now), (before[edit.id], scores)))
    return rows


def heard(row: TrialRow) -> tuple[str, str, str]:
    """What users ask, and what they hear before and after: in the chat where there is one."""
    if row.question:
        return row.question, row.chat_before, row.chat_after
    return row.prompt, row.answer_before, row.answer_after


def _screened(session: Session, edits: Sequence[Edit], probes: int | None) -> Sequence[Edit]:
    screened = screen(session, edits, probes=probes)
    for request_id, reason in screened.rejected.items():
        note(f"{request_id}: {reason}", "rejected")
    for request_id, findings in screened.findings.items():
        note(f"{request_id}: {'; '.join(findings)}", "warning")
    if not screened.accepted:
        reason = next(iter(screened.rejected.values()), "there is none")
        raise UsageError(f"nothing to try: the model can take none of {len(edits)} edits; the first: {reason}")
    return screened.accepted


def _row(edit: Edit, answers: tuple[Said, Said], scores: tuple[EditScores, EditScores]) -> TrialRow:
    (then, now), (before, after) = answers, scores
    in_chat = then.chat is not None and now.chat is not None
    return TrialRow(
        request_id=edit.id,
        prompt=edit.text,
        target_new=edit.target_new,
        answer_before=then.prompt.text.strip(),
        answer_after=now.prompt.text.strip(),
        question=question_about(edit) if in_chat else "",
        chat_before=then.chat.text.strip() if then.chat else "",
        chat_after=now.chat.text.strip() if now.chat else "",
        said_before=summarise_said([then]),
        said_after=summarise_said([now]),
        before=before.numbers(),
        after=after.numbers(),
    )
