"""The pages of a job: one for the reviewer in the MLflow UI, one summary for Prefect.

`render_html` makes one self-contained page of a `JobReport` (MLflow's artifact viewer shows it in a sandboxed frame: no
script, no outside request), `render_markdown` the summary. Models write what they like, so every string from outside
passes `visible` and is escaped.
"""

import functools
import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tasks.markdown import literal
from tasks.markdown import row as _row
from tasks.report.data import BatchRow, EditRow, JobReport, Sample
from tasks.report.metrics import METRICS, PROBES, metric_lines
from tasks.report.standing import capacity_text, standing_text
from tasks.report.verdict import CheckLine, check_lines, headline
from tasks.secrets import flattened
from tasks.text import visible

__all__ = [
    "BatchRow",
    "EditRow",
    "JobReport",
    "Sample",
    "render_html",
    "render_markdown",
    "table_json",
    "visible",
]

MARKS = {
    "pass": "✓ holds",
    "fail": "✗ fails",
    "warn": "! warns",
    "few": "? too few to tell",
    "none": "nothing to ask",
}
STATES = ("quarantined", "rejected", "committed")  # the order of reading: what went wrong comes first
MARKDOWN_ROWS = 20  # quarantined edits that the summary lists; the page has all


def render_html(report: JobReport, drawn: Mapping[str, str] | None = None) -> str:
    """The page of the job as one HTML document without outside requests; `drawn` are its figures."""
    from tasks.report import figures  # matplotlib takes a while, and only this page has pictures

    drawn = figures.drawn(report) if drawn is None else drawn
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            lines=metric_lines(report),
            checks=check_lines(report.checks),
            marks=MARKS,
            verdict=headline(report),
            standing_text=standing_text(report.standing),
            capacity_text=capacity_text(report.capacity),
            tiles=_tiles(report),
            edits=sorted(report.edits, key=lambda edit: STATES.index(edit.state)),
            undone=[batch for batch in report.batches if not batch.kept],
            svg={name: Markup(svg) for name, svg in drawn.items()},
            commands=_commands(report),
            facts=_facts(report),
        )
    )


def render_markdown(report: JobReport) -> str:
    """The summary of the job in Markdown: counts, verdict, metrics, what was quarantined and how to decide."""
    counts = report.counts
    target = "nothing kept" if report.to_version is None else report.shown(report.to_version)
    parts = [
        f"# {literal(report.line)}: {report.shown(report.from_version)} → {target}",
        f"**{literal(headline(report)[1])}** " + " · ".join(f"{counts[state]} {state}" for state in reversed(STATES)),
        *_verdict_table(report),
        *_metric_table(report),
        *("\n" + text for text in (standing_text(report.standing), capacity_text(report.capacity)) if text),
    ]
    failed = [edit for edit in report.edits if edit.state != "committed"]
    if failed:
        parts += ["", "| Not written | Request | Wanted | Why |", "|---|---|---|---|"]
        parts += [
            _row([edit.state, literal(_statement(edit)), literal(edit.target_new), literal(edit.reason)])
            for edit in failed[:MARKDOWN_ROWS]
        ]
    if len(failed) > MARKDOWN_ROWS:
        parts.append(
            f"\nand {len(failed) - MARKDOWN_ROWS} more: see report.html of MLflow run {literal(report.mlflow_run_id)}."
        )
    if report.moved:
        parts += ["", f"| Moved from line {literal(report.moved.line)} | Now says | |", "|---|---|---|"]
        move = [_row([literal(one.asked), literal(now), became]) for one, now, became in report.move]
        parts += move[:MARKDOWN_ROWS]
        parts += [f"\nand {len(move) - MARKDOWN_ROWS} more, in report.html."] if len(move) > MARKDOWN_ROWS else []
    if report.gone:
        parts += ["", "| Facts that leave or come back |", "|---|"]
        parts += [_row([literal(one.sentence)]) for one in report.gone[:MARKDOWN_ROWS]]
    parts += _found_table("Told with it", [(edit, one) for edit in report.edits for one in edit.told])
    parts += _found_table("Left out", [(edit, one) for edit in report.edits for one in edit.findings])
    parts += _found_table("Hard to tell apart", [(edit, one) for edit in report.edits for one in edit.alike])
    if report.to_version is not None:
        parts += ["", "```sh", *_commands(report), "```"]
    return "\n".join(parts) + "\n"


def _found_table(what: str, found: Sequence[tuple[EditRow, str]]) -> list[str]:
    if not found:
        return []
    rows = [_row([literal(edit.request_id), literal(finding)]) for edit, finding in found[:MARKDOWN_ROWS]]
    more = [f"\nand {len(found) - MARKDOWN_ROWS} more, in report.html."] if len(found) > MARKDOWN_ROWS else []
    return ["", f"| Request | {what} |", "|---|---|", *rows, *more]


