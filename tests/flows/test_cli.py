"""The command line's mistakes: each is one line that names the thing, and help is where it is looked for."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import write_deltalake
from prefect.settings import PREFECT_API_URL, temporary_settings
from pyarrow import table as arrow_table

from editing.methods import METHODS
from flows.cli.main import app
from tasks.settings import Settings, load_settings
from tests.flows.command import check_one_line, single

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


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
        (2, r"question 'Why\?' must hold exactly one", single("Ada", "{} is", "Rome", "--question", "Why?")),
        (2, "hold 'b', which is target_true", single("A", "{} is", "c", "--true", "B", "--alias", "b")),
        (2, "subject is missing; give it", ("submit", "--prompt", "{} is", "--target", "Rome")),
        (2, "give a file, or --subject", ("submit",)),
        (2, "give a file, or --subject", ("submit", "some.jsonl", "--subject", "Ada")),
        (2, "none.jsonl'.*", ("submit", "none.jsonl")),
        (2, "No such option: --weather; see errata submit --help", ("submit", "--weather", "fine")),
        (2, "'--limit'.*greater than or equal to 1; see errata run --help", ("run", "--limit", "0")),
        (2, "No such command 'bend'; see errata --help", ("bend",)),
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
        (2, "there is no line 'main', nor any other; `errata submit FILE --line main`", ("approve", "--version", "3")),
        (2, "a rejection needs a reason", ("reject",)),
        (2, "there is no line 'main', nor any other", ("rollback", "--to", "4")),
        (2, "line 'main' knows no request 'nobody'; see errata history", ("history", "nobody")),
        (2, "nothing to try", ("trial",)),
        (2, "none.jsonl'", ("trial", "none.jsonl")),
        (2, "mode is 'together'; choose one of sequential", ("benchmark", "x", "--out", "y", "--mode", "together")),
        (2, "method 'finetune' cannot write all facts together from the base; use sequential mode, or one of memit",
         ("benchmark", "x", "--out", "never", "--method", "finetune", "--mode", "rebase")),
        (2, "Missing option '--out'", ("benchmark", "x.json")),
        (2, "none.json'", ("benchmark", "none.json", "--out", "never")),
        (2, "join", ("benchmark", "x", "--out", "y", "--join", "rune")),
        (2, "'a' is never said; leave --system out or choose", ("run", "--template", "raw", "--system", "a")),
        (2, "the system message 'a' is never said", ("benchmark", "x", "--out", "never", "--system", "a")),
        (2, "the system message '' is empty", ("trial", "--line", "main", "--system", "")),
        (1, "no chat template for a system message; leave the system message out", ("run", "--system", "Be brief.")),
        (2, "there is no probe 'rune'", ("benchmark", "x", "--out", "y", "--probes", "rune")),
        (2, "--checkpoints '1,x' must be whole numbers", ("benchmark", "x", "--out", "y", "--checkpoints", "1,x")),
        (2, "unknown method 'rune'", ("benchmark", "x", "--out", "y", "--method", "rune")),
        (2, "Missing argument 'prompt'", ("ask",)),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_it(errata, monkeypatch, tmp_path, code, says, arguments):
    monkeypatch.chdir(tmp_path)
    check_one_line(errata(*arguments), code, says)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("remote", [(), ("--remote",)])
@pytest.mark.parametrize(
    "arguments",
    [("approve",), ("approve", "main", "--except", "x"), ("reject",), ("rollback",),
     ("rollback", "--without-retracted"), ("retract", "x"), ("forget", "x"), ("promote", "--from", ".")],
)  # fmt: skip
def test_a_reason_has_a_limit_that_every_command_names_before_it_does_anything(errata, tmp_path, arguments, remote):
    says = (
        "the reason has 2,001 characters, at most 2,000 are allowed: shorten it, or name the page that tells the rest"
    )
    check_one_line(errata(*arguments, *remote, "--reason", "x" * 2001), 2, says)
    assert not (tmp_path / "home" / "ledger").exists()


def test_the_reason_of_a_freeze_has_the_same_limit(errata):
    errata("submit", "--subject", "Ada", "--prompt", "{} was born in", "--target", "Rome")
    check_one_line(errata("freeze", "--reason", "x" * 2001), 2, "the reason has 2,001 characters, at most 2,000")
    assert errata("freeze", "--reason", "x" * 2000).code == 0


@pytest.mark.parametrize("held", ["", "snapshots/of-a-disk", "ledger/accounts.csv", "some/settings.toml"])
def test_a_folder_that_is_no_home_is_named_before_anything_is_made(errata, tmp_path, held):
    folder = tmp_path / "elsewhere"
    (folder / held).mkdir(parents=True)
    before = sorted(folder.rglob("*"))
    says = "elsewhere' is no home of Errata.*: name the home in which the version was approved"
    check_one_line(errata("promote", "main", "--from", folder), 2, says)
    assert sorted(folder.rglob("*")) == before and not (tmp_path / "home" / "ledger").exists()


@pytest.mark.parametrize(
    "arguments", [("benchmark", "x", "--out", "never", "--mode", "independent"), ("trial", "x"), ("trial",)]
)
def test_a_method_that_writes_no_edit_alone_is_refused_before_anything_is_read(errata, monkeypatch, arguments):
    monkeypatch.setitem(METHODS, "memit", replace(METHODS["memit"], compute_independent_updates=None))
    says = "method 'memit' cannot write edits independently of each other; use sequential mode, or one of alphaedit"
    check_one_line(errata(*arguments), 2, says)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("broken.json", '[{"subject": ', r"broken\.json"),
        ("empty.jsonl", "", r"empty\.jsonl"),
        ("what.exe", "MZ", r"what\.exe"),
        ("fake.parquet", "no parquet", r"fake\.parquet"),
    ],
)
def test_an_unreadable_file_is_one_line(errata, tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    check_one_line(errata("submit", tmp_path / name), 2, says)


def test_bad_records_of_a_file_are_rejected_with_reasons_and_the_good_ones_queued(errata, tmp_path):
    good = {"id": "good", "subject": "Ada", "prompt": "{} was born in", "target_new": "Rome"}
    bad = [
        json.dumps(good | {"id": "field", "targetnew": "red"}),
        json.dumps(good | {"id": "long", "prompt": "{} is" + " so" * 10_000}),
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
    check_one_line(errata("ask", "Hello"), 2, "device 'abacus' cannot be used here")


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

    monkeypatch.setattr("tasks.workplace.open_workplace", interrupted)
    ran = errata("status")
    assert ran.code == 130 and ran.err.count("\n") == 1 and ran.err.startswith("stopped; ")


@pytest.mark.slow
def test_the_exit_code_of_doctor_says_whether_all_is_well(errata, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ERRATA_TRACKING_URI", f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    monkeypatch.setenv("ERRATA_LEDGER", str(tmp_path / "file"))
    ran = errata("doctor", "--json")
    found = {row["check"]: row for row in json.loads(ran.out)}
    assert ran.code == 1 and not found["ledger"]["ok"] and "is no folder: choose" in found["ledger"]["found"]
    assert found["torch"]["ok"] and found["home"]["ok"] and found["snapshots"]["ok"]


@pytest.mark.slow
def test_a_prefect_server_that_does_not_answer_is_one_line(errata, monkeypatch):
    errata(*single())
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        check_one_line(errata("run"), 2, r"no Prefect server answers at http://127\.0\.0\.1:9/api \(.*refused")
        [found] = [row for row in json.loads(errata("doctor", "--json").out) if row["check"] == "Prefect"]
        assert not found["ok"] and "no Prefect server answers" in found["found"]
        check_one_line(errata("trial"), 2, "correct or unset ERRATA_PREFECT_API_URL, or PREFECT_API_URL")
    assert errata("status", "--json").json[0]["requests"] == {"queued": 1}


def test_a_results_folder_that_cannot_be_is_found_before_any_work(errata, tmp_path, fact_model_path):
    (tmp_path / "data.jsonl").write_text(json.dumps({"subject": "A", "prompt": "{} is", "target_new": "b"}))
    (tmp_path / "file").write_text("")
    check_one_line(errata("benchmark", tmp_path / "data.jsonl", "--out", tmp_path / "file" / "x"), 2, "--out")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_is_one_line(errata, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "/some/file")

    monkeypatch.setattr("tasks.workplace.open_workplace", full)
    check_one_line(errata("status"), 1, "/some/file: No space left on device; look at")


def test_a_dry_run_for_a_script_says_of_each_record_what_submit_would(errata, tmp_path):
    (tmp_path / "two.jsonl").write_text(json.dumps({"subject": "A", "prompt": "{} is", "target_new": "b"}) + "\n{}")
    made = errata("submit", tmp_path / "two.jsonl", "--dry-run", "--json").json
    good, bad = made.pop("records")
    assert made == {"good": 1, "bad": 1} and (good["row"], good["verdict"]) == (1, "good")
    assert good["edit"]["subject"] == "A" and good["edit"]["id"]
    assert (bad["row"], bad["verdict"], bad["field"]) == (2, "bad", "subject") and "subject" in bad["reason"]


def test_files_are_read_alike_by_every_command_and_what_is_left_out_is_said(errata, tmp_path, monkeypatch):
    good = {"id": "good", "subject": "Ada", "prompt": "{} lives in", "target_new": "Rome", "annotator": "A"}
    (tmp_path / "a.json").write_text(json.dumps([good, good | {"target_new": "Bonn"}]))
    (tmp_path / "b.json").write_text(json.dumps([good | {"id": "b", "subject": "Bo"}]))
    dry = errata("submit", tmp_path / "a.json", tmp_path / "b.json", "--dry-run", "--json", "--join", "none").json
    assert (dry["good"], dry["bad"]) == (2, 1)
    assert dry["not_used"] == ["a.json: `annotator` not used", "b.json: `annotator` not used"]
    taught = [row["taught"] for row in dry["records"] if row["verdict"] == "good"]
    assert taught == ["Ada lives inRome", "Bo lives inRome"]
    check_one_line(errata("submit", tmp_path / "a.json", "--join", "and"), 2, "join 'and' is neither white space nor")
    made = errata("submit", tmp_path).out
    assert "2 queued, 0 already there, 1 rejected" in made and "stands" not in made
    assert "2 already there" in errata("submit", tmp_path).out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "b.json").read_bytes())))
    assert "1 already there" in errata("submit", "-").out


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process cannot be set here")
def test_history_tells_time_in_utc_wherever_it_is_read(errata, monkeypatch):
    errata(*single())
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        events = errata("history", "--json").json
        shown = errata("history").out
    finally:
        monkeypatch.undo()
        time.tzset()
    times = [datetime.fromisoformat(event["time"]) for event in events]
    assert all(found.utcoffset() == timedelta(0) for found in times)
    assert abs(datetime.now(UTC) - times[0]) < timedelta(hours=1)
    assert f"{times[0]:%Y-%m-%d}" in shown


@pytest.mark.parametrize(
    ("patched", "arguments", "says"),
    [
        ("tasks.ledger.intake.submit", single(), "not queued twice"),
        ("flows.cli.prefect_api.check_server", ("run",), "what was committed stands, the rest is still queued"),
        ("flows.cli.prefect_api.check_server", ("train-mend", "{data}"), "checkpoints stand; start it again"),
        ("flows.cli.prefect_api.check_server", ("trial", "{data}"), "a trial keeps nothing"),
        ("flows.benchmark.run_benchmark", ("benchmark", "{data}", "--out", "x"), "nothing was written"),
        ("tasks.review.decisions.approve", ("approve",), "errata status main says where the line stands"),
    ],
)
def test_ctrl_c_is_answered_with_what_is_true_of_the_command(errata, monkeypatch, tmp_path, patched, arguments, says):
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(patched, interrupted)
    edits = [
        {"subject": f"A{i}", "prompt": "{} is", "target_new": "b", "neighborhood": [{"prompt": "C is"}]}
        for i in range(200)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, edits)))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        ran = errata(*(str(part).replace("{data}", str(tmp_path / "data.jsonl")) for part in arguments))
    assert (ran.code, ran.err.count("\n")) == (130, 1) and ran.err.startswith("stopped; ") and says in ran.err


@pytest.mark.parametrize("place", ["gs://bucket/x", "az://x/y", "abfss://x@y/z", "http://host/x"])
@pytest.mark.parametrize("setting", ["LEDGER", "STORE"])
def test_a_place_that_is_not_served_is_refused_by_name(errata, monkeypatch, tmp_path, setting, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"ERRATA_{setting}", place)
    check_one_line(errata("status"), 2, rf"ERRATA_{setting} = '{place}': .*is not served; give a folder or s3://")
    assert list(tmp_path.iterdir()) == []


def test_a_file_address_is_the_folder_that_it_names(errata, monkeypatch, tmp_path):
    monkeypatch.setenv("ERRATA_LEDGER", f"file://{tmp_path}/a%20ledger")
    errata(*single())
    assert (tmp_path / "a ledger").is_dir()


def test_a_variable_that_is_set_and_empty_counts_as_not_set(monkeypatch):
    plain = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"ERRATA_{name.upper()}", "")
    assert Settings() == plain


def test_this_machine_is_never_asked_through_a_proxy(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    load_settings(home=tmp_path / "home", cache=tmp_path / "cache")
    for host in ("127.0.0.1", "localhost", "example.org"):
        assert urllib.request.proxy_bypass_environment(host)
    assert not urllib.request.proxy_bypass_environment("example.com")


def test_the_servers_of_a_users_own_prefect_profile_are_used(monkeypatch, tmp_path):
    for name in ("PREFECT_HOME", "PREFECT_PROFILES_PATH"):
        monkeypatch.setenv(name, "")  # so that the test's end takes back what is set here
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect" / "profiles.toml").write_text("")
    load_settings(home=tmp_path / "home", cache=tmp_path / "cache")
    assert os.environ["PREFECT_PROFILES_PATH"] == str(tmp_path / ".prefect" / "profiles.toml")
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "home" / "prefect")


ENDING = """
import atexit, sys, threading, time
import flows.cli.__main__ as entry

