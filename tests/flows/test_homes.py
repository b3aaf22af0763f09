"""Homes last: what an earlier release left behind opens, stands as it stood, and goes on; nothing of it is lost."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from deltalake import DeltaTable
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.flows.command import Errata, check_one_line, command
from tests.homes.archive import Home, unpack
from tests.homes.make import LENIENT, LINES
from tests.races import checker

ARCHIVES = sorted((Path(__file__).parents[1] / "homes").glob("home-*.tar.gz"))
SILENT = {"tripwires.said": "false"}
"""A random model says nothing that was written into it."""
SET = [part for name, value in (LENIENT | SILENT).items() for part in ("--set", f"{name}={value}")]
PROMPTS = ("Ada was born in", "Zoe lives in")


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the home of an earlier release, in use by this process."""
    found = unpack(request.param, tmp_path / "old")
    for name, value in found.settings.items():
        if name.startswith("ERRATA_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", found.settings["HF_HUB_CACHE"])
    return found


@pytest.fixture
def errata(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Errata:
    return command(monkeypatch, capsys)


@pytest.fixture
def with_prefect(prefect_server: str) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield


def history(errata: Errata, line: str) -> list[dict[str, Any]]:
    return errata("history", "--line", line, "--limit", 1000, "--json").json


def check_same(now: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
    """The rows are those of before, in their order; fields may have been added."""
    assert [{name: row.get(name) for name in old} for row, old in zip(now, before, strict=True)] == before


def check_nothing_lost(home: Home, errata: Errata) -> None:
    """Every event of before is there, in its place, and the line's three records agree."""
    for line in LINES:
        before = home.expected(f"history-{line}")
        check_same(history(errata, line)[: len(before)], before)
        assert checker.faults(home.home, line) == []


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_it_stands_as_the_release_that_wrote_it_said(home, errata):
    check_same(errata("status", "--json").json, home.expected("status"))
    for line in LINES:
        check_same(errata("review", line, "--json").json, home.expected(f"review-{line}"))
    check_nothing_lost(home, errata)


@pytest.mark.slow
def test_looking_at_it_changes_nothing(home, errata):
    before = {part: digests(home.home / part) for part in ("ledger", "snapshots", "artifacts")}
    looks = [("status",), *((look, line) for line in LINES for look in ("status", "review"))]
    looks += [("history", "--line", "main"), ("history", "fact-3"), ("history", "--version", "2")]
    for look in looks:
        assert errata(*look).code == 0
    errata("doctor")  # its code speaks of the whole installation
    assert {part: digests(home.home / part) for part in before} == before


DECISIONS: dict[str, tuple[tuple[tuple[str, ...], int], ...]] = {
    "approve": ((("approve", "main", "--reason", "checked"), 4),),
    "reject": ((("reject", "main", "--reason", "wrong"), 1),),
    "roll back to the base and forward": (
        (("rollback", "main", "--to", "0"), 0),
        (("rollback", "main", "--to", "1"), 1),
    ),
    "roll forward to what was taken out": ((("rollback", "main", "--to", "2"), 2), (("rollback", "main"), 1)),
    "another line": ((("rollback", "second.line"), 0), (("rollback", "second.line", "--to", "1"), 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("decisions", DECISIONS.values(), ids=DECISIONS)
def test_decisions_go_on_from_where_it_stood(home, errata, decisions):
    for arguments, in_service in decisions:
        made = errata(*arguments, "--json").json
        assert (made["in_service"], made["warning"]) == (in_service, "")
        check_nothing_lost(home, errata)


def test_what_was_queued_is_written_and_put_in_service(home, errata, with_prefect):
    for line, newest in (("main", 5), ("second.line", 2)):
        summary = errata("run", line, *SET, "--json").json
        assert (summary["kept"], summary["quarantined"], summary["version"]) == (1, 0, newest)
        check_nothing_lost(home, errata)
        assert errata("approve", line, "--json").json["in_service"] == newest
        check_nothing_lost(home, errata)


def test_what_was_submitted_before_is_known_and_what_was_taken_back_can_come_again(home, errata, tmp_path):
    known = {event["request_id"]: event["payload"] for event in home.expected("history-main") if event["payload"]}
    names = ("fact-1", "fact-3", "fact-5", "fact-8")
    (tmp_path / "requests.json").write_text(json.dumps([known[name] for name in names]))
    made = errata("submit", tmp_path / "requests.json", "--json").json
    assert made == {"queued": ["fact-3"], "present": ["fact-1", "fact-5", "fact-8"], "rejected": {}}
    check_nothing_lost(home, errata)


@pytest.mark.slow
def test_its_models_answer(home, errata):
    import mlflow.pyfunc

    [first, second] = errata("ask", *PROMPTS, "--tokens", 32, "--json").json
    assert list(first["answers"]) == ["base", "champion (version 1)", "challenger (version 4)"]
    said = [row["answers"]["champion (version 1)"] for row in (first, second)]
    mlflow.set_tracking_uri(f"sqlite:///{home.home / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/main@champion")
    assert [answer.strip() for answer in model.predict(list(PROMPTS))] == said


def newer_manifest(home: Home) -> str:
    """A version whose manifest has a format of the future; returns what its refusal must say."""
    store = home.home / "snapshots"
    snapshot = checker.read_versions(checker.Home(home.home), "main")[4].snapshot
    manifest = json.loads((store / "manifests" / f"{snapshot}.json").read_bytes())
    data = json.dumps(manifest | {"format": 99, "version": 5, "news": []}).encode()
    snapshot = hashlib.sha256(data).hexdigest()
    (store / "manifests" / f"{snapshot}.json").write_bytes(data)
    pointer = {"line": "main", "version": 5, "snapshot": snapshot}
    (store / "lines" / "main" / "versions" / "00000005.json").write_text(json.dumps(pointer))
    return f"{snapshot}.* newer "


def newer_ledger(home: Home) -> str:
    """A ledger whose mark is of the future."""
    DeltaTable(home.home / "ledger").alter.set_table_properties({"errata.format": "99"}, raise_if_not_exists=False)
    return "ledger .* newer .*99"


@pytest.mark.parametrize("command", ["status", "review", "approve", "rollback", "ask"])
@pytest.mark.parametrize("made_newer", [newer_manifest, newer_ledger], ids=["manifest", "ledger"])
def test_a_home_of_a_newer_release_is_refused_by_name(home, errata, command: str, made_newer: Callable[[Home], str]):
    says = made_newer(home)
    before = digests(home.home / "ledger")
    arguments = (command, "--line", "main", "Ada is") if command == "ask" else (command, "main")
    check_one_line(errata(*arguments), 1, says)
    assert digests(home.home / "ledger") == before
