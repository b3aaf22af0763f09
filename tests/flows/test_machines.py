"""What a user's machine is like: one line, at once, where something on it keeps a command from working."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cli.prefect_server import _last_line
from tests.flows.command import check_one_line, ended, environment, single, start

BAD = "x\udcffy"
"""What an argument with a byte that is no UTF-8 becomes."""


@pytest.fixture
def no_server(monkeypatch) -> None:
    """Whoever starts Prefect's server ends the test."""

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("Prefect was started")

    monkeypatch.setattr("flows.cli.lifeline.start", never)


@pytest.fixture
def folder(saved) -> Path:
    return saved


def _spoil(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


WRONG = {
    "dtype": (lambda folder: ["--dtype", "float31"], "unknown dtype 'float31'; choose one of float64"),
    "layers": (lambda folder: ["-o", "layers=[9]"], "layer 9 leaves nothing above it"),
    "layers of a file": (
        lambda folder: ["--model", "embedded", "-o", "layers=[2, 40]"],
        "layer 40 leaves nothing above it .*: the model has 30 layers",
    ),
    "option": (lambda folder: ["-o", "depth=3"], "method memit: depth = 3"),
    "method": (lambda folder: ["--method", "rune"], "unknown method 'rune'; known are memit"),
    "folder": (lambda folder: ["--model", f"{folder}/nowhere"], "no folder '.*nowhere'"),
    "scheme": (lambda folder: ["--model", "gs://bucket/x"], "model 'gs://bucket/x': gs:// is not served"),
    "gguf": (lambda folder: ["--model", "./no.gguf"], "no file './no.gguf'"),
    "tokenizer": (lambda folder: (folder / "tokenizer.json").unlink() or [], "has no tokenizer"),
    "pointer": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n") and [],
        "model.safetensors' is a pointer of git-lfs",
    ),
    "quantised": (
        lambda folder: _spoil(folder, quantization_config={"quant_method": "gptq"}) or [],
        r"is quantised \(gptq\).*edit the full-precision model.*quantise what is exported",
    ),
    "experts": (
        lambda folder: _spoil(folder, model_type="mixtral", architectures=["MixtralForCausalLM"]) or [],
        "architecture 'mixtral' of model '.*' cannot be edited: each of its layers spreads the MLP over 8 experts",
    ),
    "states": (
        lambda folder: _spoil(folder, model_type="mamba", architectures=["MambaForCausalLM"]) or [],
        "architecture 'mamba' of model '.*' cannot be edited: its layers keep a running state",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("command", ["run", "trial"])
def test_what_is_wrong_with_a_base_is_found_before_prefect_starts(
    errata, monkeypatch, folder, tmp_path, no_server, command, wrong
):
    spoil, says = WRONG[wrong]
    more = spoil(folder)
    if command == "trial" and wrong == "dtype":
        monkeypatch.setenv("ERRATA_DTYPE", "float31")
        more = []
    (tmp_path / "edits.json").write_text(json.dumps([{"subject": "Ada", "prompt": "{} is", "target_new": "b"}]))
    given = ["new"] if command == "run" else [tmp_path / "edits.json", "--line", "new"]
    model = [] if "--model" in more else ["--model", folder]
    ran = errata(command, *given, *model, *more)
    check_one_line(ran, ran.code, says)
    assert ran.code in (1, 2)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--text", "no.txt"), "cannot read 'no.txt': .*No such file"),
        (("--statistics-text", "no.txt"), "cannot read 'no.txt': .*No such file"),
        (("--set", 'ability=["no.json"]'), "cannot read the .* 'no.json'"),
        (("--only", "nobody"), "request 'nobody' is not queued on line 'main'"),
        (("--policy", "no.toml"), "no.toml"),
        (("--method", "mend", "--hypernetwork", "nobody"), "there is no hypernetwork 'nobody'"),
    ],
)
def test_what_a_job_would_miss_is_found_before_prefect_starts(errata, folder, no_server, given, says):
    ran = errata("run", "--model", folder, *given)
    check_one_line(ran, ran.code, says)


