"""No Python of a model's folder is ever run, and nobody is asked whether it may be."""

import ast
import builtins
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from editing import models
from editing.errors import ModelError
from editing.models import load_model
from tests.asking import asking_folder

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("editing", "tasks", "flows", "deployments")
LOADING = ("from_pretrained", "from_config", "pipeline", "cached_tokenizer", "get_class_from_dynamic_module")
"""What transformers calls the functions that may run a repository's code."""


def loading_calls() -> Iterator[tuple[str, ast.Call]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    if name in LOADING:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", node


@pytest.mark.slow
def test_every_call_that_loads_a_model_says_that_no_code_is_trusted():
    calls = list(loading_calls())
    assert len(calls) >= 5
    for place, call in calls:
        said = {word.arg: word.value for word in call.keywords}
        trust = said.get("trust_remote_code")
        assert isinstance(trust, ast.Constant) and trust.value is False, place


@pytest.fixture
def no_question(monkeypatch) -> None:
    def never(*arguments: object) -> str:
        raise AssertionError("a question on the terminal")

    monkeypatch.setattr(builtins, "input", never)


@pytest.mark.usefixtures("no_question")
@pytest.mark.parametrize("known", [True, False], ids=["known architecture", "own architecture"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_folder_that_asks_for_its_code_is_refused_in_one_line(tiny_llama, tmp_path, file, known):
    folder = asking_folder(tiny_llama, tmp_path / "model", file, known)
    with pytest.raises(ModelError) as refused:
        load_model(str(folder), cache=tmp_path)
    message = str(refused.value)
    assert "\n" not in message and str(folder) in message and f"auto_map in {file}" in message
    assert list(tmp_path.rglob("ran")) == []


@pytest.mark.usefixtures("no_question")
def test_a_folder_from_practice_is_refused_likewise(tmp_path, monkeypatch):
    folder = ROOT.parent / "shared" / "cases" / "models" / "asks_for_code"
    if not folder.is_dir():
        pytest.skip(f"no cases at {folder}")
    monkeypatch.chdir(tmp_path)  # its code would leave a file in the current folder
    with pytest.raises(ModelError, match=r"^model '.*asks_for_code' asks for Python code of its own"):
        load_model(str(folder), cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_brings_its_own_way_to_generate_is_refused_too(tiny_llama, tmp_path):
    folder = asking_folder(tiny_llama, tmp_path / "model", "config.json", known=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
    (folder / "custom_generate").mkdir()
    (folder / "own.py").rename(folder / "custom_generate" / "generate.py")
    with pytest.raises(ModelError, match=r"asks for Python code of its own to be run \(custom_generate/generate\.py\)"):
        load_model(str(folder), cache=tmp_path)
    assert list(tmp_path.rglob("ran")) == []


def test_a_repository_that_asks_is_refused_in_the_same_words(monkeypatch, tmp_path):
    """What transformers says of a hub id, which cannot be asked for here."""
    says = "The repository a/b contains custom code.\nPlease pass the argument `trust_remote_code=True`."

    def refuse(*arguments: object, **options: object) -> None:
        raise ValueError(says)

    monkeypatch.setattr(models.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(ModelError, match=r"^model 'a/b' asks for Python code of its own .* which is never done"):
        load_model("a/b", cache=tmp_path)


def test_a_folder_whose_file_says_that_there_is_no_such_code_loads(tiny_llama, tmp_path):
    folder = asking_folder(tiny_llama, tmp_path / "model", "config.json", known=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
    assert load_model(str(folder), cache=tmp_path).digest == tiny_llama.digest
