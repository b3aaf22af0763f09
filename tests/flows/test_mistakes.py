"""What a newcomer gets wrong at the command line: exit code 2, and one line that says what to write instead."""

import io
import json
import re
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from editing.errors import UsageError
from flows.cli import console, judging
from flows.cli.app import method_options
from tasks.lines.specs import resolve_line, save_line
from tasks.report.data import Check
from tasks.update.replay import Replayed
from tasks.workplace import open_workplace
from tests.flows.command import check_one_line, single
from tests.flows.test_cli_retract import LINE, made, states


@pytest.fixture
def line(errata, tmp_path, monkeypatch):
    """The command line on a line with a version of `a` that waits, and `b` in the queue; in a folder of its own."""
    for name in "ab":
        assert errata(*single(name.upper()), "--id", name).code == 0
    place = open_workplace()
    save_line(place.store.store, resolve_line(place.store.store, place.settings, LINE))
    made(1, None, ("a",))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "broken.json").write_text('[{"subject": ')
    (tmp_path / "here" / "edits.jsonl").write_text(json.dumps({"subject": "C", "prompt": "{} is", "target_new": "x"}))
    return errata


NO_VERSION = r"line 'main' has no version 99; it has: 1"
NO_MODEL = r"no folder './none'; give a folder with a config\.json"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        # A version.
        (("judge", "--version", 99), NO_VERSION),
        (("judge", "--version", 0), "version 0 of line 'main' is the base, which nothing judges"),
        (("export", "--version", 99, "--out", "o"), NO_VERSION),
        (("verify", "--version", 99, "--url", "http://127.0.0.1:1/v1", "--model", "x"), NO_VERSION),
        (("approve", "--version", 99), "version 99 of line 'main' does not wait for review; 1 do"),
        (("reject", "--version", 99, "--reason", "x"), "version 99 of line 'main' does not wait for review"),
        (("history", "--version", 99), NO_VERSION),
        (("history", "a", "--version", 99), NO_VERSION),
        (("history", "--version", 0), "version 0 of line 'main' is the base, which has no events; name one above 0"),
        (("history", "b", "--version", 1), "request 'b' has no event with version 1 of line 'main'; leave --version"),
        (("history", "nobody", "--version", 1), "line 'main' knows no request 'nobody'"),
        # What does not go together.
        (("history", "main", "--served", "--line", "other"), "'main' and 'other' are given; name one of them"),
        (("history", "a", "--served", "--line", "main"), "'a' and 'main' are given; name one of them"),
        (("history", "--served", "--limit", 3), "leave --limit out"),
        (("history", "--served", "--version", 1), "leave --version out"),
        # A file.
        (("submit", "none.jsonl"), "no file 'none.jsonl'; check the path"),
        (("submit", "broken.json"), "'broken.json' line 1: not JSON"),
        (("trial", "none.jsonl"), "no file 'none.jsonl'"),
        (("retract", "--file", "none", "--reason", "x"), "no file 'none'"),
        (("forget", "--file", "none", "--reason", "x"), "no file 'none'"),
        (("judge", "--text", "none"), "cannot read 'none'"),
        (("run", "--text", "none"), "cannot read 'none'"),
        (("run", "--statistics-text", "none"), "cannot read 'none'"),
        (("run", "--policy", "none.toml"), "policy file 'none.toml' cannot be read"),
        (("benchmark", "none.json", "--out", "o"), "no file 'none.json'"),
        (("train-mend", "none.json"), "no file 'none.json'"),
        # A model, and what a job takes it by.
        (("run", "new", "--model", "./none"), NO_MODEL),
        (("run", "new", "--model", "none.gguf"), "no file 'none.gguf'"),
        (("run", "new", "--dtype", "rune"), "unknown dtype 'rune'"),
        (("run", "new", "-o", "layers=[99]"), "layer 99 leaves nothing above it"),
        (("run", "new", "--method", "mend", "--hypernetwork", "none"), "there is no hypernetwork 'none'"),
        (("run", "new", "--method", "mend", "--hypernetwork", "models:/none/1"), "MLflow has no 'models:/none/1'"),
        (("doctor", "--model", "./none"), NO_MODEL),
        (("calibrate", "./none"), NO_MODEL),
        # A template.
        (("run", "new", "--template", "chat"),
         "line 'new' has template 'chat', and model '.*' has no chat template; give a new line --template raw or auto"),
        (("trial", "edits.jsonl", "--line", "new", "--template", "chat"), "has no chat template; give a new line"),
        (("ask", "Hello", "--chat"), "model '.*' has no chat template; ask it with --raw"),
        # A name that is empty: no folder, and not the one that somebody happens to be in.
        (("doctor", "--model", ""), "model '' is no name; give 'embedded'"),
        (("run", "new", "--model", ""), "model '' is no name"),
        (("calibrate", ""), "model '' is no name"),
        (("train-mend", "edits.jsonl", "--model", ""), "model '' is no name"),
        (("export", "--out", ""), "'' names no folder; give a path, or . for"),
        (("benchmark", "edits.jsonl", "--out", ""), "'' names no folder"),
        (("backup", ""), "'' names no folder"),
        (("restore", ""), "'' names no folder"),
        (("promote", "--from", ""), "'' names no folder"),
        # NAME=VALUE: the example is one of this command.
        (("run", "--set", "rune"), "e.g. --set min_efficacy=0.95"),
        (("run", "-o", "rune"), r"e.g. --option layers=\[4,5,6\]"),
        (("doctor", "--model", "embedded", "-o", "rune"), r"e.g. --option layers=\[4,5,6\]"),
        (("train-mend", "edits.jsonl", "-o", "rune"), "e.g. --option rank=512"),
        (("calibrate", "--set", "rune"), "e.g. --set windows=6"),
        (("calibrate", "--set", "facts=3"), "calibrate facts = 3: .*greater than or equal to 4"),
        (("calibrate", "--set", "facts=101"), "calibrate facts = 101: .*less than or equal to 100"),
        (("calibrate", "--facts", 5, "--set", "facts=6"), "--facts 5 and --set facts=6 are given; leave one of them"),
        (("calibrate", "--set", "clamps=[0]"), r"calibrate clamps\.0 = 0: input should be greater than 0"),
        (("calibrate", "--set", "seed=true"), "calibrate seed = True: input should be a number, not true or false"),
        (("doctor", "--dtype", "bfloat16"), "--dtype is of a model's memory; name the model with --model, or leave"),
        (("doctor", "-o", "seed=1"), "--option is of a model's memory; name the model with --model, or leave"),
        (("doctor", "--model", "embedded", "-o", "search=3", "-o", "search.steps=2"),
         "option search.steps = 2: search = 3 was given too; leave one out"),
        (("doctor", "--model", "embedded", "-o", "search.steps=true"), "search.steps = True: input should be a number"),
        (("doctor", "--model", "embedded", "-o", "search.stepz=1"), "search.stepz = 1: there is no such field; fields"),
        (("watch", "--set", "queue_hours=true"), "queue_hours = True: input should be a number, not true or false"),
        (("rules", "--set", "expires_after_hours=true"), "expires_after_hours = True: input should be a number"),
        (("rules", "--set", "rune"), "e.g. --set expires_after_hours=48"),
        (("watch", "--set", "rune"), "e.g. --set queue_hours=24"),
        # How much.
        (("train-mend", "edits.jsonl", "--validation-edits", 0), "'--validation-edits'.*greater than or equal to 1"),
        (("train-mend", "edits.jsonl", "--limit", 1),
         "'edits.jsonl' has 1 edit that can be used in its first 1, too few to train and validate: give 5 or more"),
        (("train-mend", "edits.jsonl", "--validation", "none.json"), "no file 'none.json'"),
    ],
)  # fmt: skip
def test_a_mistake_ends_with_code_2_and_one_line_that_says_what_to_write(line, command, says):
    check_one_line(line(*command), 2, says)