def test_a_training_of_layers_that_are_not_there_is_refused_before_prefect_starts(errata, folder, tmp_path, no_server):
    names = [f"Ada {number}" for number in range(200)]
    neighbors = [{"prompt": "Bo lives in", "answer": "Oslo"}]
    records = [{"subject": n, "prompt": "{} is in", "target_new": "Rome", "neighborhood": neighbors} for n in names]
    (tmp_path / "data.json").write_text(json.dumps(records))
    ran = errata("train-mend", tmp_path / "data.json", "--model", folder, "--layer", "9", "--minutes", "1")
    check_one_line(ran, 2, "layer 9 is above the model's last one; choose layers of 0 to 3")


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "meta", ":"])
def test_a_device_that_is_not_there_is_found_before_prefect_starts(errata, monkeypatch, folder, no_server, device):
    monkeypatch.setenv("ERRATA_DEVICE", device)
    check_one_line(errata("run", "--model", folder), 2, f"device '{device}' cannot be used here")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ARTIFACTS", "gs://bucket/x", "MLflow's artifacts cannot be kept at 'gs://bucket/x' .No module named 'google"),
        ("ARTIFACTS", "zork://bucket/x", "MLflow's artifacts cannot be kept at 'zork://bucket/x' "),
        ("TRACKING_URI", "mysql://me:geheim@127.0.0.1:9/x", "No module named 'MySQLdb'.*install its driver"),
        ("TRACKING_URI", "sqlite:////proc/no/x.db", "MLflow database sqlite:////proc/no/x.db cannot be used"),
    ],
)
@pytest.mark.parametrize("command", ["run", "trial"])
def test_what_mlflow_cannot_use_is_found_before_prefect_starts(
    errata, monkeypatch, folder, tmp_path, no_server, name, value, says, command
):
    (tmp_path / "edits.json").write_text(json.dumps([{"subject": "Ada", "prompt": "{} is", "target_new": "b"}]))
    monkeypatch.setenv(f"ERRATA_{name}", value)
    given = ["new"] if command == "run" else [tmp_path / "edits.json", "--line", "new"]
    ran = errata(command, *given, "--model", folder)
    check_one_line(ran, 1, says)
    assert "geheim" not in ran.err


