"""`errata retract`, `approve --except` and the form's `leave_out`, `rollback --with-retracted`, `run --only`."""

import json

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import decide
from flows.review import ReviewForm
from flows.review import decide as decided_in_form
from tasks.ledger.catching_up import version_events
from tasks.ledger.events import Event
from tasks.ledger.removals import removed_by
from tasks.stores.manifest import Version
from tasks.workplace import Workplace, open_workplace
from tests.flows.command import check_one_line, single

LINE = "main"


def made(number: int, parent: Version | None, requests: tuple[str, ...], **more: object) -> Version:
    import torch

    from tasks.stores.manifest import Manifest

    place = open_workplace()
    head = place.store.head(LINE)
    fields = {"line": LINE, "version": number, "base": "base", "base_digest": "b" * 64, "config": {}, "batch": number}
    fields |= {"based_on": head.sequence if head else 0, "tensor_digests": {}, "request_ids": requests}
    version = place.store.publish(
        Manifest.model_validate(fields | {"parent": parent.snapshot if parent else None} | more), {"w": torch.zeros(1)}
    )
    place.ledger.append_possible(version_events(version, "job"))
    return version


def states(place: Workplace) -> dict[str, str]:
    return {name: one.state for name, one in place.ledger.states(LINE).items()}


@pytest.fixture
def waiting(errata):
    """The command line on a line with a version of `a` and `b` that waits, and `c` in the queue."""
    for name in "abc":
        assert errata(*single(name.upper()), "--id", name, "--ticket", f"T-{name}").code == 0
    made(1, None, ("a", "b"))
    return errata


