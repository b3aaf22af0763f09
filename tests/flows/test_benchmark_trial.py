"""Benchmarks and trials on the fact model: what they report, that they agree, and that a trial leaves no trace."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from editing.edit import Edit
from editing.errors import UsageError
from editing.methods import method_config
from editing.models import base_digest
from flows import benchmark as module
from flows import trial as trials
from flows.benchmark import Benchmark, read_benchmark, run_benchmark
from tasks.lines.specs import LineSpec
from tasks.progress import NoteKind, Silent, listening
from tasks.settings import Settings
from tasks.update.session import Session, open_session
from tests.fact_model import FACT_TEXT, fact_edits
from tests.flows.conftest import METHOD

FIELDS = {
    "edits", "model", "method", "mode", "batch_size", "seed", "layers", "config", "seconds_per_edit",
    "evaluation_seconds", "peak_rss_mb", "metrics", "fluency", "perplexity",
}  # fmt: skip
METRICS = {f"{what}_{how}" for what in ("efficacy", "generalization", "locality") for how in ("prob", "argmax")}
EDITS = fact_edits(4)


@pytest.fixture(scope="module")
def settings(shared_places) -> Settings:
    return Settings(cache=Path(shared_places["ERRATA_CACHE"]))


@pytest.fixture(scope="module")
def spec(shared_places) -> LineSpec:
    return LineSpec(line="trial", model=shared_places["ERRATA_MODEL"], config=method_config("memit", METHOD))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Edits evaluated together: not all of a test's, so that chunks meet."""
    monkeypatch.setattr(trials, "EDITS_AT_ONCE", 3)
    monkeypatch.setattr(module, "EVALUATED_AT_ONCE", 3)


@pytest.fixture
def sessions(monkeypatch) -> list[Session]:
    """Every session that a benchmark or trial opens in this test."""
    seen: list[Session] = []

    def opened(*arguments: Any, **options: Any) -> Session:
        seen.append(open_session(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(module, "open_session", opened)
    monkeypatch.setattr(trials, "open_session", opened)
    return seen


@pytest.fixture
def run(settings, spec, tmp_path):
    def call(mode: str, edits: list[Edit], **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        data, out = tmp_path / "data.jsonl", tmp_path / mode
        data.write_text("\n".join(edit.model_dump_json() for edit in edits))
        asked = {"mode": mode, "batch_size": 2, "limit": None, "seed": 0, "text": None, "perplexity_tokens": 1024}
        result = run_benchmark(settings, spec, Benchmark(data=data, out=out, **(asked | options)))
        assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(result))
        return result, json.loads((out / "edits.json").read_text())

    return call


def unchanged(session: Session) -> bool:
    return base_digest(session.loaded.model) == session.loaded.digest


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sequential", "independent", "rebase"])
def test_a_benchmark_writes_the_documented_fields(run, sessions, mode, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(FACT_TEXT))
    result, rows = run(mode, EDITS, text=tmp_path / "text.txt")
    assert result.keys() == FIELDS and result["edits"] == len(rows) == len(EDITS) and result["mode"] == mode
    before, after = result["metrics"]["before"], result["metrics"]["after"]
    assert before.keys() == METRICS and after.keys() == METRICS | {"locality_kept", "locality_kept_tokens"}
    assert all(0 <= value <= 1 for value in (*before.values(), *after.values()))
    assert before["efficacy_argmax"] == 0.0 and after["efficacy_prob"] > before["efficacy_prob"]
    for name in ("fluency", "perplexity"):
        assert result[name].keys() == {"before", "after"} and min(result[name].values()) > 0
    assert result["perplexity"]["after"] != result["perplexity"]["before"]
    assert result["seconds_per_edit"] > 0 and result["evaluation_seconds"] > 0 and result["peak_rss_mb"] > 100
    assert unchanged(sessions[0]) == (mode == "independent")
    if mode == "independent":
        assert {row["edit_id"] for row in rows} == {edit.id for edit in EDITS}


@pytest.mark.slow
def test_of_one_edit_trial_independent_and_sequential_say_the_same(run, settings, spec):
    [row] = trials.try_each(settings, spec, EDITS[:1])
    _, [alone] = run("independent", EDITS[:1])
    _, [written] = run("sequential", EDITS[:1])
    assert alone == written
    assert row.after == {name: value for name, value in written.items() if isinstance(value, float)}


@pytest.mark.slow
def test_a_trial_of_several_says_of_each_what_a_trial_of_it_alone_says(settings, spec, sessions):
    together = trials.try_each(settings, spec, EDITS, probes=2)
    assert [row.request_id for row in together] == [edit.id for edit in EDITS]
    for row, edit in zip(together, EDITS, strict=True):
        assert trials.try_each(settings, spec, [edit], probes=2) == [row]
        assert row.answer_before.startswith(edit.target_true) and row.before["efficacy_argmax"] == 0.0
        assert row.answer_after.startswith(edit.target_new) == (row.after["efficacy_argmax"] == 1.0)
    assert all(unchanged(session) for session in sessions)
    assert all(session.live == [] and session.method_input.history.count == 0 for session in sessions)


def test_a_benchmark_takes_the_first_edits_of_a_seeded_shuffle(tmp_path):
    data = tmp_path / "data.jsonl"
    edits = fact_edits(20)
    data.write_text("\n".join([edit.model_dump_json() for edit in edits] + ["{}", edits[0].model_dump_json()]))
    expected = list(edits)
    random.Random(3).shuffle(expected)
    assert read_benchmark(data, None, 3) == expected and read_benchmark(data, 5, 3) == expected[:5]
    assert read_benchmark(data, 5, 4) != expected[:5]


def test_a_file_without_any_edit_is_refused(tmp_path):
    (tmp_path / "data.jsonl").write_text("{}\n[]\n")
    with pytest.raises(
        UsageError, match=r"data\.jsonl' holds no edit that can be used; look at it with `errata submit"
    ):
        read_benchmark(tmp_path / "data.jsonl", None, 0)


class Heard(Silent):
    """A listener that remembers notes."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []

    def note(self, text: str, kind: NoteKind) -> None:
        self.notes.append((kind, text))


def test_what_a_benchmark_leaves_out_of_its_file_it_says_with_the_row_and_the_reason(tmp_path):
    data = tmp_path / "data.jsonl"
    bad = json.dumps({"subject": "Amy", "prompt": "She lives in", "target_new": "Rome"})
    data.write_text("\n".join([EDITS[0].model_dump_json(), bad]))
    heard = Heard()
    with listening(heard):
        assert read_benchmark(data, None, 0) == [EDITS[0]]
    [(kind, text)] = heard.notes
    assert kind == "refused" and text.startswith("row 2 is left out: ") and "Amy" in text