def test_a_ledger_that_is_not_reached_is_found_before_prefect_starts(errata, monkeypatch, folder, no_server):
    monkeypatch.setenv("ERRATA_LEDGER", "s3://bucket/ledger")
    monkeypatch.setenv("ERRATA_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "geheim")
    ran = errata("run", "--model", folder)
    check_one_line(ran, 1, "ledger 's3://bucket/ledger' cannot be read .*: look at the endpoint and the AWS_")
    assert "geheim" not in ran.err


@pytest.mark.parametrize("command", [("benchmark", "data.json"), ("export", "main", "--as", "merged")])
def test_results_go_to_a_folder_and_to_no_other_address(errata, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    check_one_line(errata(*command, "--out", "gs://me:geheim@bucket/x"), 2, r"gs:// is not served; give a folder")
    assert not list(tmp_path.glob("gs*"))


def test_a_model_may_be_named_as_a_file_address(errata, folder, no_server):
    with pytest.raises(AssertionError, match="Prefect was started"):
        errata("run", "--model", f"file://{folder}")


COMMANDS = {
    "approve": ("approve", "--reason", BAD),
    "reject": ("reject", "--reason", BAD),
    "rollback": ("rollback", "--reason", BAD),
    "retract": ("retract", "x", "--reason", BAD),
    "freeze": ("freeze", "--reason", BAD),
    "subject": single(BAD),
    "id": single("Ada", "{} was born in", "Rome", "--id", BAD),
    "file": ("submit", f"{BAD}.jsonl"),
    "line": ("status", BAD),
    "review": ("review", BAD),
    "ask": ("ask", BAD),
    "judge": ("judge", BAD),
    "history": ("history", BAD),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_argument_that_is_no_text_is_refused_before_anything_is_done(errata, command):
    errata(*single())
    before = errata("history", "--json").json
    check_one_line(errata(*COMMANDS[command]), 2, r"x.udcffy.*' holds bytes that are no UTF-8: write it, or rename")
    assert errata("history", "--json").json == before


@pytest.mark.parametrize("name", ["ACTOR", "HOME", "LINE", "MODEL"])
def test_a_setting_that_is_no_text_is_refused(errata, monkeypatch, name, tmp_path):
    monkeypatch.setenv(f"ERRATA_{name}", f"{tmp_path}/{BAD}")
    check_one_line(errata("status"), 2, f"'ERRATA_{name}=.*' holds bytes that are no UTF-8")
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("name", ["a%2Fb", "[a]\\|^ ?#"])
def test_everything_lies_in_a_home_whatever_its_path_holds(errata, monkeypatch, tmp_path, name):
    (tmp_path / "homes").mkdir()
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "homes" / name))
    assert errata(*single()).code == 0 and errata("status", "--json").json[0]["requests"] == {"queued": 1}
    assert [path.name for path in (tmp_path / "homes").iterdir()] == [name]


@pytest.fixture
def read_only(tmp_path) -> Path:
    """A folder on a file system that takes nothing."""
    made = tmp_path / "read only"
    made.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "errata-test", str(made)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system, and not everywhere")
    yield made
    subprocess.run(["umount", "-l", str(made)], check=True)


@pytest.mark.parametrize("below", ["", "cache"], ids=["the cache", "where it would be"])
def test_a_cache_that_cannot_be_written_is_a_warning_and_the_work_goes_on(errata, monkeypatch, read_only, below):
    monkeypatch.setenv("ERRATA_CACHE", str(read_only / below))
    ran = errata(*single())
    assert ran.code == 0 and errata("status", "--json").json[0]["requests"] == {"queued": 1}


class Broken(BaseHTTPRequestHandler):
    """What a proxy answers whose server is away."""

    def do_GET(self) -> None:
        self.send_error(502)

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_prefect_server_that_is_away_behind_a_proxy_is_one_line_at_once(errata, monkeypatch, folder):
    server = HTTPServer(("127.0.0.1", 0), Broken)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:geheim@127.0.0.1:{server.server_port}/api")
    with temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}):
        ran = errata("run", "--model", folder)
    server.shutdown()
    check_one_line(
        ran, 2, r"no Prefect server answers at http://me:\*\*\*@.* \(502 Bad Gateway\): start it, or correct"
    )


def test_a_database_that_cannot_be_set_up_is_named_by_its_error_and_not_by_its_statement():
    said = """Traceback (most recent call last):
  File "x.py", line 1, in <module>
sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database or disk is full
[SQL: 
DROP TABLE flow_run]
(Background on this error at: https://sqlalche.me/e/20/e3q8)
"""  # noqa: W291  # as SQLAlchemy writes it
    assert _last_line(said) == "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database or disk is full"


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["0", "-1", "00"])
def test_a_terminal_that_says_it_has_no_columns_is_shown_all(tmp_path, columns):
    env = environment(tmp_path / "home", COLUMNS=columns)
    assert "Queue corrections" in ended(start(("--help",), env), 60).out
    assert ended(start(single(), env), 60).code == 0
    assert "queued" in ended(start(("status",), env), 60).out


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", "| head -c 1"])
def test_who_reads_no_output_gets_no_traceback(tmp_path, closed):
    env, errors = environment(tmp_path / "home"), tmp_path / "errors"
    command = [sys.executable, "-m", "flows.cli", *single()]
    said = subprocess.run(["bash", "-c", f'"$@" 2>"{errors}" {closed}', "-", *command], env=env, capture_output=True)
    assert said.returncode == 0 and not said.stderr and (not errors.exists() or errors.read_text() == "")
    assert "1 queued" in ended(start(("status",), env), 60).out


