"""A line moved to another base: its live facts searched, written and validated there, as a line of their own."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.endings import announced, ended_well
from flows.knowledge_update import job
from tasks.lines.specs import Template, resolve_line
from tasks.update import moving
from tasks.update.journal import JobSummary
from tasks.update.policy import Policy
from tasks.workplace import open_workplace


@flow(name="migrate", flow_run_name="{line} to {to}", persist_result=False)
@ended_well
def migrate(
    line: str,
    model: str,
    to: str,
    policy: Policy = Policy(),  # noqa: B008  # frozen
    dtype: str | None = None,
    template: Template | None = None,
    system: str | None = None,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    text: Path | None = None,
    statistics_text: Path | None = None,
) -> JobSummary:
    """Move the live facts of a line to another base, such as the next release of its model, as a new line that waits.

    Args:
        line: The line whose facts in service are moved; it stays as it is.
        model: The other base: a folder, a hub id, a GGUF file, `embedded`.
        to: The new line.
        policy: What its batches are judged by.
        dtype: dtype of its weights, where it differs from the settings.
        template: How its facts are asked; none, as those of the line.
        system: System message of its chat; none, the line's.
        method: Its method; none, the line's.
        options: Options of its method; none, its defaults, since layers are a model's own.
        text: File of text that perplexity is taken on, on the machine of the job.
        statistics_text: File of text for the key statistics, on the machine of the job.

    What the new base says already is left out, and named. Killed at any point it can be started again.

    Raises:
        LineBusy: another job works on the new line.
        UsageError: nothing is in service, the base is the same, or the new line holds anything else.
    """

    def work() -> JobSummary:
        workplace = open_workplace()
        source = moving.source_of(workplace, line, to)
        definition = moving.definition(source, model, dtype, template, system, method, options)
        spec = resolve_line(workplace.store.store, workplace.settings, to, **definition)
        moving.check_target(workplace, source, spec)
        moved = moving.ask_both(workplace, source, spec)
        moving.submit(workplace, source, to, moved)
        return job(to, policy, None, (text, statistics_text), definition, moved=moved)

    return announced(to, "edits", work)
