"""`errata rules`, `freeze` and `unfreeze`: shown, changed, and refused in one line."""

import pytest

from tests.flows.command import check_one_line, single


@pytest.fixture
def known(errata):
    """The command line on a home with the line `main`."""
    assert errata(*single()).code == 0
    return errata


def test_rules_are_shown_and_changed(known):
    assert known("rules", "--json").json == {
        "line": "main",
        "expires_after_hours": 168.0,
        "reviewers": 1,
        "queues_for": [],
        "auto_approve": None,
        "frozen": "",
        "thawed": None,
    }
    changed = known("rules", "main", "-s", "expires_after_hours=null", "-s", "auto_approve.max_facts=3", "--json").json
    assert changed["expires_after_hours"] is None and changed["auto_approve"]["max_facts"] == 3
    shown = known("rules").out
    assert "never" in shown and "auto_approve.max_facts" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rules", "nowhere"), "there is no line 'nowhere'; lines are main"),
        (("freeze", "nowhere", "--reason", "x"), "there is no line 'nowhere'"),
        (("rules", "--set", "colour=red"), "rule 'colour' is unknown; rules are expires_after_hours, reviewers"),
        (("rules", "--set", "reviewers=3"), "rule reviewers = 3: input should be 1 or 2"),
        (("rules", "--set", "auto_approve.luck=1"), "rule auto_approve.luck = 1: .*; fields are max_facts"),
        (("rules", "--set", "reviewers"), "must read NAME=VALUE"),
        (
            ("rules", "--set", "reviewers=2"),
            "reviewers = 2 needs an MLflow server that asks for a password: a database",
        ),
        (("freeze",), "to freeze a line needs a reason"),
    ],
)
def test_what_cannot_be_is_one_line(known, arguments, says):
    check_one_line(known(*arguments), 2, says)


def test_on_a_frozen_line_no_job_starts(known):
    assert "an audit" in known("freeze", "main", "--reason", "[red]an audit[/red]").out
    check_one_line(known("run"), 2, r"line 'main' is frozen \(\[red\]an audit\[/red\]\); `errata unfreeze main`")
    assert known("unfreeze", "--json").json["frozen"] == ""
