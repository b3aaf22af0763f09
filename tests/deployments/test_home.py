"""The demo's folder and its steps: what is done is not done again, whatever killed the demo in between."""

import json
import os
import shutil
from pathlib import Path

import pytest

from deployments.demo.home import MARKER, STAGES, opened
from deployments.demo.steps import STEPS, Demo, Step, do
from editing.errors import UsageError


def done_in(folder, about="a"):
    with opened(folder, about) as home:
        return home.record.done


def test_an_unfinished_demo_goes_on_and_a_finished_one_begins_anew(tmp_path):
    folder = tmp_path / "home"
    with opened(folder, "a") as home, home.step("one"):
        (folder / "ledger").mkdir()
    with opened(folder, "a") as home:
        assert home.record.done == ("one",) and (folder / "ledger").exists()
        home.finish()
    assert done_in(folder) == () and not (folder / "ledger").exists()


def test_a_demo_about_something_else_begins_anew(tmp_path):
    with opened(tmp_path, "a") as home, home.step("one"):
        (tmp_path / "ledger").write_text("")
    assert done_in(tmp_path, "b") == () and not (tmp_path / "ledger").exists()


def test_killed_while_it_is_emptied_for_another_demo_nothing_is_gone_on_with(tmp_path, monkeypatch):
    with opened(tmp_path, "a") as home, home.step("one"):
        (tmp_path / "ledger").mkdir()

    def killed(path):
        path.rmdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        done_in(tmp_path, "b")
    assert done_in(tmp_path, "a") == ()


def test_killed_while_it_is_marked_the_folder_is_a_demo_s(tmp_path, monkeypatch):
    def killed(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", killed)
        patched.setattr(Path, "unlink", lambda path, missing_ok: None)  # as nothing is cleaned up after kill -9
        done_in(tmp_path / "home")
    assert list((tmp_path / "home").iterdir()) and done_in(tmp_path / "home") == ()


def test_a_step_that_fails_is_not_done(tmp_path):
    with opened(tmp_path, "a") as home, pytest.raises(OSError), home.step("one"):
        raise OSError
    assert done_in(tmp_path) == ()


@pytest.mark.parametrize("written", [b"", b"{", b"[]", b'{"about": "a"}'])
def test_a_record_that_says_nothing_is_begun_anew(tmp_path, written):
    (tmp_path / MARKER).write_bytes(written)
    (tmp_path / "ledger").write_text("")
    assert done_in(tmp_path) == () and not (tmp_path / "ledger").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(UsageError, match="no demo's folder"), opened(tmp_path, "a"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


def test_a_folder_is_one_demo_s_at_a_time(tmp_path):
    with opened(tmp_path, "a"), pytest.raises(UsageError, match="another demo runs"), opened(tmp_path, "a"):
        pass


def test_what_a_step_costs_is_written_beside_it(tmp_path):
    with opened(tmp_path, "a") as home, home.step("one"):
        before = os.times()
        while os.times().user - before.user < 0.05:
            pass
    [stage] = [json.loads(line) for line in (tmp_path / STAGES).read_text().splitlines()]
    assert stage["step"] == "one" and stage["processor_seconds"] >= 0.05 and stage["seconds"] > 0


def played(home, steps):
    """The steps on a demo without requests."""
    do(Demo(home, None, "embedded", home.folder / "requests.jsonl", [], {}), steps)


def test_killed_in_a_step_the_demo_goes_on_with_that_step(tmp_path, capsys):
    did = []

    def killed(demo):
        did.append("two")
        if did.count("two") == 1:
            raise KeyboardInterrupt

    steps = [
        Step("one", "First", "errata one", lambda demo: did.append("one")),
        Step("two", "Second", "errata two {model}", killed),
        Step("three", "Third", "errata three", lambda demo: did.append("three")),
    ]
    with pytest.raises(KeyboardInterrupt), opened(tmp_path, "a") as home:
        played(home, steps)
    with opened(tmp_path, "a") as home:
        played(home, steps)
    assert did == ["one", "two", "two", "three"]
    shown = capsys.readouterr().out
    assert "1. First: done before" in shown and "$ errata two embedded" in shown


def test_a_step_whose_effect_stands_already_is_passed_over(tmp_path, capsys):
    steps = [Step("one", "First", "errata one", lambda demo: pytest.fail("done again"), lambda demo: "it stands")]
    with opened(tmp_path, "a") as home:
        played(home, steps)
        assert home.record.done == ("one",)
    assert "nothing to do: it stands" in capsys.readouterr().out


def test_the_steps_have_names_of_their_own_and_come_in_the_order_of_a_request_s_life():
    names = [step.name for step in STEPS]
    assert len(set(names)) == len(names)
    life = ["submit", "run", "review", "approve", "compare", "rollback", "ask-again"]
    assert [name for name in names if name in life] == life