def _verdict_table(report: JobReport) -> list[str]:
    rows = [
        _row([literal(_about(line)), line.measured, line.allowed, MARKS[line.mark], literal(line.reason)])
        for line in check_lines(report.checks)
    ]
    return ["", "| Check | Measured | Allowed | | Why |", "|---|---|---|---|---|", *rows] if rows else []


def _metric_table(report: JobReport) -> list[str]:
    champion = report.champion is not None
    told = ["Base, told in its prompt"] if report.in_context else []
    rounded = [literal(f"Candidate in {report.policy.get('quantised')}")] if report.fewer_bits else []
    header = ["Metric", "Base", *told, *(["Champion"] if champion else []), "Candidate", *rounded]
    rows = [
        _row([literal(line.label), line.base, *([line.in_context] if told else []),
              *([line.champion] if champion else []), line.candidate, *([line.fewer_bits] if rounded else [])])
        for line in metric_lines(report)
    ]  # fmt: skip
    return ["", _row(header), _row(["---"] * len(header)), *rows]


def _about(line: CheckLine) -> str:
    return f"{line.label}, request '{line.request_id}'" if line.request_id else line.label


def table_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the JSON that MLflow's artifact viewer shows as a table; lists and mappings become text."""
    columns = list(rows[0]) if rows else []
    data = [[_table_cell(row[name]) for name in columns] for row in rows]
    return json.dumps({"columns": columns, "data": data}, ensure_ascii=False)


def _table_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _statement(edit: EditRow) -> str:
    """The prompt with its subject filled in."""
    return edit.prompt.replace("{}", edit.subject, 1)


def _flags(edit: EditRow) -> list[str]:
    """What a reviewer should see before the numbers: where chat and prompt disagree, and which neighbors were lost."""
    chat, alone = edit.metrics.get("said_chat"), edit.metrics.get("said_prompt")
    flags = [f"neighbor lost: {lost}" for lost in edit.neighbors_lost]
    if chat is not None and alone is not None and chat != alone:
        flags.insert(0, "said in the chat, not after the prompt" if chat else "said after the prompt, not in the chat")
    failed = [PROBES[name] for name in PROBES if edit.metrics.get(f"probes.{name}") == 0.0]
    return [*flags, f"asked otherwise: not {'; not '.join(failed)}"] if failed else flags


def _commands(report: JobReport) -> list[str]:
    line = shlex.quote(" ".join(visible(report.line).split()))
    return [f"errata approve {line} --version {report.to_version}", f'errata reject {line} --reason "..."']


def _tiles(report: JobReport) -> list[tuple[str, str, str]]:
    """(tone, number, caption) of the large numbers at the top."""
    by_name = {metric.name: metric for metric in METRICS}
    counts = report.counts
    tiles = [("good" if counts["committed"] else "", str(counts["committed"]), "edits kept")]
    tiles += [("bad" if counts[state] else "", str(counts[state]), state) for state in ("quarantined", "rejected")]
    if out := sum(one.taken_out for one in report.gone):
        tiles.append(("", str(out), "taken out"))
    said = [name for name in ("said_chat", "said_prompt", "said_paraphrases") if name in report.candidate]
    for name in (*(said or ("efficacy_prob", "generalization_prob")), "locality_prob", "perplexity_ratio"):
        if name in report.candidate:
            tiles.append(("", by_name[name].show(report.candidate[name]), by_name[name].label.lower()))
    return tiles


def _facts(report: JobReport) -> list[tuple[str, list[tuple[str, str]]]]:
    """How the version was made, as groups of (name, value)."""
    identity = {
        "base model": report.base,
        "base digest": report.base_digest,
        "method": report.method,
        "built on": report.shown(report.from_version),
        "new version": "none" if report.to_version is None else report.shown(report.to_version),
    }
    run = {
        "flow run": report.flow_run_id,
        "MLflow run": report.mlflow_run_id,
        "started": _utc(report.started),
        "finished": _utc(report.finished),
        "took": duration((report.finished - report.started).total_seconds()),
    }
    groups: dict[str, dict[str, Any]] = {
        "Model": identity,
        "Run": run,
        "Method configuration": report.config,
        "Policy": report.policy,
    }
    return [
        (title, [(key, _plain(value)) for key, value in flattened(group).items()]) for title, group in groups.items()
    ]


def duration(seconds: float) -> str:
    """Seconds for a person: 4.2 s, 3 min 20 s, 1 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%d %b %Y, %H:%M:%S UTC")


def _numbers(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """(label, value) of the metrics in their usual order, unknown ones left out."""
    return [(metric.label, metric.show(metrics[metric.name])) for metric in METRICS if metric.name in metrics]


def _unsaid(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without what the marks beside the answers say, and what says nearly the same as another."""
    said = ("said_", "old_", "locality_prob")
    return {
        name: value
        for name, value in metrics.items()
        if not name.startswith(said) and not name.endswith(("_argmax", "_tokens"))
    }


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        visible=visible,
        duration=duration,
        utc=_utc,
        numbers=_numbers,
        statement=_statement,
        flags=_flags,
        unsaid=_unsaid,
    )
    return environment
