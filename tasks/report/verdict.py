"""A verdict as a person reads it: its rows written out, and the one sentence that they come to.

The rows are data (`tasks.report.data.Check`); nothing is compared here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.report.data import Check, Frozen, JobReport

Mark = Literal["pass", "fail", "none"]
"""`none`: nothing was there to ask."""
Outcome = Literal["pass", "fail", "missing"]
"""`missing`: a report without a verdict."""


@dataclass(frozen=True)
class Measure:
    """How a measure of the verdict is called and written."""

    label: str
    hint: str
    form: Literal["share", "ratio", "lost"]


MEASURES = {
    "efficacy": Measure("Edit success", "the new answer is more probable than the old one", "share"),
    "neighbors_preferred": Measure(
        "Neighbors: answer no longer preferred", "their own answer, to the new one of the correction", "lost"
    ),
    "neighbors_said": Measure("Neighbors: answer no longer said", "their own answer, which the base says", "lost"),
    "neighbors_changed": Measure(
        "Neighbors without an answer: changed", "no longer begin with what the base says", "lost"
    ),
    "same_subject": Measure(
        "Earlier facts of like subjects: lost", "corrections that are written where a new one is, or nearly", "lost"
    ),
    "fluency": Measure("Fluency", "how varied its text is, against the base", "ratio"),
    "perplexity": Measure("Perplexity", "on fixed text, against the base", "ratio"),
    "retained": Measure("Earlier facts", "a sample of earlier corrections still holds", "share"),
}
NEIGHBORS = ("neighbors_preferred", "neighbors_said", "neighbors_changed")


class CheckLine(Frozen):
    """One row of a verdict, written out."""

    label: str
    hint: str
    request_id: str
    """The request that the row is about; empty: all of them together."""
    measured: str
    allowed: str
    field: str
    mark: Mark
    reason: str


def check_lines(checks: Sequence[Check]) -> list[CheckLine]:
    """Every row written out, in the order of the judge."""
    return [
        CheckLine(
            label=MEASURES[check.measure].label if check.measure in MEASURES else check.measure.capitalize(),
            hint=MEASURES[check.measure].hint if check.measure in MEASURES else "",
            request_id=check.request_id or "",
            measured=_measured(check),
            allowed=_allowed(check),
            field=check.field,
            mark=_mark(check),
            reason=check.reason,
        )
        for check in checks
    ]


def headline(report: JobReport) -> tuple[Outcome, str]:
    """The verdict on the whole job and the sentence that says it."""
    asked = [check for check in report.checks if _mark(check) != "none"]
    failed = [line.label for line in check_lines(report.checks) if line.mark == "fail"]
    if report.to_version is None:
        return "fail", f"Nothing was kept; the line stays at {report.shown(report.from_version)}."
    if not report.checks:
        return "missing", "This report holds no verdict; judge the numbers yourself."
    if failed:
        return "fail", f"{len(failed)} of {len(asked)} checks failed: {', '.join(dict.fromkeys(failed))}."
    neighbors = any(check.measure in NEIGHBORS for check in asked)
    unknown = "" if neighbors else " No neighbor was asked: what else changed is not known."
    return "pass", f"All {len(asked)} checks hold.{unknown}"


def _mark(check: Check) -> Mark:
    if not check.holds:
        return "fail"
    return "none" if check.sample == 0 else "pass"


def _measured(check: Check) -> str:
    """What was found: '90.0 % of 10', '3 of 10', '×1.020'."""
    if check.sample == 0 or check.value is None:
        return "–"
    if not math.isfinite(check.value):
        return "not measured" if math.isnan(check.value) else "infinite"
    if _form(check) == "lost":
        count = round(check.value)
        return f"{count} of {check.sample}" if count >= 0 else f"none of {check.sample}, {-count} gained"
    of = f" of {check.sample}" if _form(check) == "share" and check.sample is not None else ""
    return _plain(check, check.value) + of


def _allowed(check: Check) -> str:
    """What passes: '≥ 90.0 %', 'at most 2', '≤ ×1.100'."""
    if check.limit is None or (check.sample == 0 and _form(check) == "lost"):
        return ""
    if _form(check) == "lost":
        return f"at most {round(check.limit)}"
    return f"{'≤' if check.field.startswith('max_') else '≥'} {_plain(check, check.limit)}"


def _plain(check: Check, value: float) -> str:
    return f"{100 * value:.1f} %" if _form(check) == "share" else f"×{value:.3f}"


def _form(check: Check) -> str:
    return MEASURES[check.measure].form if check.measure in MEASURES else ""
