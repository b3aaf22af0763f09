"""The commands that carry versions out, each as a user types it."""

import json
import signal
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import carry
from tests.flows.command import Errata, check_one_line, command, ended, environment, start
from tests.receiver import receiver
from tests.tasks.carried import LINE, CarriedLine, answering

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> CarriedLine:
    """Version 1 is in service, version 2 waits."""
    made = CarriedLine(tmp_path_factory.mktemp("carried"))
    made.serve(made.make())
    made.make()
    return made


@pytest.fixture
def errata(line, monkeypatch, capsys) -> Errata:
    for name in ("home", "cache"):
        monkeypatch.setenv(f"ERRATA_{name.upper()}", str(getattr(line.settings, name)))
    return command(monkeypatch, capsys)


def test_an_export_is_shown_with_what_it_lost(errata, tmp_path):
    ran = errata("export", LINE, "--as", "lora", "--rank", 1, "--out", tmp_path / "out", "--version", "challenger")
    assert ran.code == 0 and "rank 1, " in ran.out and "of the change is lost" in ran.out
    assert "said: 0 of 4 by the version, 0 by this adapter" in ran.out
    again = errata("export", LINE, "--out", tmp_path / "out")
    check_one_line(again, 2, "is not empty; name a new one")
    told = errata("export", LINE, "--out", tmp_path / "merged", "--json").json
    assert told == json.loads((tmp_path / "merged" / "errata.json").read_text()) and told["version"] == 1


def test_a_server_is_verified_by_exit_code_table_and_history(line, errata):
    with answering(line) as (url, _):
        given = ("verify", LINE, "--url", f"{url}/v1", "--model", LINE)
        ran = errata(*given)
        assert ran.code == 0 and f"{LINE} at {url}/v1 serves version 1 of line {LINE}" in ran.out
        other = errata(*given, "--version", 2)
        assert other.code == 1 and f"does not serve version 2 of line {LINE}" in other.out and "differs" in other.out
        assert "served_other" in errata("history", "r2-0", "--line", LINE).out
        assert errata("audit", LINE, "--no-mlflow").code == 0
        wrong = errata("verify", LINE, "--url", f"{url}/v1", "--model", "capitals")
    check_one_line(wrong, 1, f"model 'capitals' is not served here; this is '{LINE}'; it has {LINE}")
    check_one_line(errata(*given), 1, "does not answer")


def test_as_flows_they_end_with_what_came_of_it_show_it_and_people_are_told(
    line, errata, prefect_server, tmp_path, monkeypatch
):
    heard: list[dict] = []
    with (
        temporary_settings({PREFECT_API_URL: prefect_server}),
        answering(line) as (url, _),
        receiver(heard.append) as told,
    ):
        monkeypatch.setenv("ERRATA_NOTIFY", told)
        exported = carry.export(LINE, tmp_path / "out", "lora", "2", 1, return_state=True)
        served = carry.verify(LINE, f"{url}/v1", LINE, return_state=True)
        other = carry.verify(LINE, f"{url}/v1", LINE, "2", return_state=True)
        away = carry.verify(LINE, "http://127.0.0.1:1/v1", LINE, return_state=True)
        with get_client(sync_client=True) as client:
            shown = [(one.key, one.data) for one in client.read_artifacts()]
    assert exported.is_completed() and f"version 2 of line {LINE} as lora: {tmp_path}/out, " in exported.message
    assert served.is_completed() and f"serves version 1 of line {LINE}" in served.message
    assert other.is_failed() and f"does not serve version 2 of line {LINE}" in other.message
    assert away.is_failed() and "does not answer" in away.message
    assert [(one["title"].partition(": ")[2], one["type"]) for one in heard] == [
        ("served other", "warning"), ("failed", "warning")
    ]  # fmt: skip
    assert f"does not serve version 2 of line {LINE}" in heard[0]["message"] and "not verified" in heard[1]["message"]
    [files] = [data for key, data in shown if key == f"{LINE}-export"]
    answers = [data for key, data in shown if key == f"{LINE}-verify"]
    assert "| README.md |" in files and ["differs" in data for data in answers].count(True) == 1


def test_the_server_says_where_it_is_and_ends_at_ctrl_c(line, tmp_path):
    settings = environment(Path(line.settings.home), ERRATA_CACHE=str(line.settings.cache))
    process = start(("serve", LINE, "--port", "0"), settings)
    try:
        said = next(line for line in process.stdout if " answers at " in line)
        url = said.rpartition(" answers at ")[2].partition("/v1")[0]
        asked = {"model": LINE, "prompt": "Rome", "max_tokens": 4}
        answer = httpx.post(f"{url}/v1/completions", json=asked, timeout=60)
        assert answer.status_code == 200 and answer.headers["x-errata-version"] == "1", answer.text
        foreign = httpx.get(f"{url}/version", headers={"host": "elsewhere.example"})
        assert foreign.status_code == 403 and "start the server with --host" in foreign.text
        process.send_signal(signal.SIGINT)
        ran = ended(process)
    finally:
        process.kill()
    assert said.startswith(f"version 1 of line {LINE} answers at http://127.0.0.1:")
    assert (ran.code, ran.err.splitlines()[-1]) == (130, "stopped; nothing is served any more")
    assert "Traceback" not in ran.err


def test_what_cannot_be_served_is_one_line(line, errata):
    check_one_line(errata("serve", "nowhere", "--port", 0), 2, "there is no line 'nowhere'")
    with answering(line) as (url, _):
        check_one_line(errata("serve", LINE, "--port", url.rpartition(":")[2]), 2, "in use; choose another")
    check_one_line(errata("serve", LINE, "--host", "256.0.0.1"), 2, "--host 256.0.0.1")


def test_a_mistake_in_moving_or_keeping_is_one_line_and_nothing_is_changed(line, errata, tmp_path):
    """Before Prefect starts, and before anything is loaded."""
    home = Path(line.settings.home)
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    assert errata("backup", tmp_path / "backup").code == 0
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    for arguments, code, says in (
        (("migrate", LINE, "--model", line.spec.model, "--to", "x"), 2, "stands on .* already; name another --model"),
        (("migrate", LINE, "--model", other, "--to", "x"), 1, "bert"),
        (("migrate", LINE, "--model", tmp_path / "none", "--to", "x"), 2, "none"),
        (("export", LINE, "--version", 0, "--as", "lora", "--out", tmp_path / "out"), 2, "is the base, so there is no"),
        (("verify", LINE, "--url", "http://127.0.0.1:1/v1", "--model", LINE), 1, "does not answer"),
        (("forget", "r1-0", "--line", LINE), 2, "to forget needs a reason"),
        (("forget", "r9", "--line", LINE, "--reason", "x"), 2, "knows no request 'r9'"),
        (("restore", tmp_path / "backup"), 2, "is not empty: restore into a new home"),
        (("promote", LINE, "--from", tmp_path / "none"), 2, "is no folder"),
        (("backup", tmp_path / "backup"), 2, "is there already"),
    ):
        check_one_line(errata(*arguments), code, says)
        assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before, arguments
    assert not (tmp_path / "out").exists()
