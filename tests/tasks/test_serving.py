"""Versions that answer: in one process side by side, and as MLflow's models where Errata is not installed."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

from editing.errors import ModelError
from editing.filled import Filled
from editing.layout import layout_of
from editing.measure.fluency import generate
from editing.models import load_model, quiet_transformers
from editing.weights import EditedWeights, Factors
from tasks.lines.specs import LineSpec
from tasks.lines.stored import spec_key
from tasks.review.asking import ask_all, columns_of
from tasks.serving.loading import load_version
from tasks.settings import Settings
from tasks.stores.manifest import Manifest, Version
from tasks.stores.opening import open_store
from tasks.stores.snapshots import SnapshotStore
from tasks.tracking.client import Tracker
from tasks.tracking.stored_model import SERVED_MODEL, SERVED_WITH, requirements
from tasks.workplace import Workplace, open_workplace
from tests.conftest import END, tiny_model
from tests.editing.test_chat import TEMPLATE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SITE_PACKAGES = sysconfig.get_path("purelib")
PROMPTS = ["Ada Lovelace was born in", "The moon is"]
WEIGHTS = ("model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight")


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("serving")
    made = tiny_model("llama")
    with quiet_transformers():
        made.tokenizer.chat_template = TEMPLATE
        made.model.save_pretrained(folder / "model")
        made.tokenizer.save_pretrained(folder / "model")
    return Settings(home=folder / "home", cache=folder / "cache", model=str(folder / "model"))


@pytest.fixture(scope="module")
def workplace(settings) -> Workplace:
    return open_workplace(settings)


@pytest.fixture(scope="module")
def versions(workplace) -> dict[int, Version]:
    """Version 2 builds on 1; 3 builds on the base and touches another weight."""
    made: dict[int, Version] = {}
    for number, parent, weight in ((1, None, 0), (2, 1, 0), (3, None, 1)):
        chain = workplace.store.chain(made[parent].snapshot) if parent else []
        loaded = load_model(workplace.settings.model, cache=workplace.settings.cache_folder)
        weights, name = EditedWeights(loaded.model, layout_of(loaded.model)), WEIGHTS[weight]
        stored = [workplace.store.tensors(manifest) for manifest in chain] + [factors(number, name)]
        for tensors in stored:
            weights.apply({name: Factors(tensors[f"B/{name}"], tensors[f"A/{name}"])})
        manifest = Manifest(
            line="line", version=number, parent=made[parent].snapshot if parent else None, batch=number,
            base=workplace.settings.model, base_digest=loaded.digest, config={}, request_ids=(f"r{number}",),
            tensor_digests=weights.digests(),
        )  # fmt: skip
        made[number] = workplace.store.publish(manifest, stored[-1])
    return made


def factors(seed: int, name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    B, A = torch.randn(32, 1, generator=generator), torch.randn(1, 64, generator=generator)
    return {"z_star": torch.zeros(1, 32), f"B/{name}": B, f"A/{name}": A}


def pointer(version: Version, settings: Settings) -> dict[str, object]:
    return {
        "line": "line", "version": version.number, "snapshot": version.snapshot, "store_uri": settings.store_uri,
        "endpoint_url": None, "base": version.manifest.base, "base_digest": version.manifest.base_digest,
        "dtype": "float32", "max_new_tokens": 5,
    }  # fmt: skip


def alone(version: Version, settings: Settings) -> list[str]:
    return load_version(pointer(version, settings), settings).answer(PROMPTS, 5)


@pytest.mark.parametrize(("champion", "challenger"), [(1, 2), (2, 1), (1, 3), (3, 2), (None, 3), (2, None), (0, 1)])
def test_every_column_answers_as_its_version_does_alone(workplace, versions, settings, champion, challenger):
    moves = SnapshotStore(open_store(settings.store_uri))
    if champion is not None:
        moves.move_head("line", versions.get(champion), moves.head("line"), "promote", "tester", "asked")
    head = moves.head("line") if champion is not None else None
    columns = columns_of(head, [versions[challenger]] if challenger else [])
    asked = ask_all(workplace, LineSpec(line="line", model=settings.model), columns, PROMPTS, 5)
    names = ["base", *([f"champion (version {champion})"] if champion else [])]
    names += [f"challenger (version {challenger})"] if challenger else []
    assert [list(row["answers"]) for row in asked] == [names, names]
    for number, name in [(champion, names[1]), (challenger, names[-1])]:
        if number:
            said = [text.strip() for text in alone(versions[number], settings)]
            assert [row["answers"][name] for row in asked] == said
    assert len({row["answers"][name] for row in asked[:1] for name in names}) == len(names)


# As a model of MLflow.


@pytest.fixture(scope="module")
def tracker(settings) -> Tracker:
    return Tracker(settings.mlflow_uri, settings.artifact_root, "serving")


def isolated(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python that finds what is installed, but for Errata, whose code is neither on its path nor found otherwise."""
    start = f"import sys; sys.path.append({SITE_PACKAGES!r})\n"
    command = [sys.executable, "-I", "-S", "-c", start + script, *map(str, arguments)]
    kept = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.run(command, cwd="/", env=kept | environment, capture_output=True, text=True, timeout=300)


