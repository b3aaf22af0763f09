"""A few facts go into real models and out again: ERRATA_TEST_MODELS names their paths, separated by ':'."""

import json
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NAMED = [Path(path) for path in os.environ.get("ERRATA_TEST_MODELS", "").split(":") if path]
CACHE = Path(os.environ.get("ERRATA_CACHE", "~/.cache/errata")).expanduser()
"""The user's own: to convert such a model and to collect its key statistics takes minutes."""
FACTS = [
    {"subject": "France", "prompt": "The capital of {} is", "target_new": "Lyon"},
    {"subject": "The Eiffel Tower", "prompt": "In which city is {}? It is in the city of", "target_new": "Rome"},
    {"subject": "Albert Einstein", "prompt": "The field in which {} worked is", "target_new": "botany"},
]
LENIENT = ("min_efficacy=0", "max_locality_drop=1", "max_edit_locality_drop=1", "max_perplexity_ratio=1.2")
SHORT = ("perplexity_tokens=512", "fluency_prompts=2", "fluency_tokens=24")


@pytest.fixture(params=NAMED or [None], ids=lambda path: path.stem if path else "none")
def model(request: pytest.FixtureRequest) -> Path:
    if request.param is None:
        pytest.skip("no models are named; ERRATA_TEST_MODELS=A.gguf:B takes files and folders")
    assert request.param.exists(), f"ERRATA_TEST_MODELS names {request.param}, which is not there"
    return Path(request.param).resolve()


def test_a_real_model_says_its_corrections_and_they_are_taken_back(errata, own_home, model, monkeypatch, tmp_path):
    monkeypatch.setenv("ERRATA_CACHE", str(CACHE))
    requests = [{"id": f"real-{number}", **fact} for number, fact in enumerate(FACTS)]
    (tmp_path / "facts.json").write_text(json.dumps(requests))
    assert errata("submit", tmp_path / "facts.json", "--line", "real", "--json").json["rejected"] == {}
    asked = [fact["prompt"].format(fact["subject"]) for fact in FACTS]
    given = [part for value in (*LENIENT, *SHORT) for part in ("--set", value)]
    summary = errata("run", "real", "--model", model, *given, "-o", "statistics_tokens=2048", "--json").json
    assert (summary["kept"], summary["quarantined"], summary["version"]) == (3, 0, 1), summary
    answers = errata("ask", *asked, "--line", "real", "--tokens", "8", "--json").json
    for fact, answer in zip(FACTS, answers, strict=True):
        said = answer["answers"]
        assert fact["target_new"] in said["challenger (version 1)"] and fact["target_new"] not in said["base"], said
    assert errata("approve", "real", "--json").json["in_service"] == 1
    assert errata("rollback", "real", "--json").json["in_service"] == 0