@pytest.mark.slow
def test_a_ledger_that_became_read_only_is_one_line(read_only, tmp_path):
    env = environment(tmp_path / "home", ERRATA_LEDGER=str(read_only / "ledger"))
    subprocess.run(["mount", "-o", "remount,rw", str(read_only)], check=True)
    assert ended(start(single("Bo"), env), 60).code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(read_only)], check=True)
    check_one_line(ended(start(single(), env), 60), 1, "ledger '.*' cannot be written .Read-only file system.: make")
    assert "1 queued" in ended(start(("status",), env), 60).out


def test_the_same_file_goes_to_two_lines(errata, tmp_path):
    file = tmp_path / "two.json"
    records = [{"subject": name, "prompt": "{} was born in", "target_new": "Rome"} for name in ("Ada", "Bo")]
    file.write_text(json.dumps(records))
    for line in ("one", "two"):
        assert len(errata("submit", file, "--line", line, "--json").json["queued"]) == 2
    assert [(row["line"], row["requests"]) for row in errata("status", "--json").json] == [
        ("one", {"queued": 2}),
        ("two", {"queued": 2}),
    ]


def test_doctor_foretells_the_memory_of_a_job_from_a_configuration_alone(errata, folder):
    found = errata("doctor", "--model", folder, "--json").json
    assert found["peak_bytes"] > sum(one["stays"] for one in found["stages"][:2]) > 0
    assert [one["stage"] for one in found["stages"]][1] == "weights"
    check_one_line(errata("doctor", "--model", f"{folder}/none"), 2, "no folder '.*none'")


def test_doctor_takes_the_dtype_of_the_settings_and_options_with_dots(errata, folder, monkeypatch):
    monkeypatch.setenv("ERRATA_DTYPE", "bfloat16")
    asked = ("doctor", "--model", folder, "--json")
    found = errata(*asked).json
    assert found["dtype"] == "bfloat16" and errata(*asked, "--dtype", "float32").json["dtype"] == "float32"
    assert errata(*asked, "-o", "search.edits_at_once=1").json["peak_bytes"] < found["peak_bytes"]


EIGHT_BILLION = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256,
}  # fmt: skip


def test_doctor_foretells_from_a_configuration_whose_weights_are_not_there(errata, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(EIGHT_BILLION))
    asked = ("doctor", "--model", tmp_path, "--dtype", "bfloat16")
    found = errata(*asked, "--json").json
    assert found["parameters"] == 8_030_261_248 and 28 < found["peak_bytes"] / 2**30 < 33
    assert found["holds_weights"] is False and found["gguf_type"] is None
    assert "holds no weights (*.safetensors): a forecast from its config.json alone" in errata(*asked).out
    for name in ("model-00001-of-00002.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert errata(*asked, "--json").json == found
    _spoil(tmp_path, quantization_config={"quant_method": "fp8"})
    check_one_line(errata(*asked), 1, r"is quantised \(fp8\)")


def test_doctor_says_nothing_of_missing_weights_where_they_are(errata, folder):
    found = errata("doctor", "--model", folder, "--json").json
    assert found["holds_weights"] is True and found["gguf_type"] is None
    assert "forecast" not in errata("doctor", "--model", folder).out


@pytest.mark.slow
def test_doctor_reads_of_a_gguf_file_the_header_alone(errata, monkeypatch, tmp_path):
    def converted(*arguments: object) -> None:
        raise AssertionError("the file was converted")

    monkeypatch.setattr("editing.gguf.dequantise", converted)
    asked = ("doctor", "--model", "embedded", "--dtype", "bfloat16")
    found = errata(*asked, "--json").json
    assert found["parameters"] == 134_515_008 and found["gguf_type"] == "Q4_1" and found["holds_weights"] is True
    stages = {one["stage"]: one for one in found["stages"]}
    assert stages["conversion of GGUF"]["bytes"] == 4 * found["parameters"] == 2 * stages["weights"]["bytes"]
    assert stages["conversion of GGUF"]["stays"] == 0
    assert "its weights are Q4_1, dequantised to float32 once" in errata(*asked).out
