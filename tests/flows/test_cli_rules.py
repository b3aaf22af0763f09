"""`errata rules`, `freeze` and `unfreeze`: shown, changed, and refused in one line; and lines that nobody knows."""

import pytest
from typer.main import get_command

from flows.cli.main import app
from tasks.workplace import open_workplace
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


GIVEN = {
    "ask": ("x",),
    "forget": ("r", "--reason", "x"),
    "migrate": ("--model", "embedded"),
    "reject": ("--reason", "x"),
    "retract": ("r", "--reason", "x"),
    "freeze": ("--reason", "x"),
    "serve": ("--port", 0),
    "verify": ("--url", "http://127.0.0.1:9/v1", "--model", "m"),
}
"""What commands want beside a line."""
OTHERS = ("submit", "run", "promote", "train-mend")
"""Those that may begin one, or only name one to Prefect."""
TAKE_LINES = {
    name: next(one for one in command.params if one.name == "line")
    for name, command in get_command(app).commands.items()
    if any(one.name == "line" for one in command.params)
}


@pytest.mark.parametrize("name", sorted(TAKE_LINES.keys() - {*OTHERS}))
@pytest.mark.parametrize("line", ["mian", "main"])
def test_every_command_answers_a_line_that_nobody_knows_alike(errata, tmp_path, name, line):
    """The default, too, where there are others; and a job that found nothing to do there makes none of it."""
    assert errata(*single(), "--line", "mains").code == 0
    open_workplace().store.store.put(f"lines/{line}/job.json", b"{}")
    given = {"export": ("--out", tmp_path / "out")}.get(name, GIVEN.get(name, ()))
    named = [line] if TAKE_LINES[name].param_type_name == "argument" else ["--line", line]
    check_one_line(errata(name, *named, *given), 2, f"there is no line '{line}'; did you mean 'mains'. lines are mains")
    assert [one["line"] for one in errata("status", "--json").json] == ["mains"]


@pytest.mark.slow
def test_a_line_that_begins_beside_others_is_said_to_be_new(errata):
    assert "is new" not in errata(*single()).err
    ran = errata("run", "mian")
    assert ran.code == 0 and "line 'mian' is new; did you mean 'main'? lines are main" in ran.err
    said = errata(*single("B"), "--line", "mian")
    assert said.code == 0 and "line 'mian' is new; did you mean 'main'? lines are main" in said.err
    assert "is new" not in errata(*single("C"), "--line", "mian").err


def test_a_line_that_only_has_requests_has_no_version_to_serve_yet(known):
    check_one_line(known("approve"), 2, "nothing waits for review on line 'main'; run `errata run main` first")
    check_one_line(known("rollback", "--to", 4), 2, "line 'main' has nothing in service")
    for command in (("serve", "--port", 0), ("rebase",), ("migrate", "main", "--model", "embedded")):
        check_one_line(known(*command), 2, "line 'main' has no version yet; `errata run main` makes its first")


def test_a_line_where_a_prompt_stands_is_told(known):
    ran = known("ask", "main", "Ivy is", "--line", "nowhere")
    assert ran.code == 2 and "'main' is taken for a prompt; the line of that name is asked by --line main" in ran.err
    assert "taken for" not in known("ask", "Ivy is", "--line", "nowhere").err
