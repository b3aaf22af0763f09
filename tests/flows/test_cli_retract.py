"""`errata retract`, `approve --except`, `rollback --with-retracted`, `run --only`: what they say and do."""

import json

import pytest

from tasks.ledger.catching_up import version_events
from tasks.ledger.events import Event
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


def test_what_a_reviewer_left_out_comes_into_service_only_where_that_is_taken_back(waiting):
    assert waiting("approve", "main", "--except", "b", "--reason", "no source").code == 0
    says = r"version 1 of line 'main' holds what a reviewer left out: 'b'; errata run main makes .* retract refuse:b@5 "
    for arguments in ((), ("--version", "1")):
        check_one_line(waiting("approve", "main", *arguments), 2, says)
    assert open_workplace().store.head(LINE) is None
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
    assert waiting("approve").code == 0
    now = states(open_workplace())
    assert now == {"a": "promoted", "b": "rejected", "c": "queued", "refuse:b@5": "promoted"}


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


def test_fields_that_nobody_reads_are_named_once_and_misspelled_ones_refused(errata, tmp_path):
    good = {"subject": "A", "prompt": "{} is", "target_new": "x", "comment": "1", "url": "2"}
    rows = [good, good | {"subject": "B"}, {"subject": "C", "prompt": "{} is", "target_nwe": "x"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = errata("submit", tmp_path / "rows.jsonl")
    assert ran.err.count("comment") == 1 and "warning `comment`, `url` not used" in ran.err
    assert "2 queued" in ran.out and "did you mean 'target_new'?" in ran.out
