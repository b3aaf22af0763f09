"""Facts that change, from end to end on a small model: replaced, retracted, left out, written back."""

import pytest

from editing.errors import UsageError
from editing.request import Request
from flows.knowledge_update import knowledge_update
from tasks.audit.auditing import audit
from tasks.ledger import intake
from tasks.ledger.removals import take_out
from tasks.ledger.reserved import REFUSE
from tasks.ledger.view import look
from tasks.progress import listening
from tasks.review import decisions
from tasks.update.journal import JobSummary
from tests.flows.conftest import POLICY
from tests.heard import Heard

pytestmark = pytest.mark.slow


def submit(workplace, line, *edits) -> list[str]:
    return intake.submit(workplace.ledger, line, edits, "ann").queued


def serving(place, line, *edits):
    """A new line with these facts in service."""
    workplace = place(line)
    submit(workplace, line, *edits)
    knowledge_update(line, POLICY)
    decisions.approve(workplace, line)
    return workplace


def states(workplace, line) -> dict[str, str]:
    return {name: one.state for name, one in workplace.ledger.states(line).items()}


def live(workplace, line) -> set[str]:
    """The facts in service, of a line that is whole and agrees with itself."""
    assert audit(workplace, line, mlflow=False).faults == []
    return {*look(workplace.store, workplace.ledger, line).live}


def test_a_fact_is_replaced_taken_out_comes_back_with_an_older_version_and_leaves_it_again(place, good_edits):
    line, (first, second, third, fourth) = "changing", good_edits[:4]
    workplace = serving(place, line, first, second, third)
    told = {"subject": first.subject, "prompt": first.prompt, "target_new": first.target_true}  # that it can say
    new = Request(id="new", ticket="GEO-1", **told)
    submit(workplace, line, new, fourth)
    summary = knowledge_update(line, POLICY)
    assert states(workplace, line)["new"] == "committed", summary.report
    row = {edit.request_id: edit for edit in summary.report.edits}["new"]
    assert row.replaces == (f"{first.id} ({first.target_new})",) and "ticket: GEO-1" in row.told
    assert [(one.request_id, one.what, one.by) for one in summary.report.gone] == [(first.id, "replaced", "new")]
    decisions.approve(workplace, line)
    assert live(workplace, line) == {second.id, third.id, fourth.id, "new"}
    assert states(workplace, line)[first.id] == "superseded"
    done = take_out(workplace.store, workplace.ledger, line, [second.id], "ann", "it was wrong")
    summary = knowledge_update(line, POLICY)
    [left] = summary.report.gone
    assert (left.what, left.reason) == ("retracted", "it was wrong") and left.asked == second.text
    assert left.base_says and left.now_says and "it was wrong" in left.sentence
    assert summary.said.startswith("0 kept, 0 quarantined, 0 rejected, 1 taken out; version ")
    decisions.approve(workplace, line)
    assert live(workplace, line) == {third.id, fourth.id, "new"}
    assert states(workplace, line)[second.id] == "retracted"
    assert states(workplace, line)[done.queued[second.id]] == "promoted"
    with pytest.raises(UsageError, match=f"'{first.id}' .superseded., '{second.id}' .retracted.; --with-retracted"):
        decisions.roll_back(workplace, line, 1)
    back = decisions.roll_back(workplace, line, 1, "worse since", without_retracted=True)
    assert live(workplace, line) == {first.id, second.id, third.id} and {*back.queued} == {first.id, second.id}
    now = states(workplace, line)
    assert {now[name] for name in ("new", fourth.id, done.queued[second.id])} == {"rolled_back"}
    summary = knowledge_update(line, POLICY)
    assert {(one.request_id, one.what, one.reason) for one in summary.report.gone} == {
        (name, "retracted", "worse since") for name in back.queued
    }
    decisions.approve(workplace, line)
    assert live(workplace, line) == {third.id} and states(workplace, line)[first.id] == "retracted"


def test_a_reviewer_leaves_one_fact_out_and_the_rest_is_not_lost(place, good_edits):
    workplace, line = place("refusing"), "refusing"
    submit(workplace, line, *good_edits[:3])
    knowledge_update(line, POLICY)
    kept = {edit.id for edit in good_edits[1:3]}
    take_out(workplace.store, workplace.ledger, line, [good_edits[0].id], "eve", "no source", prefix=REFUSE)
    summary = knowledge_update(line, POLICY)
    assert [one.what for one in summary.report.gone] == ["left out"]
    decisions.approve(workplace, line)
    now = states(workplace, line)
    assert live(workplace, line) == kept and now[good_edits[0].id] == "rejected"
    assert look(workplace.store, workplace.ledger, line).waiting == []