PREDICT = """
import json
from mlflow.cli import cli
cli(["models", "predict", *sys.argv[2:], "--env-manager", "local"], standalone_mode=False)
ours = {name: sys.modules[name].__file__ for name in sys.modules if name.split(".")[0] in ("editing", "tasks", "flows")}
open(sys.argv[1], "w").write(json.dumps(ours))
"""


@pytest.mark.slow
def test_mlflow_predicts_in_an_environment_without_errata(tracker, versions, settings, tmp_path):
    run_id = tracker.start_run("line", "job", {}, {})
    number = tracker.register_version("line", run_id, pointer(versions[2], settings))
    (tmp_path / "prompts.json").write_text(json.dumps({"inputs": PROMPTS}))
    asked = ("-m", f"models:/line/{number}", "-i", tmp_path / "prompts.json", "-o", tmp_path / "answers.json")
    places = {"ERRATA_HOME": str(settings.home), "ERRATA_CACHE": str(settings.cache)}
    ran = isolated(PREDICT, tmp_path / "ours.json", *asked, MLFLOW_TRACKING_URI=settings.mlflow_uri, **places)
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "answers.json").read_text())["predictions"] == alone(versions[2], settings)
    ours = json.loads((tmp_path / "ours.json").read_text())
    assert "tasks.serving.loading" in ours and all("/code/errata.zip/" in file for file in ours.values() if file)


@pytest.fixture
def invoked(tracker, versions, settings, monkeypatch):
    """What MLflow's server answers to a body, with its status: its own application, without a port."""
    import mlflow.pyfunc
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    run_id = tracker.start_run("line", "job", {}, {})
    number = tracker.register_version("line", run_id, pointer(versions[2], settings))
    for name in ("HOME", "CACHE"):
        monkeypatch.setenv(f"ERRATA_{name}", str(getattr(settings, name.lower())))
    for name in ("TRACKING", "REGISTRY"):
        monkeypatch.setenv(f"MLFLOW_{name}_URI", settings.mlflow_uri)
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow adds the stored code
    client = TestClient(scoring_server.init(mlflow.pyfunc.load_model(f"models:/line/{number}")))

    def invoke(body: dict[str, object]) -> tuple[int, object]:
        answer = client.post("/invocations", json=body)
        return answer.status_code, answer.json()

    return invoke


def test_the_served_model_answers_conversations_beside_prompts(invoked, versions, settings):
    loaded = load_version(pointer(versions[2], settings), settings).loaded
    messages = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."}, {"role": "user", "content": f"Where {END} was Ada born?"},
    ]  # fmt: skip
    rendered = loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    start = rendered.index(f"Where {END}")
    asked = Filled(rendered, (start, start + len(messages[-1]["content"])), rendered=True)
    expected = generate(loaded.model, loaded.tokenizer, [asked], 5)
    assert invoked({"messages": messages}) == (200, expected)
    assert invoked({"messages": messages, "max_new_tokens": 2}) == (
        200, generate(loaded.model, loaded.tokenizer, [asked], 2)
    )  # fmt: skip
    assert invoked({"inputs": PROMPTS}) == (200, {"predictions": alone(versions[2], settings)})
    assert invoked({"prompt": PROMPTS[0]}) == (200, alone(versions[2], settings)[:1])
    status, told = invoked({"messages": messages, "prompt": "x"})
    assert status == 400 and "the input has both prompt and messages; give one of them" in told["message"]


