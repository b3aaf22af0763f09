"""One judge: whatever was measured, the job's decision is what page, summary and command line say."""

import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from editing.measure.answers import Answer
from editing.measure.said import Said
from flows.cli import console, jobs
from tasks.report.data import Check
from tasks.report.render import MARKS, render_html, render_markdown
from tasks.report.verdict import check_lines, headline
from tasks.update.gates import Level, Levels, Tripwire, Tripwires
from tasks.update.judge import Lost, Measured, allowed_losses, judge
from tasks.update.policy import Policy, make_policy
from tasks.update.verdicts import Verdict
from tests.tasks.test_report import make_report

NUMBERS = st.floats(0, 2) | st.sampled_from([math.nan, math.inf])
SHARES = st.floats(0, 1, allow_nan=False)
IN_IDS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
"""What the id of a request may hold."""
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


@st.composite
def said(draw: st.DrawFn) -> Said:
    answers = [Answer(draw(st.text(max_size=9)), *(draw(st.booleans()) for _ in range(3))) for _ in range(3)]
    return Said("e", answers[0], tuple(answers[1 : draw(st.integers(1, 2))]), draw(st.sampled_from([None, answers[2]])))


THEN = st.sampled_from(["stop", "warn"])
LEVELS = st.builds(
    Levels,
    neighbors=st.none() | st.builds(Level, then=THEN, worse_than_base=SHARES),
    neighbors_said=st.none() | st.builds(Level, then=THEN, worse_than_base=SHARES),
    said=st.none() | st.builds(Level, when=st.just("both"), then=THEN, min=SHARES, worse_than_base=st.none() | SHARES),
    old_chat=st.none() | st.builds(Level, then=THEN, max=SHARES),
    kl=st.none() | st.builds(Level, then=THEN, max=SHARES),
)
TRIPWIRES = st.builds(
    Tripwires,
    said=st.none() | st.builds(Tripwire, then=THEN),
    neighbors=st.none() | st.builds(Tripwire, then=THEN, most=st.integers(0, 4)),
)
MEASURED = st.builds(
    Measured,
    METRICS,
    st.dictionaries(st.text(IN_IDS, min_size=1, max_size=5), losses(), max_size=4),
    st.fixed_dictionaries({name: st.integers(0, 20) for name in ("efficacy", "fluency", "retained")}),
    said=st.dictionaries(st.text("abc", min_size=1, max_size=2), said(), max_size=3),
)
POLICIES = st.builds(
    Policy,
    min_efficacy=SHARES,
    max_locality_drop=SHARES,
    max_edit_locality_drop=SHARES,
    min_fluency_ratio=st.floats(0, 2),
    max_perplexity_ratio=st.floats(1, 2),
    min_retained=SHARES,
    too_few=st.sampled_from(["wait", "warn"]),
    tripwires=TRIPWIRES,
    levels=LEVELS,
)
AT = st.sampled_from(["batch", "job"])


def printed(report) -> str:
    """What the command line shows of a report."""
    shown, kept = io.StringIO(), console.console
    console.console = Console(file=shown, width=300)
    try:
        jobs.show_report(report)
    finally:
        console.console = kept
    return shown.getvalue()


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(MEASURED, POLICIES, AT)
def test_whatever_was_measured_the_job_and_every_page_give_one_verdict(measured, policy, at):
    checks = judge(measured, policy, at=at)
    passed = Verdict({}, {}, checks).passed
    report = make_report(edits=1, checks=checks, batches=[], drift=[], policy=policy.model_dump(mode="json"))
    lines = check_lines(checks)
    few = policy.too_few == "wait" and any(not check.told and check.then != "warn" for check in checks)
    assert headline(report)[0] == ("unclear" if few else "pass" if passed else "fail") or not passed
    assert passed == (headline(report)[0] != "fail") == all(line.mark != "fail" for line in lines)
    page, summary, terminal = render_html(report), render_markdown(report), printed(report)
    assert re.search(r'class="verdict (\w+)"', page)[1] == headline(report)[0]
    for mark in ("pass", "fail", "warn", "few", "none"):
        count = sum(line.mark == mark for line in lines)
        assert page.count(f'<span class="mark {mark}">{MARKS[mark]}</span>') == count
        assert summary.count(f"| {MARKS[mark]} |") == count == terminal.count(MARKS[mark])