def command():
    atexit.register(print, "a library tidied up")
    threading.Thread(target=lambda: (time.sleep(0.2), print("a thread ended"))).start()
    print("x" * 100_000)
    {last}

entry.main = command
entry.run()
"""


@pytest.mark.parametrize(
    ("last", "code"),
    [("sys.exit(2)", 2), ("sys.exit()", 0), ("sys.exit('a reason')", 1), ("1 / 0", 1)],
)
def test_a_command_ends_at_once_with_its_code_and_nothing_is_cut_off(last, code):
    ran = subprocess.run([sys.executable, "-c", ENDING.format(last=last)], capture_output=True, text=True)
    assert ran.returncode == code, ran.stderr
    assert ran.stdout.split("\n") == ["x" * 100_000, "a thread ended", "a library tidied up", ""]
    assert ran.stderr.strip().splitlines()[-1:] == {"1 / 0": ["ZeroDivisionError: division by zero"]}.get(
        last, ["a reason"] if "reason" in last else []
    )


def test_an_output_that_nobody_reads_is_no_success():
    command = [sys.executable, "-c", ENDING.format(last="sys.exit(0)")]
    ran = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert ran.stdout is not None
    ran.stdout.close()
    assert ran.wait() != 0


@pytest.mark.parametrize("name", ["a b", "é", "a%b", "a%2", "a?b#c", "a'b", 'a"b', "a*{b}", "a<b>~`", "a%20b"])
def test_any_path_holds_a_ledger(errata, monkeypatch, tmp_path, name):
    monkeypatch.setenv("ERRATA_LEDGER", str(tmp_path / name))
    assert errata(*single()).code == 0 and errata("status", "--json").json[0]["requests"] == {"queued": 1}
    assert (tmp_path / name / "_delta_log").is_dir()
