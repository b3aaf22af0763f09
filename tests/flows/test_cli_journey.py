"""The good ways through the command line on the fact model, read as a script reads them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from editing.edit import Edit
from tests.flows.command import Errata, check_one_line, single
from tests.flows.conftest import METHOD, POLICY

SET = [part for name, value in POLICY.model_dump().items() for part in ("--set", f"{name}={json.dumps(value)}")]
ODD = "a%2Fb [x] ?#&=|^\\'\" 法"
"""The name of a folder that some part of every address has a meaning for."""
OPTIONS = [part for name, value in METHOD.items() for part in ("-o", f"{name}={json.dumps(value)}")]


@pytest.fixture
def on_line(errata, place, good_edits, tmp_path) -> Callable[[str, int], list[str]]:
    """Makes a line of the fact model with so many good corrections submitted; gives their ids."""

    def make(line: str, count: int) -> list[str]:
        place(line)
        return submitted(errata, tmp_path, line, good_edits[:count])

    return make


def submitted(errata: Errata, folder: Path, line: str, edits: Sequence[Edit]) -> list[str]:
    (folder / "requests.json").write_text(json.dumps([edit.model_dump(mode="json") for edit in edits]))
    made = errata("submit", folder / "requests.json", "--line", line, "--json").json
    assert made == {"queued": [edit.id for edit in edits], "present": [], "rejected": {}}
    return list(made["queued"])


@pytest.mark.parametrize("own_home", [ODD], indirect=True)
def test_a_correction_goes_from_request_to_service_and_back(errata, own_home, good_edits, tmp_path):
    """Wherever the home lies, with MLflow's database and artifacts in it."""
    ids = submitted(errata, tmp_path, "kept", good_edits[:2])
    summary = errata("run", "kept", *SET, "--json").json
    assert (summary["kept"], summary["quarantined"], summary["version"]) == (2, 0, 1)
    [row] = errata("status", "kept", "--json").json
    assert (row["in_service"], row["waiting"], row["requests"]) == (0, [1], {"committed": 2})
    [version] = errata("review", "kept", "--json").json
    assert version["request_ids"] == ids and version["metrics"]["efficacy_prob"] == 1.0
    edit = good_edits[0]
    [answer] = errata("ask", edit.text, "--line", "kept", "--tokens", "4", "--json").json
    assert list(answer["answers"]) == ["base", "challenger (version 1)"]
    assert answer["answers"]["challenger (version 1)"].startswith(edit.target_new)
    check_one_line(errata("approve", "kept", "--version", "7"), 2, "version 7 of line 'kept' does not wait .*1 do")
    made = errata("approve", "kept", "--reason", "fine", "--json").json
    assert made == {"versions": [1], "in_service": 1, "warning": ""}
    events = errata("history", ids[0], "--line", "kept", "--json").json
    assert [e["event"] for e in events] == [
        "received", "queued", "applied", "validated", "committed", "approved", "promoted"
    ]  # fmt: skip
    assert events[-1]["reason"] == "fine" and events[-1]["actor"] == "tester"
    check_one_line(errata("rollback", "kept", "--to", "9"), 2, "version 9 of line 'kept' was never in service")
    assert errata("rollback", "kept", "--json").json["in_service"] == 0
    assert errata("history", "--line", "kept", "--limit", "1", "--json").json[0]["event"] == "rolled_back"
    for command in (("status",), ("review", "kept"), ("history", ids[0], "--line", "kept"), ("audit",)):
        assert errata(*command).out.strip()
    assert {path.name for path in tmp_path.iterdir()} <= {ODD, "requests.json", "cache"}


def test_a_refused_version_leaves_its_requests_rejected(errata, on_line):
    on_line("refused", 1)
    assert errata("run", "refused", *SET, "--json").json["kept"] == 1
    assert errata("reject", "refused", "--reason", "wrong [source]").out.startswith(
        "rejected version 1 of line refused"
    )
    [row] = errata("status", "refused", "--json").json
    assert row["waiting"] == [] and row["requests"] == {"rejected": 1}


def test_a_trial_shows_what_each_correction_would_do_and_keeps_nothing(errata, on_line, good_edits, tmp_path):
    ids = on_line("tried", 2)
    queued = errata("trial", "--line", "tried", "--json").json
    named = errata("trial", tmp_path / "requests.json", "--line", "tried", "--limit", "1", "--json").json
    assert [row["request_id"] for row in queued] == ids and named == queued[:1]
    assert all(row["after"]["efficacy_argmax"] == 1.0 > row["before"]["efficacy_argmax"] for row in queued)
    assert queued[0]["answer_after"].startswith(good_edits[0].target_new)
    [row] = errata("status", "tried", "--json").json
    assert row["requests"] == {"queued": 2} and row["waiting"] == []


def test_doctor_finds_a_good_installation_good(errata, place):
    place("healthy")
    ran = errata("doctor", "--json")
    wrong = [row for row in json.loads(ran.out) if not row["ok"] and row["check"] != "embedded model"]
    assert wrong == [] and ran.err == ""


def test_a_line_that_has_versions_cannot_be_given_another_definition(errata, on_line, fact_model_path):
    on_line("fixed", 1)
    assert errata("run", "fixed", *SET, "--json").json["version"] == 1
    check_one_line(
        errata("run", "fixed", "--model", "other"), 2, "line 'fixed' has model .*, not 'other'; leave --model"
    )
    check_one_line(errata("run", "fixed", "-o", "layers=[1]"), 2, "line 'fixed' has other options of memit than asked")
    assert errata("run", "fixed", *OPTIONS, "--model", fact_model_path, "--json").json["kept"] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "./no-such-folder"), r"no folder './no-such-folder'; give a folder with a config\.json"),
        (("--dtype", "float8"), "unknown dtype 'float8'; choose one of float64"),
        (("-o", "layers=[40]"), "layer 40 leaves nothing above it to search through: the model has 4 layers"),
    ],
)
def test_a_new_line_that_cannot_work_fails_in_one_line_and_can_be_defined_again(
    errata, place, fact_model_path, options, says
):
    place("first")
    errata(*single(), "--line", "wrong")
    check_one_line(errata("run", "wrong", *options), 2, says)
    [row] = errata("status", "wrong", "--json").json
    assert row["requests"] == {"queued": 1}
    again = errata("run", "wrong", *OPTIONS, "--model", fact_model_path, "--dtype", "float32", *SET, "--json").json
    assert again["kept"] + again["quarantined"] == 1


@pytest.mark.parametrize("option", ["--text", "--statistics-text"])
def test_a_missing_text_is_one_line(errata, on_line, option):
    on_line("textless", 1)
    check_one_line(errata("run", "textless", option, "none.txt"), 2, r"none\.txt")
    assert errata("status", "textless", "--json").json[0]["requests"] == {"queued": 1}