@pytest.mark.parametrize(
    ("command", "option"),
    [(("rules",), "--set"), (("calibrate",), "--set"), (("watch",), "--set"), (("run", "new"), "--set"),
     (("run", "new"), "-o"), (("train-mend", "none.json"), "-o")],
)  # fmt: skip
def test_an_example_names_something_that_its_command_takes(line, command, option):
    name = re.search(r"e\.g\. --\w+ (\w+)=", line(*command, option, "rune").err)[1]
    said = line(*command, option, f"{name}=rune").err
    assert name in said and "rune" in said and not re.search(r"(fields|options|rules) are", said)


def test_options_with_dots_mean_what_is_inside():
    asked = ["search.steps=3", 'search={"clamp": 0.5}', "seed=1"]
    assert method_options(asked) == {"search": {"steps": 3, "clamp": 0.5}, "seed": 1}
    assert method_options(asked[::-1]) == method_options(asked)
    with pytest.raises(UsageError, match=r"option search = None: search = .* was given too; leave one out"):
        method_options(["search.steps=3", "search=null"])


@pytest.mark.parametrize("given", [("--set", "facts=5"), ("--facts", 5), ("--facts", 5, "--set", "facts=5"), ()])
def test_facts_count_whichever_way_they_are_given(line, monkeypatch, given):
    asked = []

    def heard(settings, model, dtype, plan):
        asked.append(plan.facts)
        raise UsageError("enough")

    monkeypatch.setattr("tasks.calibrating.job.calibrate", heard)
    line("calibrate", *given)
    assert asked == [5 if given else 10]


