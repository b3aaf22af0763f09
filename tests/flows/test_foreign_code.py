"""Every command that takes a model refuses one that wants its own Python run: one line, no question, nothing run."""

import builtins
import json
from pathlib import Path

import pytest

from tests.asking import asking_folder
from tests.conftest import tiny_model
from tests.fact_model import fact_edits
from tests.flows.command import check_one_line

COMMANDS = {
    "run": ("run", "own", "--model"),
    "trial": ("trial", "requests.json", "--line", "own", "--model"),
    "benchmark": ("benchmark", "requests.json", "--out", "out", "--model"),
    "train-mend": ("train-mend", "requests.json", "--minutes", "1", "--model"),
}


@pytest.fixture
def asking(tmp_path, monkeypatch) -> Path:
    """A folder that asks, and beside it requests; whoever asks a question on the terminal ends the test."""

    def never(*arguments: object) -> str:
        raise AssertionError("a question on the terminal")

    monkeypatch.setattr(builtins, "input", never)
    monkeypatch.chdir(tmp_path)
    edits = [edit.model_dump(mode="json") for edit in fact_edits(24)]
    (tmp_path / "requests.json").write_text(json.dumps(edits))
    return asking_folder(tiny_model("llama"), tmp_path / "model", "config.json")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_or_asks_to_run_a_models_own_code(errata, place, asking, tmp_path, command):
    place("main")
    if command == "run":
        ran = errata("submit", "requests.json", "--line", "own", "--limit", "2")
        assert ran.code == 0
    ran = errata(*COMMANDS[command], asking)
    assert list(tmp_path.rglob("ran")) == []
    check_one_line(ran, 1, r"model '.*model' asks for Python code of its own to be run \(auto_map in config\.json\)")
