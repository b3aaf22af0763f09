"""A job's report as files: what is stored with its run in MLflow."""

from tasks.report.data import JobReport
from tasks.report.render import render_html, render_markdown, table_json

TABLES = ("edits.json", "batches.json")
"""The files that MLflow shows as tables."""


def report_files(report: JobReport) -> dict[str, bytes]:
    """Pages, tables and pictures by path."""
    from tasks.report import figures  # matplotlib takes a while, and a job may end long before its report

    drawn = figures.drawn(report)
    texts = {
        "report.html": render_html(report, drawn),
        "summary.md": render_markdown(report),
        "report.json": report.model_dump_json(indent=1),
        "edits.json": table_json([edit.model_dump(mode="json") for edit in report.edits]),
        "batches.json": table_json([batch.model_dump(mode="json") for batch in report.batches]),
    }
    texts |= {f"figures/{name}.svg": figures.alone(svg) for name, svg in drawn.items()}
    return {path: text.encode() for path, text in texts.items()}
