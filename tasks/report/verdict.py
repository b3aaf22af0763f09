"""A verdict as a person reads it: its rows written out, and the one sentence that they come to.

The rows are data (`tasks.report.data.Check`); nothing is compared here.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tasks.report.data import Check, Frozen, JobReport

Mark = Literal["pass", "fail", "warn", "few", "none"]
"""`warn`: it does not hold, and the policy only wants it told. `few`: the sample is too small to tell. `none`: nothing
was there to ask."""
Outcome = Literal["pass", "unclear", "fail", "missing"]
"""`unclear`: nothing failed, and of something that counts too few were asked to tell: a person decides, by the policy's
`too_few`. `missing`: a report without a verdict."""


@dataclass(frozen=True)
class Measure:
    """How a measure of the verdict is called and written."""

    label: str
    hint: str
    form: Literal["share", "ratio", "lost", "number"]
    missed: str = ""
    """How it is called where those are counted that miss it."""


MEASURES = {
    "efficacy": Measure("Edit success", "the new answer is more probable than the old one", "share"),
    "neighbors_preferred": Measure(
        "Neighbors: answer no longer preferred", "their own answer, to the new one of the correction", "lost"
    ),
    "neighbors_said": Measure("Neighbors: answer no longer said", "their own answer, which the base says", "lost"),
    "neighbors_changed": Measure(
        "Neighbors without an answer: changed", "no longer begin with what the base says", "lost"
    ),
    "neighbors_together": Measure(
        "Neighbors: lost, all counts together", "what each count shows faintly their sum shows", "lost"
    ),
    "same_subject": Measure(
        "Earlier facts of like subjects: lost", "corrections that are written where a new one is, or nearly", "lost"
    ),
    "neighbors_lost": Measure("Neighbors: lost at a request", "by any of the counts", "lost"),
    "said": Measure(
        "Says the new answer",
        "its prompt completed, and neither the old answer nor a third",
        "share",
        "Does not say the new answer",
    ),
    "said_chat": Measure(
        "Says it in the chat", "and neither the old answer nor a third", "share", "Does not say it in the chat"
    ),
    "said_paraphrases": Measure(
        "Says it rephrased", "and neither the old answer nor a third", "share", "Does not say it rephrased"
    ),
    "old_chat": Measure("Old answer still there in the chat", "of the requests asked there", "share"),
    "kl": Measure("Drift of what comes next", "divergence from the base on fixed text, in nats", "number"),
    "fluency": Measure("Fluency", "how varied its text is, against the base", "ratio"),
    "perplexity": Measure("Perplexity", "on fixed text, against the base", "ratio"),
    "retained": Measure("Earlier facts", "a sample of earlier corrections still holds", "share"),
    "retained_said": Measure("Earlier facts still said", "of that sample, those said before the batch", "share"),
}
MISSED = "the new answer is not there, or the old one or a third is beside it"
NEIGHBORS = ("neighbors_preferred", "neighbors_said", "neighbors_changed")


GROUPS = {
    "ability": Measure("Ability", "questions of the test answered rightly", "share"),
    "probes": Measure("Probe", "questions of its kind answered rightly", "share"),
    "quantised": Measure("Said with fewer bits", "corrections that a copy with rounded weights says", "share"),
}
"""Measures of several kinds, which are named ability.NAME."""


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
            label=_measure(check).label,
            hint=_measure(check).hint,
            request_id=check.request_id or "",
            measured=_measured(check) + _needed(check),
            allowed=_allowed(check),
            field=check.field,
            mark=_mark(check),
            reason=check.reason,
        )
        for check in checks
    ]


def _measure(check: Check) -> Measure:
    """How it is called and written; a tripwire counts, whatever a level of the same name does."""
    group, _, name = check.measure.partition(".")
    if name and group in GROUPS:
        found = GROUPS[group]
        return Measure(f"{found.label}: {name}", found.hint, found.form)
    found = MEASURES.get(check.measure, Measure(check.measure.capitalize(), "", "number"))
    if check.kind != "tripwire":
        return found
    return Measure(found.missed, MISSED, "lost") if found.missed else replace(found, form="lost")


def _needed(check: Check) -> str:
    """Where the sample is too small to tell: how large a one would."""
    if _mark(check) != "few":
        return ""
    return "" if check.needs is None else f", about {check.needs:,} would tell"


def headline(report: JobReport) -> tuple[Outcome, str]:
    """The verdict on the whole job and the sentence that says it."""
    marks = [(line.label, line.mark) for line in check_lines(report.checks)]
    asked = [label for label, mark in marks if mark != "none"]
    failed, warned, few = (_labels(marks, mark) for mark in ("fail", "warn", "few"))
    if report.to_version is None:
        return "fail", f"Nothing was kept; the line stays at {report.shown(report.from_version)}."
    if not report.checks:
        return "missing", "This report holds no verdict; judge the numbers yourself."
    if failed:
        return "fail", f"{len(failed)} of {len(asked)} checks failed: {_listed(failed)}."
    neighbors = any(check.measure in NEIGHBORS and check.sample != 0 for check in report.checks)
    unknown = "" if neighbors else " No neighbor was asked: what else changed is not known."
    told = len(asked) - len(few)
    warns = f" Warned: {_listed(warned)}." if warned else ""
    if few:
        hold = f"{told - len(warned)} of {len(asked)} checks hold"
        outcome: Outcome = "unclear" if _waits(report) else "pass"
        person = " A person decides." if outcome == "unclear" else ""
        return outcome, f"{hold}; too few were asked to tell: {_listed(_kinds(few))}.{person}{warns}{unknown}"
    if warned:
        return "pass", f"{told - len(warned)} of {len(asked)} checks hold.{warns}{unknown}"
    return "pass", f"All {len(asked)} checks hold.{unknown}"


def _waits(report: JobReport) -> bool:
    """Whether the policy wants a person for what could not be told; what it only wants told needs none."""
    few = any(_mark(check) == "few" and check.then != "warn" for check in report.checks)
    return few and report.policy.get("too_few", "wait") == "wait"


def _labels(marks: Sequence[tuple[str, Mark]], wanted: Mark) -> list[str]:
    return [label for label, mark in marks if mark == wanted]


def _kinds(labels: Sequence[str]) -> list[str]:
    """Each group once: Neighbors for its three counts."""
    return [*dict.fromkeys(label.partition(":")[0] for label in labels)]


def _listed(labels: Sequence[str]) -> str:
    """Each once, with how often where it is several times: of several requests, say."""
    return ", ".join(label if times == 1 else f"{label} ({times})" for label, times in Counter(labels).items())


def _mark(check: Check) -> Mark:
    if not check.holds:
        return "warn" if check.then == "warn" else "fail"
    if check.sample == 0:
        return "none"
    return "pass" if check.told else "few"


def _measured(check: Check) -> str:
    """What was found: '90.0 % of 10', '3 of 10', '×1.020'."""
    if check.sample == 0 or check.value is None:
        return "–"
    if not math.isfinite(check.value):
        return "not measured" if math.isnan(check.value) else "infinite"
    if _measure(check).form == "lost":
        count = round(check.value)
        return f"{count} of {check.sample}" if count >= 0 else f"none of {check.sample}, {-count} gained"
    of = f" of {check.sample}" if _measure(check).form == "share" and check.sample is not None else ""
    return _plain(check, check.value) + of


def _allowed(check: Check) -> str:
    """What passes: '≥ 90.0 %', 'at most 2', '≤ ×1.100'; of a level '≤ 1.0 %, p 0.31'."""
    form = _measure(check).form
    if check.limit is None or (check.sample == 0 and form == "lost"):
        return ""
    chance = "" if check.p is None else f", p {check.p:.2g}"
    if form == "lost" and check.kind == "level":
        return f"≤ {100 * check.limit / (check.sample or 1):.1f} %{chance}"
    if form == "lost":
        return f"at most {round(check.limit)}"
    return f"{'≤' if _is_most(check) else '≥'} {_plain(check, check.limit)}{chance}"


def _is_most(check: Check) -> bool:
    if check.field.startswith("min_") or check.field.endswith(".min"):
        return False
    return check.field.startswith("max_") or _measure(check).form != "share" or check.measure == "old_chat"


def _plain(check: Check, value: float) -> str:
    form = _measure(check).form
    if form == "ratio" and check.field == "levels.perplexity.max":
        return f"{value:.2f}"
    return f"{100 * value:.1f} %" if form == "share" else f"×{value:.3f}" if form == "ratio" else f"{value:.4g}"