@settings(max_examples=40, deadline=None)
@given(MEASURED, POLICIES, AT)
def test_a_row_that_does_not_hold_says_why_in_one_line_and_one_that_holds_says_nothing(measured, policy, at):
    for check in judge(measured, policy, at=at):
        assert bool(check.reason) != check.holds and "\n" not in check.reason
        assert check.holds or check.kind == "tripwire" or check.field in check.reason
        assert check.told or (check.holds and check.kind == "level")
        assert Check.model_validate_json(check.model_dump_json()).holds == check.holds


@given(MEASURED, POLICIES)
def test_every_threshold_of_the_policy_has_a_row_and_no_request_hides_behind_another(measured, policy):
    checks = judge(measured, policy)
    asked = any(count for lost in measured.lost.values() for _, _, count, _ in lost.counts())
    missing = set(policy.as_thresholds()) - {check.field for check in checks}
    assert missing == (set() if asked else {"max_edit_locality_drop"})
    own = [check for check in checks if check.field == "max_edit_locality_drop"]
    failing = {check.request_id for check in own if not check.holds}
    assert failing == {name for name, lost in measured.lost.items() if lost.exceeds(policy.max_edit_locality_drop)}


@given(st.integers(0, 1000), st.integers(0, 100))
def test_a_share_allows_as_many_losses_as_it_says(asked, percent):
    assert allowed_losses(percent / 100, asked) == max(1, percent * asked // 100)


@pytest.mark.parametrize(
    ("given", "field", "holds", "summed"),
    [
        ({}, "levels.neighbors_said.worse_than_base", True, False),
        ({"levels": {"neighbors": {"worse_than_base": 0.01}}}, "levels.neighbors.worse_than_base", False, True),
        ({"max_locality_drop": 0.01}, "max_locality_drop", False, True),
        (
            {"max_locality_drop": 0.01, "levels": {"neighbors_said": {"worse_than_base": 0.2}}},
            "levels.neighbors_said.worse_than_base",
            True,
            False,
        ),
    ],
)
def test_what_is_still_said_of_neighbors_has_its_own_limit_unless_the_policy_gives_one_for_all(
    given, field, holds, summed
):
    lost = {str(i): Lost(0, 4, int(i % 2 == 0), 4) for i in range(20)}  # an eighth of what was said, all preferred
    measured = Measured({"efficacy_prob": 1.0}, lost, {"efficacy": 20})
    rows = [row for row in judge(measured, make_policy(**given), at="job") if row.kind == "level"]
    [said] = [row for row in rows if row.measure == "neighbors_said"]
    assert (said.field, said.holds, said.value) == (field, holds, 10)
    assert any(row.measure == "neighbors_preferred" for row in rows)
    assert any(row.measure == "neighbors_together" for row in rows) == summed


def test_a_verdict_without_a_row_does_not_pass():
    assert not Verdict({}, {}, ()).passed


@pytest.mark.parametrize("name", Tripwires.model_fields)
def test_what_is_counted_is_what_a_row_is_called_by(name):
    """A row that counts what is wrong is not called by what is right: '1 of 1' beside 'Says it' reads as praise."""
    measure = {"neighbors": "neighbors_lost"}.get(name, name)
    fields = {"measure": measure, "holds": False, "value": 1, "sample": 1, "limit": 0, "field": f"tripwires.{name}"}
    level = {"measure": measure, "holds": True, "value": 1.0, "sample": 1, "limit": 0.9, "field": f"levels.{name}.min"}
    counted, shared = check_lines([Check(**fields, kind="tripwire"), Check(**level, kind="level")])
    assert counted.measured == "1 of 1" and counted.allowed == "at most 0"
    more_is_better = shared.allowed.startswith("≥") and name != "old_chat"
    assert (counted.label != shared.label and counted.label.startswith("Does not say")) == more_is_better
