"""One judge: whatever was measured, the job's decision is what page, summary and command line say."""

import io
import math
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from flows.cli import console, jobs
from tasks.report.data import Check
from tasks.report.render import MARKS, render_html, render_markdown
from tasks.report.verdict import check_lines, headline
from tasks.update.judge import Lost, Measured, allowed_losses, judge
from tasks.update.policy import Policy
from tasks.update.verdicts import Verdict
from tests.tasks.test_report import make_report

NUMBERS = st.floats(0, 2) | st.sampled_from([math.nan, math.inf])
SHARES = st.floats(0, 1, allow_nan=False)
METRICS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("efficacy_prob", "fluency_ratio", "perplexity_ratio", "retained_efficacy_prob"), NUMBERS),
)


@st.composite
def losses(draw: st.DrawFn) -> Lost:
    probes, answers, unanswered = (draw(st.integers(0, 12)) for _ in range(3))
    return Lost(
        draw(st.integers(-probes, probes)),
        probes,
        draw(st.integers(-answers, answers)),
        answers,
        draw(st.integers(0, unanswered)),
        unanswered,
    )


MEASURED = st.builds(
    Measured,
    METRICS,
    st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), losses(), max_size=4),
    st.fixed_dictionaries({name: st.integers(0, 20) for name in ("efficacy", "fluency", "retained")}),
)
POLICIES = st.builds(
    Policy,
    min_efficacy=SHARES,
    max_locality_drop=SHARES,
    max_edit_locality_drop=SHARES,
    min_fluency_ratio=st.floats(0, 2),
    max_perplexity_ratio=st.floats(1, 2),
    min_retained=SHARES,
)


def printed(report) -> str:
    """What the command line shows of a report."""
    shown, kept = io.StringIO(), console.console
    console.console = Console(file=shown, width=300)
    try:
        jobs.show_report(report)
    finally:
        console.console = kept
    return shown.getvalue()


@settings(max_examples=15, deadline=None)
@given(MEASURED, POLICIES)
def test_whatever_was_measured_the_job_and_every_page_give_one_verdict(measured, policy):
    checks = judge(measured, policy)
    passed = Verdict({}, {}, checks).passed
    report = make_report(edits=1, checks=checks, batches=[], drift=[])
    lines = check_lines(checks)
    assert (headline(report)[0] == "pass") == passed == all(line.mark != "fail" for line in lines)
    page, summary, terminal = render_html(report), render_markdown(report), printed(report)
    assert (re.search(r'class="verdict (\w+)"', page)[1] == "pass") == passed
    for mark in ("pass", "fail", "none"):
        count = sum(line.mark == mark for line in lines)
        assert page.count(f'<span class="mark {mark}">') == count
        assert summary.count(f"| {MARKS[mark]} |") == count == terminal.count(MARKS[mark])


@given(MEASURED, POLICIES)
def test_a_row_that_does_not_hold_says_why_in_one_line_and_one_that_holds_says_nothing(measured, policy):
    for check in judge(measured, policy):
        assert bool(check.reason) != check.holds and (check.holds or check.field in check.reason)
        assert Check.model_validate_json(check.model_dump_json()).holds == check.holds


@given(MEASURED, POLICIES)
def test_every_threshold_of_the_policy_has_a_row_and_no_request_hides_behind_another(measured, policy):
    checks = judge(measured, policy)
    asked = any(count for lost in measured.lost.values() for _, _, count, _ in lost.counts())
    missing = set(policy.as_thresholds()) - {check.field for check in checks}
    assert missing == (set() if asked else {"max_edit_locality_drop"})
    failing = {check.request_id for check in checks if check.request_id is not None and not check.holds}
    assert failing == {name for name, lost in measured.lost.items() if lost.exceeds(policy.max_edit_locality_drop)}


@given(st.integers(0, 1000), st.integers(0, 100))
def test_a_share_allows_as_many_losses_as_it_says(asked, percent):
    assert allowed_losses(percent / 100, asked) == max(1, percent * asked // 100)


def test_a_verdict_without_a_row_does_not_pass():
    assert not Verdict({}, {}, ()).passed