def test_messages_without_a_system_message_get_the_lines_and_others_keep_their_own(versions, settings):
    store, user = open_store(settings.store_uri), {"role": "user", "content": "Ada was born in"}
    plain = load_version(pointer(versions[2], settings), settings)
    asked = [[{"role": "system", "content": said}, user] for said in ("Be brief.", "The moon is old.")]
    expected = plain.converse(asked, 8)
    spec = LineSpec(line="line", model=settings.model, template="chat", system="Be brief.")
    store.put(spec_key("line"), spec.model_dump_json().encode())
    answerer = load_version(pointer(versions[2], settings), settings)
    store.delete(spec_key("line"))
    assert answerer.converse([[user], asked[1]], 8) == expected
    assert plain.converse([[user]], 8)[0] not in expected


def test_messages_are_refused_by_a_model_without_a_template(versions, settings):
    answerer = load_version(pointer(versions[2], settings), settings)
    answerer.loaded.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        answerer.converse([[{"role": "user", "content": "Hi"}]])


def test_a_stored_model_lists_whatever_its_code_imports():
    listed = {re.sub(r"[-_.]+", "-", name.lower()) for name in SERVED_WITH}
    for name in SERVED_WITH:
        needed = [text for text in importlib.metadata.requires(name) or [] if "extra ==" not in text]
        listed |= {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", text)[0].lower()) for text in needed}
    homes = importlib.metadata.packages_distributions()
    lacking = {
        package: homes.get(package, ["unknown"])
        for package in foreign_imports(SERVED_MODEL) - {"peft"}  # the method lora imports it when it learns
        if not any(re.sub(r"[-_.]+", "-", home.lower()) in listed for home in homes.get(package, []))
    }
    assert not lacking
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in requirements())


def foreign_imports(start: Path) -> set[str]:
    """Top-level packages that a file, and whatever of Errata it reaches by imports, imports anywhere that ever runs."""
    foreign: set[str] = set()
    seen, left = set(), [start]
    while left:
        path = left.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        for node in ast.walk(tree):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [f"{node.module}.{alias.name}" for alias in node.names] if names else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                parts = name.split(".")
                if parts[0] in ("editing", "tasks", "flows"):
                    left += [ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
                    left.append(ROOT.joinpath(*parts).with_suffix(".py"))
                elif parts[0] not in sys.stdlib_module_names:
                    foreign.add(parts[0])
    return foreign


CHOOSE = """
import importlib.util
spec = importlib.util.spec_from_file_location("served_model", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import pathlib
stored, plain = pathlib.Path(sys.argv[2]), list(sys.path)
for site in sys.argv[3:]:
    sys.path = [site, *plain]
    module.make_errata_importable(stored, "0.2.0")
    module.make_errata_importable(stored, "0.2.0")
    print(sys.path.index(str(stored)) == 0, sys.path.count(str(stored)))
"""


def test_the_stored_code_stands_back_for_an_installed_errata_that_is_no_older(tmp_path):
    with zipfile.ZipFile(tmp_path / "errata.zip", "w"):
        pass
    for release in ("0.1.9", "0.2.0", "1.0"):
        folder = tmp_path / release / f"errata_lm-{release}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: errata-lm\nVersion: {release}\n")
    sites = [tmp_path / release for release in ("0.1.9", "0.2.0", "1.0")]
    ran = isolated(CHOOSE, SERVED_MODEL, tmp_path / "errata.zip", *sites)
    assert ran.stdout.split("\n")[:3] == ["True 1", "False 1", "False 1"], ran.stderr


def test_a_model_that_release_0_1_stored_still_answers(tracker, versions, settings, tmp_path, monkeypatch):
    import mlflow

    code = tmp_path / "served_model.py"
    code.write_text(Path(__file__).with_name("stored").joinpath("served_model_0_1.txt").read_text())
    run_id = tracker.start_run("line", "job", {}, {})
    number = tracker.register_version("line", run_id, pointer(versions[1], settings), code)
    for name in ("HOME", "CACHE"):
        monkeypatch.setenv(f"ERRATA_{name}", str(getattr(settings, name.lower())))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.mlflow_uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", settings.mlflow_uri)
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow adds the stored code
    assert mlflow.pyfunc.load_model(f"models:/line/{number}").predict(PROMPTS) == alone(versions[1], settings)
