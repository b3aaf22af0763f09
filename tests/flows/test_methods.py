"""The commands with another method than the default one."""

import json
from pathlib import Path

import pytest

from editing.methods import METHODS, method_config
from editing.methods.mend.files import save_network
from editing.models import load_model
from flows.benchmark import Benchmark, run_benchmark
from flows.cli.main import main
from tasks.lines.specs import LineSpec, read_line
from tasks.settings import Settings
from tests.flows.conftest import METHOD, POLICY
from tests.hypernetworks import untrained

SHARED = {name: value for name, value in METHOD.items() if name != "statistics_weight"}
ALPHAEDIT = SHARED | {"nullspace_threshold": 0.1, "ridge": 1.0}


def options(fields: dict[str, object]) -> list[str]:
    return [part for name, value in fields.items() for part in ("-o", f"{name}={json.dumps(value)}")]


def errata(monkeypatch, capsys, *arguments: object) -> str:
    """What the command prints when all is well."""
    monkeypatch.setattr("sys.argv", ["errata", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert not ended.value.code, printed.err
    return printed.out


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sequential", "independent"])
def test_the_benchmark_command_runs_alphaedit(mode, good_edits, shared_places, tmp_path, monkeypatch, capsys):
    for name, value in shared_places.items():
        monkeypatch.setenv(name, value)
    data = tmp_path / "edits.json"
    data.write_text(json.dumps([edit.model_dump(mode="json") for edit in good_edits[:3]]))
    made = json.loads(
        errata(
            monkeypatch, capsys, "benchmark", data, "--out", tmp_path / "out", "--json", "--mode", mode,
            "--method", "alphaedit", "--batch-size", 2, *options(ALPHAEDIT),
        )
    )  # fmt: skip
    assert (made["method"], made["edits"], made["layers"]) == ("alphaedit", 3, [0, 1])
    assert made["config"]["ridge"] == 1.0 and made["metrics"]["before"]["efficacy_argmax"] == 0
    assert made["metrics"]["after"]["efficacy_prob"] >= 0.6
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == made


FITTING = {
    "finetune": {"steps": 50, "learning_rate": 0.02, "norm_limit": 1.0},
    "ultraedit": {"scale": 2e-3},
    "lora": {"learning_rate": 0.02},
}


def gradient_step(model: str, layers: list[int], folder: Path) -> Path:
    """A hypernetwork for that base, not trained: its update is a step along the gradient."""
    loaded, path = load_model(model, cache=folder), folder / "hypernetwork.safetensors"
    save_network(untrained(loaded.model, loaded.digest, layers, step_size=0.3), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("method", ["emmet", "rome", "mend", *FITTING])
def test_a_benchmark_runs_every_other_method(method, good_edits, shared_places, tmp_path):
    assert {"memit", "alphaedit", "emmet", "rome", "mend", *FITTING} == METHODS.keys()
    data = tmp_path / "edits.json"
    data.write_text(json.dumps([edit.model_dump(mode="json") for edit in good_edits[:2]]))
    layers = [1] if METHODS[method].config.one_layer else [0, 1]
    shared = {name: value for name, value in SHARED.items() if name in METHODS[method].config.model_fields}
    fields = shared | {"layers": layers} | FITTING.get(method, {})
    if method == "mend":
        fields |= {"hypernetwork": str(gradient_step(shared_places["ERRATA_MODEL"], layers, tmp_path))}
    spec = LineSpec(line="x", model=shared_places["ERRATA_MODEL"], config=method_config(method, fields))
    asked = Benchmark(data, "sequential", 2, None, 0, None, tmp_path, perplexity_tokens=512)
    made = run_benchmark(Settings(cache=shared_places["ERRATA_CACHE"]), spec, asked)
    assert made["metrics"]["after"]["efficacy_prob"] >= 0.5 and made["layers"] == layers


def test_a_line_of_alphaedit_goes_on_in_a_second_job(place, good_edits, monkeypatch, capsys, tmp_path):
    workplace = place("other")
    policy = [part for name, value in POLICY.model_dump(exclude_defaults=True).items()
              for part in ("--set", f"{name}={json.dumps(value)}")]  # fmt: skip
    for version, edit in enumerate(good_edits[:2], start=1):
        (tmp_path / "requests.json").write_text(json.dumps([edit.model_dump(mode="json")]))
        errata(monkeypatch, capsys, "submit", tmp_path / "requests.json", "--line", "alpha")
        method = ["--method", "alphaedit", *options(ALPHAEDIT)] if version == 1 else []
        made = json.loads(errata(monkeypatch, capsys, "run", "alpha", *method, *policy, "--json"))
        assert (made["kept"], made["version"]) == (1, version)
    line = read_line(workplace.store.store, "alpha")
    assert line is not None and line.config == method_config("alphaedit", ALPHAEDIT)
