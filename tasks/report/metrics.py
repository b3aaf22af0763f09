"""The metrics of a job as a reviewer reads them: named, written out, and held against the policy."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from tasks.report.data import Frozen, JobReport

Verdict = Literal["pass", "fail", "missing", ""]
ROUNDING = 1e-9  # 0.735 - 0.05 must not fail 0.685


class Metric(Frozen):
    """How a metric is called, written and read."""

    name: str
    label: str
    hint: str
    form: Literal["share", "bits", "number", "ratio"]

    def show(self, value: float | None, signed: bool = False) -> str:
        """The value for a person: shares as percent (differences in points), en dash where it was not measured."""
        if value is None or not math.isfinite(value):
            return "–"
        sign = "+" if signed else ""
        if self.form == "share":
            text = f"{100 * value:{sign}.1f}" + (" pt" if signed else " %")
        elif self.form == "ratio":
            text = f"{value:{sign}.3f}" if signed else f"×{value:.3f}"
        else:
            text = f"{value:{sign}.2f}" + (" bits" if self.form == "bits" else "")
        return text.replace("-", "−")


METRICS = (
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
        name="perplexity_ratio",
        label="Perplexity ratio",
        hint="on fixed text, against the base",
        form="ratio",
    ),
    Metric(name="perplexity", label="Perplexity", hint="on fixed text", form="number"),
    Metric(name="fluency_ratio", label="Fluency ratio", hint="against the base on the same prompts", form="ratio"),
    Metric(name="fluency", label="Fluency", hint="n-gram entropy of what it writes", form="bits"),
)


class MetricLine(Frozen):
    """One row of the table of metrics, every value written out."""

    label: str
    hint: str
    base: str
    champion: str
    candidate: str
    change: str
    threshold: str
    verdict: Verdict


def metric_lines(report: JobReport) -> list[MetricLine]:
    """The metrics of base, champion and candidate with the thresholds of the policy; without those nobody measured.

    A threshold is a policy entry `min_X`, `max_X`, or against the base `max_X_drop`, `min_X_ratio`, where X is a metric
    or its stem (`efficacy` means `efficacy_prob`), at the top of the policy or under `thresholds`.
    """
    known = {metric.name for metric in METRICS}
    measured = {**report.baseline, **(report.champion or {}), **report.candidate}
    others = [
        Metric(name=name, label=name.replace("_", " "), hint="", form="number")
        for name in measured
        if name not in known and not name.startswith("before_")
    ]
    limits = _limits(report.policy, measured)
    return [
        _metric_line(metric, report, limits.get(metric.name, []))
        for metric in (*METRICS, *others)
        if metric.name in measured or metric.name in limits
    ]


def _limits(policy: Mapping[str, Any], measured: Collection[str]) -> dict[str, list[tuple[str, float]]]:
    """(bound, number) for each metric that the policy limits; bound is min, max, drop, 'min ratio' or 'max ratio'."""
    found: dict[str, list[tuple[str, float]]] = {}
    nested = policy.get("thresholds")
    for key, value in {**policy, **(nested if isinstance(nested, Mapping) else {})}.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        readings = _readings(key)
        for name, bound in [one for one in readings if one[0] in measured][:1] or readings[:1]:
            found.setdefault(name, []).append((bound, float(value)))
    return found


def _readings(key: str) -> list[tuple[str, str]]:
    """The (metric, bound) that a policy entry may mean, the most literal first: `min_fluency_ratio` limits the metric
    `fluency_ratio`, or else `fluency` against the base."""
    side, _, rest = key.partition("_")
    if side not in ("min", "max"):
        return []
    stem, _, suffix = rest.rpartition("_")
    relative = {"drop": "drop", "ratio": f"{side} ratio"}.get(suffix)
    names = {metric.name for metric in METRICS}
    return [
        (name, bound)
        for start, bound in ((rest, side), (stem, relative))
        for name in (start, f"{start}_prob", f"{start}_efficacy_prob")
        if bound and name in names
    ]


def _limit(metric: Metric, bound: str, limit: float, base: float) -> tuple[float, str]:
    """The number that the candidate is held against, and how it is written."""
    sign = "≤" if bound.startswith("max") else "≥"
    if bound == "drop":
        return base - limit, f"≥ base − {metric.show(limit, signed=True).lstrip('+')}"
    if bound.endswith("ratio"):
        return base * limit, f"{sign} {limit:g} × base"
    return limit, f"{sign} {metric.show(limit)}"


def _metric_line(metric: Metric, report: JobReport, limits: Iterable[tuple[str, float]]) -> MetricLine:
    base, value = report.baseline.get(metric.name, math.nan), report.candidate.get(metric.name, math.nan)
    champion = (report.champion or {}).get(metric.name, math.nan)
    texts: list[str] = []
    verdicts: list[Verdict] = []
    for bound, number in limits:
        limit, text = _limit(metric, bound, number, base)
        texts.append(text)
        if not math.isfinite(value) or not math.isfinite(limit):
            verdicts.append("missing")
        else:
            verdicts.append(
                "pass"
                if (value <= limit + ROUNDING if bound.startswith("max") else value >= limit - ROUNDING)
                else "fail"
            )
    worst = [verdict for verdict in ("fail", "missing", "pass") if verdict in verdicts]
    reference = champion if math.isfinite(champion) else base
    return MetricLine(
        label=metric.label,
        hint=metric.hint,
        base=metric.show(base),
        champion=metric.show(champion),
        candidate=metric.show(value),
        change=metric.show(value - reference, signed=True),
        threshold=", ".join(texts),
        verdict=worst[0] if worst else "",
    )


def headline(report: JobReport, lines: Iterable[MetricLine]) -> tuple[Verdict, str]:
    """The verdict on the whole job and the sentence that says it."""
    checked = [line for line in lines if line.verdict]
    failed = [line.label for line in checked if line.verdict == "fail"]
    missing = [line.label for line in checked if line.verdict == "missing"]
    if report.to_version is None:
        return "fail", f"Nothing was kept; the line stays at version {report.from_version}."
    if failed:
        return "fail", f"{len(failed)} of {len(checked)} thresholds missed: {', '.join(failed)}."
    if missing:
        return "missing", f"Not measured, though the policy limits it: {', '.join(missing)}."
    if not checked:
        return "missing", "The policy states no threshold for these metrics; judge the numbers yourself."
    return "pass", f"All {len(checked)} thresholds hold."
