"""The command line as a user meets it: help, one line for every mistake, and JSON that a script can read."""

import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deltalake import write_deltalake
from pyarrow import table as arrow_table

from flows.cli import app, main
from tests.flows.conftest import METHOD, POLICY

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)
SET = [part for name, value in POLICY.model_dump().items() for part in ("--set", f"{name}={value}")]
OPTIONS = [part for name, value in METHOD.items() for part in ("-o", f"{name}={json.dumps(value)}")]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Errata = Callable[..., Ran]


@pytest.fixture
def errata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fact_model_path: Path
) -> Iterator[Errata]:
    """`errata ARGUMENTS` in this process, in a fresh home unless the test has one."""
    for name, value in {"HOME": tmp_path / "home", "CACHE": tmp_path / "cache", "MODEL": fact_model_path}.items():
        monkeypatch.setenv(f"ERRATA_{name}", str(value))

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["errata", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    yield call


def single(subject: str = "Ada", prompt: str = "{} was born in", target: str = "Rome", *more: str) -> tuple[str, ...]:
    return ("submit", "--subject", subject, "--prompt", prompt, "--target", target, *more)


LONG = "x" * 10_000_000


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(errata, command):
    ran = errata(command, "--help")
    assert ran.code == 0 and ran.err == ""
    assert re.search(rf"Examples?:\s+errata {command}", ran.out) and "--help" in ran.out


def test_without_a_command_the_help_is_shown(errata):
    ran = errata()
    assert ran.code == 2 and all(command in ran.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_shows_every_command(command):
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("there is no README.md")
    assert f"errata {command}" in readme.read_text(), f"README.md does not show `errata {command}`"


@pytest.mark.parametrize(
    ("code", "says", "arguments"),
    [
        (2, "edit of subject 'Ada': prompt 'Who was born' must hold exactly one '{}'", single(prompt="Who was born")),
        (2, "prompt '{} met {}' must hold exactly one '{}'", single(prompt="{} met {}")),
        (2, "target_new '' is empty; give it a text", single(target="")),
        (2, "target_new .* has 10,000,000 characters, at most 500", single(target=LONG)),
        (2, "prompt .* has 10,000,006 characters, at most 2,000", single(prompt="{} is " + LONG)),
        (2, r"holds the control character U\+0000", single(target="a\0b")),
        (2, "neighborhood", single("Ada", "{} is", "Rome", "--neighbor", "")),
        (2, "subject is missing; give it", ("submit", "--prompt", "{} is", "--target", "Rome")),
        (2, "give a file, or --subject", ("submit",)),
        (2, "give a file, or --subject", ("submit", "some.jsonl", "--subject", "Ada")),
        (1, "none.jsonl'.*", ("submit", "none.jsonl")),
        (2, "No such option: --colour; see errata submit --help", ("submit", "--colour", "red")),
        (2, "'--limit'.*greater than or equal to 1; see errata run --help", ("run", "--limit", "0")),
        (2, "No such command 'edit'; see errata --help", ("edit",)),
        (2, "policy min_efficacy = nan: .*finite", ("run", "--set", "min_efficacy=NaN")),
        (2, "policy min_efficacy = 2: .*less than or equal to 1", ("run", "--set", "min_efficacy=2")),
        (2, "policy batch_size = 11: .*less than or equal to 10", ("run", "--set", "batch_size=11")),
        (2, "policy min_beauty = 1: .*fields are batch_size, min_efficacy", ("run", "--set", "min_beauty=1")),
        (2, "--set 'min_efficacy' must read NAME=VALUE", ("run", "--set", "min_efficacy")),
        (2, "unknown method 'rune'; known are memit", ("run", "--method", "rune")),
        (2, "method memit: depth = 3: .*fields are layers", ("run", "--option", "depth=3")),
        (2, "method memit: statistics_weight = -1: .*greater than 0", ("run", "-o", "statistics_weight=-1")),
        (2, "method memit: search.steps = 'many': .*integer", ("run", "-o", 'search={"steps": "many"}')),
        (2, "'No Line'", ("status", "No Line")),
        (2, r"'\.\./x'", ("run", "../x")),
        (2, "nothing waits for review on line 'main'; run `errata run main` first", ("approve", "--version", "3")),
        (2, "a rejection needs a reason", ("reject",)),
        (2, "line 'main' has nothing in service", ("rollback", "--to", "4")),
        (2, "line 'main' knows no request 'nobody'; see errata history", ("history", "nobody")),
        (2, "nothing to try", ("trial",)),
        (1, "none.jsonl'", ("trial", "none.jsonl")),
        (2, "--mode is 'together'; choose sequential or independent", ("benchmark", "x", "--out", "y", "--mode", "together")),  # noqa: E501
        (2, "Missing option '--out'", ("benchmark", "x.json")),
        (1, "none.json'", ("benchmark", "none.json", "--out", "never")),
        (2, "unknown method 'rune'", ("benchmark", "x", "--out", "y", "--method", "rune")),
        (2, "Missing argument 'prompt'", ("ask",)),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_it(errata, monkeypatch, tmp_path, code, says, arguments):
    monkeypatch.chdir(tmp_path)
    check_one_line(errata(*arguments), code, says)
    assert not (tmp_path / "never").exists()


def check_one_line(ran: Ran, code: int, says: str) -> None:
    assert "Traceback" not in ran.out + ran.err
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1 and len(ran.err) < 700, ran.err
    assert re.search(says, ran.err), ran.err
    assert ran.code == code


@pytest.mark.parametrize(
    ("name", "content", "code", "says"),
    [
        ("broken.json", '[{"subject": ', 1, r"broken\.json"),
        ("empty.jsonl", "", 1, r"empty\.jsonl"),
        ("what.exe", "MZ", 1, r"what\.exe"),
        ("fake.parquet", "no parquet", 1, r"fake\.parquet"),
    ],
)
def test_an_unreadable_file_is_one_line(errata, tmp_path, name, content, code, says):
    (tmp_path / name).write_text(content)
    check_one_line(errata("submit", tmp_path / name), code, says)


def test_bad_records_of_a_file_are_rejected_with_reasons_and_the_good_ones_queued(errata, tmp_path):
    good = {"id": "good", "subject": "Ada", "prompt": "{} was born in", "target_new": "Rome"}
    bad = [
        json.dumps(good | {"id": "field", "colour": "red"}),
        json.dumps(good | {"id": "long", "target_new": "x" * 10_000}),
        json.dumps(good | {"id": "empty", "target_new": " "}),
        json.dumps(good | {"id": "nowhere", "prompt": "Who was born?"}),
        "[1, 2",
    ]
    (tmp_path / "mixed.jsonl").write_text("\n".join([*bad, json.dumps(good)]))
    made = errata("submit", tmp_path / "mixed.jsonl", "--json").json
    assert made["queued"] == ["good"] and len(made["rejected"]) == len(bad)
    assert all(len(reason) < 400 and "\n" not in reason for reason in made["rejected"].values())
    again = errata("submit", tmp_path / "mixed.jsonl", "--json").json
    assert again["queued"] == [] and again["present"] == ["good"] and again["rejected"] == made["rejected"]
    assert errata("status", "main", "--json").json[0]["requests"] == {"queued": 1, "rejected": len(bad)}


def test_a_dry_run_writes_nothing(errata, tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps({"subject": "A", "prompt": "{} is", "target_new": "b"}) + "\n{}")
    ran = errata("submit", tmp_path / "one.jsonl", "--dry-run")
    assert ran.code == 0 and ran.out.startswith("1 good, 1 bad")
    assert errata("status", "--json").json == []


@pytest.mark.parametrize("setting", ["HOME", "CACHE", "STORE", "LEDGER"])
def test_a_file_in_the_place_of_a_folder_is_one_line(errata, monkeypatch, tmp_path, setting):
    (tmp_path / "file").write_text("I am no folder")
    monkeypatch.setenv(f"ERRATA_{setting}", str(tmp_path / "file"))
    check_one_line(errata("status"), 2 if setting in ("HOME", "CACHE") else 1, re.escape(str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "I am no folder"


def test_a_table_that_is_no_ledger_is_one_line(errata, monkeypatch, tmp_path):
    write_deltalake(tmp_path / "table", arrow_table({"a": [1]}))
    monkeypatch.setenv("ERRATA_LEDGER", str(tmp_path / "table"))
    check_one_line(errata(*single()), 1, "is a Delta table but no ledger")


def test_a_setting_out_of_range_is_one_line(errata, monkeypatch):
    monkeypatch.setenv("ERRATA_DEVICE", "abacus")
    check_one_line(errata("ask", "Hello"), 1, "device 'abacus' cannot be used here")


@pytest.mark.parametrize("port", ["prefect", "mlflow"])
def test_a_taken_port_is_one_line_and_starts_nothing(errata, port):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
        other.close()
        ports = {"prefect": free, "mlflow": free} | {port: taken.getsockname()[1]}
        options = [part for name, number in ports.items() for part in (f"--{name}-port", number)]
        check_one_line(
            errata("ui", *options), 2, f"port {ports[port]} for .* is taken; choose another with --{port}-port"
        )


def test_ctrl_c_is_one_line_without_a_traceback(errata, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.commands.status", interrupted)
    ran = errata("status")
    assert ran.code == 130 and ran.err.count("\n") == 1 and ran.err.startswith("stopped; ")


def test_the_exit_code_of_doctor_says_whether_all_is_well(errata, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ERRATA_TRACKING_URI", f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    monkeypatch.setenv("ERRATA_LEDGER", str(tmp_path / "file"))
    ran = errata("doctor", "--json")
    found = {row["check"]: row for row in json.loads(ran.out)}
    assert ran.code == 1 and not found["ledger"]["ok"] and "is no folder: choose" in found["ledger"]["found"]
    assert found["torch"]["ok"] and found["home"]["ok"] and found["snapshots"]["ok"]


@pytest.fixture
def on_line(errata, place, good_edits, tmp_path) -> Callable[[str, int], list[str]]:
    """Makes a line of the fact model with so many good corrections submitted; gives the file and their ids."""

    def make(line: str, count: int) -> list[str]:
        place(line)
        records = [edit.model_dump(mode="json") for edit in good_edits[:count]]
        (tmp_path / "requests.json").write_text(json.dumps(records))
        made = errata("submit", tmp_path / "requests.json", "--line", line, "--json").json
        assert made == {"queued": [edit.id for edit in good_edits[:count]], "present": [], "rejected": {}}
        return made["queued"]

    return make


def test_a_correction_goes_from_request_to_service_and_back(errata, on_line, good_edits):
    ids = on_line("journey", 2)
    summary = errata("run", "journey", *SET, "--json").json
    assert (summary["kept"], summary["quarantined"], summary["version"]) == (2, 0, 1)
    [row] = errata("status", "journey", "--json").json
    assert (row["in_service"], row["waiting"], row["requests"]) == (0, [1], {"committed": 2})
    [version] = errata("review", "journey", "--json").json
    assert version["request_ids"] == ids and version["metrics"]["efficacy_prob"] == 1.0
    edit = good_edits[0]
    [answer] = errata("ask", edit.text, "--line", "journey", "--tokens", "4", "--json").json
    assert list(answer["answers"]) == ["base", "challenger (version 1)"]
    assert answer["answers"]["challenger (version 1)"].startswith(edit.target_new)
    check_one_line(
        errata("approve", "journey", "--version", "7"), 2, "version 7 of line 'journey' does not wait .*1 do"
    )
    made = errata("approve", "journey", "--reason", "fine", "--json").json
    assert made == {"versions": [1], "in_service": 1, "warning": ""}
    events = errata("history", ids[0], "--line", "journey", "--json").json
    assert [e["event"] for e in events] == [
        "received", "queued", "applied", "validated", "committed", "approved", "promoted"
    ]  # fmt: skip
    assert events[-1]["reason"] == "fine" and events[-1]["actor"] == "tester"
    check_one_line(errata("rollback", "journey", "--to", "9"), 2, "version 9 of line 'journey' was never in service")
    assert errata("rollback", "journey", "--json").json["in_service"] == 0
    assert errata("history", "--line", "journey", "--limit", "1", "--json").json[0]["event"] == "rolled_back"
    for command in (("status",), ("review", "journey"), ("history", ids[0], "--line", "journey")):
        assert errata(*command).out.strip()


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
    check_one_line(errata("run", "fixed", "-o", "layers=[1]"), 2, "line 'fixed' has other options of memit")
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
    check_one_line(errata("run", "wrong", *options), 1, says)
    [row] = errata("status", "wrong", "--json").json
    assert row["requests"] == {"queued": 1}
    again = errata("run", "wrong", *OPTIONS, "--model", fact_model_path, "--dtype", "float32", *SET, "--json").json
    assert again["kept"] + again["quarantined"] == 1


@pytest.mark.parametrize("option", ["--text", "--statistics-text"])
def test_a_missing_text_is_one_line(errata, on_line, option):
    on_line("textless", 1)
    check_one_line(errata("run", "textless", option, "none.txt"), 1, r"none\.txt")
    assert errata("status", "textless", "--json").json[0]["requests"] == {"queued": 1}