# Ids in files.


@pytest.mark.parametrize(
    "data",
    ["\ufeffb\n".encode(), "b\n".encode("utf-16"), b"\r\n b \r\n", b"b\r"],
    ids=["marked", "wide", "windows", "old Mac"],
)
@pytest.mark.parametrize("by_input", [False, True])
def test_ids_are_read_as_requests_are(line, tmp_path, monkeypatch, data, by_input):
    (tmp_path / "ids").write_bytes(data)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    ran = line("retract", "--file", "-" if by_input else tmp_path / "ids", "--reason", "x")
    assert ran.code == 0, ran.err
    assert states(open_workplace())["b"] == "withdrawn"


def test_ids_that_are_no_text_are_one_line(line, tmp_path):
    (tmp_path / "ids").write_bytes(b"a\n\xff\xff\xffx\n")
    says = "ids' line 2 is not UTF-8: byte 0xff at byte position 2 of the file; save it as UTF-8"
    check_one_line(line("retract", "--file", tmp_path / "ids", "--reason", "x"), 2, says)


@pytest.mark.parametrize("data", [b"", b"[{\xff", b"\xff\xfe\x00"])
@pytest.mark.parametrize("command", [("submit", "-"), ("trial", "-"), ("retract", "--file", "-", "--reason", "x")])
def test_what_is_wrong_with_standard_input_is_said_of_it(line, monkeypatch, command, data):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    check_one_line(line(*command), 2, "^error: standard input ")


# What a line shows of a verdict.


def check(measure: str, value: float, limit: float, field: str, **more: object) -> Check:
    fields = {"measure": measure, "value": value, "limit": limit, "field": field, "sample": 60, "holds": True}
    return Check.model_validate(fields | more)


CHECKS = (
    check("efficacy", 0.93, 0.9, "min_efficacy"),
    check("neighbors_preferred", 3, 4, "max_locality_drop", kind="level", p=0.31, told=False, needs=1240),
    check("perplexity", 1.0123, 1.1, "max_perplexity_ratio"),
    check("ability.ceval-middle", 0.9, 0.85, "levels.ability.worse_than_base", kind="level", told=False, needs=3000),
)


@pytest.mark.parametrize("width", [80, 100])
def test_a_verdict_beside_that_of_then_is_readable_on_a_terminal(monkeypatch, width):
    shown = Console(width=width, file=io.StringIO(), highlight=False, markup=False, emoji=False)
    monkeypatch.setattr(console, "console", shown)
    judging._show(Replayed("batch", CHECKS, (*CHECKS[:2], CHECKS[2].model_copy(update={"holds": False}))), "again")
    said = shown.file.getvalue()
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in said.splitlines() if row.startswith("│")]
    assert {len(row) for row in cells} == {5} and "┃ verdict" in said and "would tell" not in said
    whole = [" ".join(filter(None, column)) for column in zip(*cells, strict=True)]
    assert "Edit success Neighbors: answer no longer preferred Perplexity Ability: ceval-middle" in whole[0]
    assert "✗ fails, was ✓ holds no such row, was ? too few to tell" in whole[4]
    assert len(cells) <= {80: 12, 100: 8}[width], said