def test_what_is_queued_is_withdrawn_and_what_a_version_holds_is_to_be_taken_out(waiting, tmp_path):
    (tmp_path / "ids.txt").write_text("\na\n")
    (tmp_path / "ids.jsonl").write_text(json.dumps({"id": "c", "subject": "C", "prompt": "{} is", "target_new": "x"}))
    said = waiting("retract", "c", "--file", tmp_path / "ids.txt", "--reason", "[red]old[/red]")
    assert said.code == 0 and "c: withdrawn" in said.out and "a: to be taken out, by request retract:a@5" in said.out
    assert states(open_workplace()) == {"a": "committed", "b": "committed", "c": "withdrawn", "retract:a@5": "queued"}
    history = waiting("history", "a", "--json").json
    assert [one["event"] for one in history][-2:] == ["received", "queued"] and history[-1][
        "reason"
    ] == "[red]old[/red]"
    again = waiting("retract", "-f", tmp_path / "ids.jsonl", "--reason", "x")
    assert again.code == 2 and "request 'c' is withdrawn" in again.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("retract", "--reason", "x"), "name the requests"),
        (("retract", "a"), "a retraction needs a reason"),
        (("retract", "a", "--reason", "x", "--line", "nowhere"), "there is no line 'nowhere'"),
        (("ask", "x", "--line", "nowhere"), "there is no line 'nowhere'"),
        (("review", "nowhere"), "there is no line 'nowhere'"),
        (("history", "--line", "nowhere"), "there is no line 'nowhere'"),
        (("history", "a", "--line", "nowhere"), "there is no line 'nowhere'"),
        (("approve", "main", "--except", "c"), "request 'c' is in no version that waits .* it is queued"),
        (
            ("submit", "--subject", "A", "--prompt", "{} is", "--target", "x", "--expires", "2020-01-01"),
            "that is over",
        ),
        (
            ("submit", "--subject", "A", "--prompt", "{} is", "--target", "x", "--priority", "asap"),
            "'urgent', 'normal'",
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_changes_nothing(waiting, arguments, says):
    before = len(open_workplace().ledger.history())
    check_one_line(waiting(*arguments), 2, says)
    assert len(open_workplace().ledger.history()) == before


def test_each_that_cannot_be_taken_out_has_its_line_and_nothing_is_changed(waiting):
    before = len(open_workplace().ledger.history())
    ran = waiting("retract", "none", "a", "gone", "--reason", "x")
    assert ran.code == 2 and ran.err.count("\n") == 3 and ran.err.rstrip().endswith("nothing was changed")
    assert "knows no request 'none'" in ran.err and "knows no request 'gone'" in ran.err
    assert len(open_workplace().ledger.history()) == before


@pytest.mark.slow
def test_what_a_reviewer_left_out_comes_into_service_only_where_that_is_taken_back(waiting):
    assert waiting("approve", "main", "--except", "b", "--reason", "no source").code == 0
    says = r"version 1 of line 'main' holds what a reviewer left out: 'b'; errata run main makes .* retract refuse:b@5 "
    for arguments in ((), ("--version", "1")):
        check_one_line(waiting("approve", "main", *arguments), 2, says)
    assert open_workplace().store.head(LINE) is None
    shown = " ".join(waiting("review").out.split())
    assert "to be left out: 'b'; errata run main makes the version without" in shown and "errata approve" not in shown
    refused = waiting("approve", "main", "--except", "none", "--except", "c")
    assert refused.code == 2 and refused.err.count("\n") == 3 and "nothing was changed" in refused.err
    assert waiting("retract", "refuse:b@5", "--reason", "it has one").code == 0
    assert waiting("approve", "main").code == 0
    assert states(open_workplace()) == {"a": "promoted", "b": "promoted", "c": "queued", "refuse:b@5": "withdrawn"}


def test_a_fact_that_is_left_out_leaves_with_the_next_version_and_nothing_is_in_service_yet(waiting):
    said = waiting("approve", "main", "--except", "b", "--reason", "no source")
    assert (
        said.code == 0 and "b: to be taken out, by request refuse:b@5" in said.out and "nothing came into" in said.out
    )
    place = open_workplace()
    assert place.store.head(LINE) is None and states(place)["refuse:b@5"] == "queued"
    first = place.store.version(LINE, 1)
    leaving = {"live": ("a",), "after": first.snapshot, "removals": {"refuse:b@5": "b"}, "removed": ("b",)}
    made(2, None, ("refuse:b@5",), **leaving)
    shown = waiting("review").out
    assert "taken out" in shown and "ticket: T-a" in shown and "no source" in shown
    says = "request 'b' is taken out already by version 2, which waits for review: decide on that"
    refused = waiting("retract", "b", "--reason", "x")
    assert refused.code == 2 and says in refused.err
    assert waiting("approve").code == 0
    now = states(open_workplace())
    assert now == {"a": "promoted", "b": "rejected", "c": "queued", "refuse:b@5": "promoted"}


@pytest.mark.slow
def test_who_leaves_something_out_of_a_version_names_one_that_waits(waiting):
    before = len(open_workplace().ledger.history())
    for version, names in (("99", ("b",)), ("2", ("a", "b"))):
        asked = [part for name in names for part in ("--except", name)]
        ran = waiting("approve", LINE, "--version", version, *asked)
        check_one_line(ran, 2, f"version {version} of line 'main' does not wait for review; 1 do")
    assert len(open_workplace().ledger.history()) == before
    assert waiting("approve", LINE, "--version", "1", "--except", "b").code == 0
    assert waiting("reject", LINE, "--reason", "wrong").code == 0
    check_one_line(waiting("approve", LINE, "--version", "1", "--except", "a"), 2, "version 1 .* was rejected by")
    check_one_line(waiting("approve", LINE, "--except", "a"), 2, "nothing waits for review on line 'main'")


def test_a_run_of_approve_leaves_out_what_its_form_names(waiting, prefect_server):
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        state = decide.approve(LINE, reviewer="Ada", version=99, leave_out=["b"], return_state=True)
        assert state.is_failed() and "version 99 of line 'main' does not wait for review" in state.message
        state = decide.approve(LINE, reviewer="Ada", version=1, leave_out=["b"], return_state=True)
    assert state.message == "b: to be taken out, by request refuse:b@5"
    removal = open_workplace().ledger.states(LINE)["refuse:b@5"]
    assert (removal.state, removal.actor, removal.reason) == ("queued", "Ada", "left out by a reviewer")


def filled_in(version: int = 1, **fields: str) -> tuple[str, str]:
    """What the form says to what a person fills in: what came of it, or why it is asked again."""
    answer = ReviewForm.model_validate({"decision": "approve", "reviewer": "Ada", **fields})
    return decided_in_form(open_workplace(), LINE, version, answer.model_dump())


def test_the_form_leaves_out_by_ids_and_nothing_is_in_service_yet(waiting):
    said, refused = filled_in(leave_out=" b ,a", comment="no source")
    assert said.startswith("nothing came into service yet") and not refused
    assert "b: to be taken out, by request refuse:b@5; a: to be taken out, by request refuse:a@5" in said
    place = open_workplace()
    removal = place.ledger.states(LINE)["refuse:b@5"]
    assert (removal.state, removal.actor, removal.reason) == ("queued", "Ada", "no source")
    assert place.store.head(LINE) is None and states(place)["refuse:a@5"] == "queued"


@pytest.mark.slow
def test_a_form_whose_ids_cannot_be_left_out_is_asked_once_more_and_changes_nothing(waiting):
    before = len(open_workplace().ledger.history())
    for fields, why in (
        ({"leave_out": "b, d"}, "line 'main' knows no request 'd'"),
        ({"leave_out": "c"}, "request 'c' is in no version that waits"),
        ({"leave_out": "b", "version": 7}, "version 7 of line 'main' does not wait for review; 1 do"),
        ({"leave_out": "b", "decision": "reject", "comment": "wrong"}, "'b' can be left out of an approval alone"),
    ):
        said, refused = filled_in(**fields)
        assert not said and why in refused
    assert len(open_workplace().ledger.history()) == before and open_workplace().store.head(LINE) is None
    assert waiting("approve").code == 0
    said, refused = filled_in(leave_out="b")
    assert said.startswith("not carried out: version 1 of line 'main' was approved by") and not refused


def test_the_form_takes_ids_that_hold_commas_or_spaces_and_line_breaks_between_ids(errata):
    names = ["a", "Rome, Italy", "x,y", "two  spaces", "kept"]
    for name in names:
        assert errata(*single(name), "--id", name).code == 0
    made(1, None, tuple(names))
    said, _ = filled_in(leave_out="Rome, Italy,a\nx,y, two spaces\n")
    assert said.count("to be taken out") == 4
    queued = {name for name, state in states(open_workplace()).items() if state == "queued"}
    assert queued == {f"refuse:{name}@5" for name in names[:-1]}


def test_who_goes_back_to_what_was_taken_out_is_told_and_says_so(waiting):
    assert waiting("approve").code == 0
    first = open_workplace().store.version(LINE, 1)
    open_workplace().ledger.append(
        [Event(request_id="retract:b@7", event=what, line=LINE, actor="ann") for what in ("received", "queued")]
    )
    leaving = {"live": ("a",), "after": first.snapshot, "removals": {"retract:b@7": "b"}, "removed": ("b",)}
    made(2, None, ("retract:b@7",), **leaving)
    assert waiting("approve").code == 0 and states(open_workplace())["b"] == "retracted"
    check_one_line(waiting("rollback", "main", "--to", "1"), 2, r"'b' \(retracted\); --with-retracted serves it again")
    assert waiting("rollback", "main", "--to", "1", "--with-retracted").code == 0
    assert states(open_workplace()) == {"a": "promoted", "b": "promoted", "c": "queued", "retract:b@7": "rolled_back"}


@pytest.fixture
def taken_out(waiting):
    """The same with version 1 in service before, and version 2, which is made without `a` and `b`, in service now."""
    assert waiting("approve").code == 0
    first = open_workplace().store.version(LINE, 1)
    assert waiting("retract", "a", "b", "--reason", "wrong").code == 0
    removals = {"retract:a@7": "a", "retract:b@7": "b"}
    made(2, None, tuple(removals), live=(), after=first.snapshot, removals=removals, removed=("a", "b"))
    assert waiting("approve").code == 0
    return waiting


@pytest.mark.slow
def test_who_goes_back_without_what_was_taken_out_has_it_taken_out_again_by_the_next_job(taken_out):
    before = states(open_workplace())
    assert (before["a"], before["b"]) == ("retracted", "retracted")
    back = ("rollback", LINE, "--to", "1")
    check_one_line(taken_out(*back), 2, "--without-retracted has the next job take it out again")
    check_one_line(taken_out(*back, "--without-retracted"), 2, "a retraction needs a reason")
    both = ("--with-retracted", "--without-retracted", "--reason", "x")
    check_one_line(taken_out(*back, *both), 2, "with_retracted and without_retracted contradict each other")
    assert states(open_workplace()) == before and open_workplace().store.head(LINE).version == 2
    ran = taken_out(*back, "--without-retracted", "--reason", "version 2 is worse")
    assert ran.code == 0 and "in service: version 1" in ran.out and f"next: errata run {LINE}" in ran.out
    place = open_workplace()
    removals = {name: one for name, one in place.ledger.states(LINE).items() if one.state == "queued" and name != "c"}
    assert {removed_by(one.payload) for one in removals.values()} == {"a", "b"}
    assert {one.reason for one in removals.values()} == {"version 2 is worse"}
    assert all(f"a: to be taken out, by request {n}" in ran.out for n in removals if ":a@" in n)
    assert (states(place)["a"], place.store.head(LINE).version) == ("promoted", 1)


@pytest.mark.slow
def test_killed_before_head_moved_the_same_again_goes_back_and_queues_each_removal_once(taken_out, monkeypatch):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tasks.stores.snapshots.SnapshotStore.move_head", killed)
        back = ("rollback", LINE, "--to", "1", "--without-retracted", "--reason", "worse", "--json")
        assert taken_out(*back).code == 130
    assert open_workplace().store.head(LINE).version == 2
    done = taken_out(*back).json
    queued = {name for name, state in states(open_workplace()).items() if state == "queued" and name != "c"}
    assert done["in_service"] == 1 and {*done["queued"].values()} == queued and len(queued) == 2


@pytest.mark.slow
def test_who_goes_back_to_what_was_forgotten_is_refused_and_nothing_is_queued(taken_out):
    assert taken_out("forget", "a", "--line", LINE, "--reason", "asked").code == 0
    before = states(open_workplace())
    ran = taken_out("rollback", LINE, "--to", "1", "--without-retracted", "--reason", "worse")
    check_one_line(ran, 1, "version 1 of line 'main' held what .* and can be served no more")
    assert states(open_workplace()) == before


def test_a_run_of_rollback_takes_out_again_what_its_form_says(taken_out, prefect_server):
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        state = decide.rollback(LINE, "Ada", to=1, reason="worse", without_retracted=True, return_state=True)
    assert state.message == "back to version 1 of line main; in service: version 1"
    removals = [one for one in open_workplace().ledger.states(LINE).values() if removed_by(one.payload)]
    assert sorted((one.state, one.actor) for one in removals) == [("queued", "Ada")] * 2 + [("rolled_back", "Ada")] * 2


def test_fields_that_nobody_reads_are_named_once_and_misspelled_ones_refused(errata, tmp_path):
    good = {"subject": "A", "prompt": "{} is", "target_new": "x", "comment": "1", "url": "2"}
    rows = [good, good | {"subject": "B"}, {"subject": "C", "prompt": "{} is", "target_nwe": "x"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = errata("submit", tmp_path / "rows.jsonl")
    assert ran.err.count("comment") == 1 and "warning `comment`, `url` not used" in ran.err
    assert "2 queued" in ran.out and "did you mean 'target_new'?" in ran.out


def test_who_submits_again_what_is_to_leave_is_told_how_it_stays(waiting, tmp_path):
    assert waiting("retract", "a", "--reason", "x").code == 0
    [payload] = open_workplace().ledger.payloads(LINE, ["a"]).values()
    file = tmp_path / "again.jsonl"
    file.write_text(json.dumps(payload) + "\n")
    ran = waiting("submit", str(file))
    says = "a: is there, and to be taken out by request 'retract:a@5': errata retract retract:a@5 keeps it"
    assert "1 already there" in ran.out and says in " ".join(ran.out.split())
    assert waiting("retract", "retract:a@5", "--reason", "it stays").code == 0
    assert "to be taken out" not in waiting("submit", str(file)).out