def test_a_fact_whose_replacement_is_not_kept_is_written_back(place, good_edits):
    line, (first, second) = "kept", good_edits[:2]
    workplace = serving(place, line, first, second)
    submit(workplace, line, Request(id="bad", subject=first.subject, prompt=first.prompt, target_new="zq xj vv kw"))
    summary = knowledge_update(line, POLICY)
    now = states(workplace, line)
    assert now["bad"] == "quarantined" and now[first.id] == "promoted"
    assert [edit.replaces for edit in summary.report.edits if edit.request_id == "bad"] == [()]  # it replaced nothing
    assert [one.what for one in summary.report.gone] == ["replaced", "written back"]
    with pytest.raises(UsageError, match=f"version 2 .* takes out '{first.id}' and lacks 'bad'"):
        decisions.approve(workplace, line, 2)
    decisions.approve(workplace, line)
    assert live(workplace, line) == {first.id, second.id} and states(workplace, line)[first.id] == "promoted"


def test_a_fact_whose_replacement_is_taken_back_is_replaced_by_the_next_that_asks_the_same(place, good_edits):
    line, (first, second) = "again", good_edits[:2]
    workplace = serving(place, line, first, second)
    asked = {"subject": first.subject, "prompt": first.prompt}
    submit(workplace, line, Request(id="new", target_new=first.target_true, **asked))
    knowledge_update(line, POLICY)
    assert states(workplace, line)["new"] == "committed"
    take_out(workplace.store, workplace.ledger, line, ["new"], "ann", "it was wrong")
    submit(workplace, line, Request(id="newer", target_new=f"{first.target_true}.", **asked))
    summary = knowledge_update(line, POLICY.model_copy(update={"min_efficacy": 0.0}))
    assert states(workplace, line)["newer"] == "committed", summary.report
    assert [(one.request_id, one.what) for one in summary.report.gone] == [("new", "retracted"), (first.id, "replaced")]
    again = knowledge_update(line, POLICY)
    assert again.report is None  # nothing is to be written back
    decisions.approve(workplace, line)
    assert live(workplace, line) == {second.id, "newer"} and states(workplace, line)[first.id] == "superseded"


def test_a_fact_and_what_waits_to_replace_it_are_taken_out_together(place, good_edits):
    line, (first, second, third) = "both", good_edits[:3]
    workplace = serving(place, line, first, second, third)
    asked = {"subject": first.subject, "prompt": first.prompt}
    submit(workplace, line, Request(id="new", target_new=first.target_true, **asked))
    knowledge_update(line, POLICY)
    take_out(workplace.store, workplace.ledger, line, [first.id], "ann", "neither is right")
    assert [*knowledge_update(line, POLICY).left.values()] == [
        f"request '{first.id}' leaves with what waits for review, for 'new': decide on that"
    ]
    take_out(workplace.store, workplace.ledger, line, ["new"], "ann", "neither is right")
    summary = knowledge_update(line, POLICY)
    assert {(one.request_id, one.what) for one in summary.report.gone} == {
        ("new", "retracted"),
        (first.id, "retracted"),
    }
    decisions.approve(workplace, line)
    assert live(workplace, line) == {second.id, third.id}
    for one in (second, third):
        take_out(workplace.store, workplace.ledger, line, [one.id], "ann", "nor these")
        knowledge_update(line, POLICY)
    decisions.approve(workplace, line)
    now = states(workplace, line)
    assert not live(workplace, line) and {now[name] for name in (first.id, second.id, third.id, "new")} == {"retracted"}
    events = [one.event for name in now for one in workplace.ledger.history(name, line=line)]
    assert "rolled_back" not in events  # the removal of a root on which another stands


def test_a_job_that_may_write_nothing_yet_says_how_much_is_left_and_until_when(place, good_edits):
    workplace, line, heard = place("later"), "later", Heard()

    def run() -> JobSummary:
        heard.notes.clear()
        with listening(heard):
            return knowledge_update(line, POLICY)

    assert run().left == {} and heard.texts == ["nothing is queued"]
    submit(workplace, line, good_edits[0])
    assert run().kept == 1
    other = good_edits[0].model_copy(update={"id": "other", "target_new": "Rome"})
    submit(workplace, line, other)
    waits = "1 request is left until what waits for review is decided"
    assert "which waits for review" in run().left["other"] and heard.texts[-1] == f"nothing to write now: {waits}"
    for edit, year in zip(good_edits[1:3], (2099, 2098), strict=True):
        submit(workplace, line, Request(**edit.model_dump(), not_before=f"{year}-01-01"))
    summary = run()
    early = "3 requests are left, the earliest until 2098-01-01 00:00 UTC, 1 until what waits for review is decided"
    assert heard.texts[-1] == f"nothing to write now: {early}"
    assert {*summary.left} == {"other", good_edits[1].id, good_edits[2].id}
    assert summary.left[good_edits[1].id] == "not before 2099-01-01 00:00 UTC"
    assert "3 left in the queue" in summary.said
