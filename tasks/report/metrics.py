"""The metrics of a job as a reviewer reads them: named and written out, base beside champion and candidate."""

import math
from typing import Literal

from tasks.report.data import Frozen, JobReport


class Metric(Frozen):
    """How a metric is called, written and read."""

    name: str
    label: str
    hint: str
    form: Literal["share", "bits", "number", "ratio", "nats"]

    def show(self, value: float | None, signed: bool = False, error: float | None = None) -> str:
        """The value for a person: shares as percent (differences in points), en dash where it was not measured.

        `error`: its standard error.
        """
        if value is None or not math.isfinite(value):
            return "–"
        if error is not None and math.isfinite(error):
            size = f"{100 * error:.1f}" if self.form == "share" else f"{error:.4f}"
            return f"{self.show(value, signed)} ± {size}"
        sign = "+" if signed else ""
        if self.form == "share":
            text = f"{100 * value:{sign}.1f}" + (" pt" if signed else " %")
        elif self.form == "ratio":
            text = f"{value:{sign}.3f}" if signed else f"×{value:.3f}"
        elif self.form == "nats":
            text = f"{value:{sign}.4f}"
        else:
            text = f"{value:{sign}.2f}" + (" bits" if self.form == "bits" else "")
        return text.replace("-", "−")


METRICS = (
    Metric(
        name="said_chat", label="Said in the chat", hint="the first sentence says it, asked as people ask", form="share"
    ),
    Metric(name="old_chat", label="Old answer in the chat", hint="still there in the first sentence", form="share"),
    Metric(name="said_prompt", label="Said after the prompt", hint="its text begins with the new answer", form="share"),
    Metric(name="old_prompt", label="Old answer after the prompt", hint="still said there", form="share"),
    Metric(name="said_paraphrases", label="Said after paraphrases", hint="the same, asked otherwise", form="share"),
    Metric(name="old_paraphrases", label="Old answer after paraphrases", hint="still said there", form="share"),
    Metric(
        name="efficacy_prob",
        label="Efficacy",
        hint="the new answer is more probable than the old",
        form="share",
    ),
    Metric(name="efficacy_argmax", label="Efficacy, exact", hint="the model writes the new answer", form="share"),
    Metric(name="generalization_prob", label="Generalization", hint="the same, for paraphrases", form="share"),
    Metric(
        name="generalization_argmax",
        label="Generalization, exact",
        hint="written for paraphrases",
        form="share",
    ),
    Metric(name="locality_prob", label="Locality", hint="other subjects prefer their own answer", form="share"),
    Metric(name="locality_argmax", label="Locality, exact", hint="other subjects: answer written", form="share"),
    Metric(
        name="locality_kept",
        label="Locality, kept",
        hint="other subjects answer as the base did",
        form="share",
    ),
    Metric(
        name="locality_kept_tokens",
        label="Locality, kept by token",
        hint="of their answers' tokens",
        form="share",
    ),
    Metric(
        name="retained_efficacy_prob",
        label="Earlier facts kept",
        hint="a sample of earlier edits still holds",
        form="share",
    ),
    Metric(
        name="retained_efficacy_argmax",
        label="Earlier facts, exact",
        hint="the model writes them",
        form="share",
    ),
    Metric(
        name="retained_said",
        label="Earlier facts still said",
        hint="of those that hold",
        form="share",
    ),
    Metric(
        name="perplexity_ratio",
        label="Perplexity ratio",
        hint="on fixed text, against the base",
        form="ratio",
    ),
    Metric(name="perplexity", label="Perplexity", hint="on fixed text", form="number"),
    Metric(name="fluency_ratio", label="Fluency ratio", hint="against the base on the same prompts", form="ratio"),
    Metric(name="fluency", label="Fluency", hint="n-gram entropy of what it writes", form="bits"),
    Metric(name="kl", label="Divergence", hint="of what comes next on fixed text, in nats", form="nats"),
)
GROUPS = {
    "ability": ("Ability", "questions of the test answered rightly"),
    "probes": ("Probe", "asked otherwise"),
}
PROBES = {
    "prefix50": "said after 50 tokens of other text",
    "prefix200": "said after 200 tokens of other text",
    "choice": "chosen of A and B, in both orders",
    "negation": "believed rather than its denial",
    "drift": "what else is said of the subject, kept",
    "reverse": "the subject said, asked from the answer",
}
"""What went well where a probe did."""
ERRORS = ("_stderr", "_change_stderr")
"""Endings of names that are a metric's standard errors: of its value, and of its difference to the base's."""


class MetricLine(Frozen):
    """One row of the table of metrics, every value written out."""

    label: str
    hint: str
    base: str
    champion: str
    candidate: str
    change: str
    in_context: str = "–"
    """The base with each correction in its prompt."""
    fewer_bits: str = "–"
    """The candidate with rounded weights."""


def metric_lines(report: JobReport) -> list[MetricLine]:
    """The metrics of base, champion and candidate; without those nobody measured."""
    known = {metric.name for metric in METRICS}
    measured = {**report.baseline, **(report.champion or {}), **report.candidate}
    names = (name for name in measured if name not in known and not name.startswith("before_"))
    others = [_other(name) for name in names if not name.endswith(ERRORS)]
    return [_metric_line(metric, report) for metric in (*METRICS, *others) if metric.name in measured]


def _other(name: str) -> Metric:
    """One of a group, or one that nobody described."""
    group, _, kind = name.partition(".")
    if kind and group in GROUPS:
        label, hint = GROUPS[group]
        return Metric(name=name, label=f"{label}: {kind}", hint=PROBES.get(kind, hint), form="share")
    return Metric(name=name, label=name.replace("_", " "), hint="", form="number")


def _metric_line(metric: Metric, report: JobReport) -> MetricLine:
    base, value = report.baseline.get(metric.name, math.nan), report.candidate.get(metric.name, math.nan)
    champion = (report.champion or {}).get(metric.name, math.nan)
    reference = champion if math.isfinite(champion) else base
    error = report.candidate.get(f"{metric.name}_change_stderr") if reference is base else None
    return MetricLine(
        label=metric.label,
        hint=metric.hint,
        base=metric.show(base, error=report.baseline.get(f"{metric.name}_stderr")),
        champion=metric.show(champion),
        candidate=metric.show(value, error=report.candidate.get(f"{metric.name}_stderr")),
        change=metric.show(value - reference, signed=True, error=error),
        in_context=metric.show(report.in_context.get(metric.name)),
        fewer_bits=metric.show(report.fewer_bits.get(metric.name)),
    )
