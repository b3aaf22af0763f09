"""Benchmarks and trials on the fact model: what they report, that they agree, and that a trial leaves no trace."""

import json
import random
import re
import shutil
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import pytest
from transformers import AutoTokenizer

from editing.edit import Edit, Probe
from editing.errors import ReadError, UsageError
from editing.methods import method_config
from editing.models import base_digest
from flows import benchmark as module
from flows import benchmark_states
from flows import trial as trials
from flows.benchmark import Benchmark, read_benchmark, run_benchmark
from flows.benchmark_facts import read_facts, read_references
from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.ledger.trying import as_records, read_to_try
from tasks.lines.specs import LineSpec, resolve_line
from tasks.progress import listening
from tasks.settings import Settings
from tasks.update.session import Session, open_session
from tests.fact_model import FACT_TEXT, fact_edits
from tests.flows.conftest import METHOD, POLICY
from tests.heard import Heard

FIELDS = {
    "edits", "model", "method", "mode", "batch_size", "rebase_every", "seed", "layers", "config", "seconds_per_edit",
    "evaluation_seconds", "peak_rss_mb", "metrics", "fluency", "perplexity", "template", "said", "probes",
    "portability", "locality", "in_context", "answers", "counterfact", "curve", "records", "left_out", "not_used",
    "findings",
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
    monkeypatch.setattr(benchmark_states, "EDITS_AT_ONCE", 3)


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


def apart(one: Session, other: Session) -> float:
    """How far the changed weights of two sessions are apart, as a share."""
    changes = [(one.weights.change(name), other.weights.change(name)) for name in one.weights.base]
    return max(float((a - b).norm() / b.norm()) for a, b in changes)


def unchanged(session: Session) -> bool:
    return base_digest(session.loaded.model) == session.loaded.digest


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sequential", "independent", "rebase"])
def test_a_benchmark_writes_the_documented_fields(run, sessions, mode, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(FACT_TEXT))
    result, rows = run(mode, EDITS, text=tmp_path / "text.txt")
    assert result.keys() == FIELDS | ({"kl"} if mode != "independent" else set())
    assert result["edits"] == len(rows) == len(EDITS) and result["mode"] == mode
    before, after = result["metrics"]["before"], result["metrics"]["after"]
    assert before.keys() == METRICS and after.keys() == METRICS | {"locality_kept", "locality_kept_tokens"}
    assert all(0 <= value <= 1 for value in (*before.values(), *after.values()))
    assert before["efficacy_argmax"] == 0.0 and after["efficacy_prob"] > before["efficacy_prob"]
    assert result["fluency"].keys() == {"before", "after"} and min(result["fluency"].values()) > 0
    text = result["perplexity"]
    assert text["after"] != text["before"] > 0 and text["ratio"] == text["after"] / text["before"]
    assert text["stderr"]["before"] > 0 and (text["stderr"]["ratio"] is None) == (mode == "independent")
    assert result["said"].keys() == {"prompt", "paraphrase"}  # this model has no chat
    for one in result["said"].values():
        assert one["before"] == 0.0 and one["old_before"] > 0.5 and one["after"] >= one["before"]
    assert result["said"]["prompt"]["after"] == after["efficacy_argmax"]
    assert result["in_context"]["edits"] == len(EDITS) and result["in_context"]["metrics"].keys() == after.keys()
    assert sum(one["edits"] for one in result["answers"].values()) == len(EDITS)
    score = result["counterfact"]["after"]["score"]
    assert score == pytest.approx(
        harmonic_mean([after[f"{name}_prob"] for name in ("efficacy", "generalization", "locality")])
    )
    assert result["seconds_per_edit"] > 0 and result["evaluation_seconds"] > 0 and result["peak_rss_mb"] > 100
    assert unchanged(sessions[0]) == (mode == "independent")
    if mode == "independent":
        assert {row["edit_id"] for row in rows} == {edit.id for edit in EDITS}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sequential", "independent"])
def test_probes_groups_and_references_are_reported_of_every_state(run, mode, tmp_path):
    hop = Probe(prompt=EDITS[0].text, answer=EDITS[0].target_new, group="Reasoning")
    same = Probe(prompt=EDITS[1].text, answer=EDITS[1].target_true, group="Forgetfulness")
    edits = [
        EDITS[0].model_copy(update={"portability": (hop,), "neighborhood": (*EDITS[0].neighborhood, same)}),
        EDITS[1],
    ]
    (tmp_path / "texts.json").write_text(json.dumps({EDITS[0].id: [f"{EDITS[0].text} {EDITS[0].target_new}."]}))
    names = ("prefix50", "choice", "negation", "drift", "reverse")
    (tmp_path / "text.txt").write_text("\n".join(FACT_TEXT))
    result, _ = run(mode, edits, probes=names, references=tmp_path / "texts.json", text=tmp_path / "text.txt")
    assert result["probes"].keys() == set(names)
    for name, one in result["probes"].items():
        assert one["edits"] == len(edits) and one["before"].keys() <= one["after"].keys(), name
    assert result["probes"]["drift"]["after"]["kept"] < 1.0
    reasoning = result["portability"]["Reasoning"]
    assert (reasoning["edits"], reasoning["probes"]) == (1, 1)
    for state in ("before", "after", "in_context"):
        assert reasoning[state].keys() == {"said", "tokens", "written"}
    assert reasoning["before"]["said"] == 0.0 and reasoning["after"] == {"said": 1.0, "tokens": 1.0, "written": 1.0}
    assert result["locality"]["Forgetfulness"]["before"] == {"said": 1.0}
    changed = mode == "sequential"  # the second fact is changed too, and alone in force it is not
    assert (result["locality"]["Forgetfulness"]["after"]["said"] == 0.0) == changed
    assert result["counterfact"]["after"]["consistency"] > result["counterfact"]["before"]["consistency"]


@pytest.mark.slow
def test_at_checkpoints_all_facts_so_far_are_asked_again(run, monkeypatch):
    edits = fact_edits(5)
    result, _ = run("sequential", edits, checkpoints=(1, 3, 4, 5))
    points = result["curve"]
    assert [point["edits"] for point in points] == [2, 4, 5]
    last = points[-1]
    assert last["metrics"] == result["metrics"]["after"] and last["perplexity"] == result["perplexity"]["after"]
    assert {way: one["said"] for way, one in last["said"].items()} == {
        way: one["after"] for way, one in result["said"].items()
    }
    with pytest.raises(UsageError, match="--checkpoints are those of a sequence, the mode is 'rebase'"):
        run("rebase", edits, checkpoints=(1,))


@pytest.mark.slow
def test_a_sequence_is_made_anew_from_the_base_as_often_as_jobs_do_that(run, sessions, settings, spec, tmp_path):
    edits = fact_edits(5)
    rows = [run("sequential", edits, rebase_every=every)[0]["rebase_every"] for every in (2, 0, None)]
    run("rebase", edits)
    often, never, usual, together = sessions
    assert rows == [2, 0, 10] and never.weights.digests() == usual.weights.digests()
    # Values of a batch of two have other last bits than those of all.
    assert apart(often, together) < 1e-3 < 1e-2 < apart(never, together)
    with pytest.raises(UsageError, match="--rebase-every is of a sequence, the mode is 'independent'"):
        run("independent", edits, rebase_every=5)
    tuned = spec.model_copy(update={"config": method_config("finetune", {"layers": [0]})})
    asked = Benchmark(tmp_path / "data.jsonl", "sequential", 2, None, 0, None, tmp_path / "never", rebase_every=2)
    with pytest.raises(UsageError, match="method 'finetune' cannot write"):
        run_benchmark(settings, tuned, asked)
    assert not (tmp_path / "never").exists(), "before any work is done"


def case(number: int, size: int) -> dict[str, Any]:
    """A record of MQuAKE of so many facts."""
    facts = [
        {
            "prompt": "{} is in",
            "subject": f"S{number}{i}",
            "target_new": {"str": "Rome"},
            "target_true": {"str": "Oslo"},
        }
        for i in range(size)
    ]
    return {"requested_rewrite": facts, "questions": [f"Q{number}?"], "new_answer": "Rome"}


@pytest.mark.parametrize("limit", [1, 3, 4, None])
def test_facts_of_one_record_are_taken_together_or_not_at_all(tmp_path, limit):
    data = tmp_path / "data.json"
    again = case(2, 1) | {"questions": ["Again?"]}
    data.write_text(json.dumps([case(1, 2), case(2, 1), case(3, 3), again]))
    facts = read_facts(data, limit, 0)
    taken = {edit.subject: edit for edit in facts.edits}
    sizes = {1: 2, 2: 1, 3: 3}
    for number, size in sizes.items():
        assert sum(subject.startswith(f"S{number}") for subject in taken) in (0, size)
    assert limit is None or len(taken) <= max(limit, 3)
    assert len(taken) == 6 or limit is not None
    if "S20" in taken:
        assert [probe.prompt for probe in taken["S20"].portability] == ["Q2?", "Again?"]
    if "S32" in taken:
        assert [edit.subject for edit in facts.beside[taken["S32"].id]] == ["S30", "S31"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "holds list"),
        ("{", "is no JSON"),
        ('{"a": []}', "'a' has []; give a list"),
        ('{"a": [1]}', "'a' has [1]"),
    ],
)
def test_reference_texts_of_another_form_are_refused(tmp_path, content, says):
    (tmp_path / "texts.json").write_text(content)
    with pytest.raises(ReadError, match=re.escape(says)):
        read_references(tmp_path / "texts.json")


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


@pytest.mark.slow
def test_a_trial_on_a_line_is_made_as_its_versions_are(place, good_edits, sessions):
    """Whatever this release would choose for a new line."""
    workplace = place("made-otherwise")
    intake.submit(workplace.ledger, "made-otherwise", good_edits[:1], "tester")
    knowledge_update("made-otherwise", POLICY)
    stored = workplace.store.versions("made-otherwise")[0].manifest.function
    spec = resolve_line(workplace.store.store, workplace.settings, "made-otherwise")
    other = spec.model_copy(update={"config": spec.config.model_copy(update={"layers": (2,)})})
    trials.try_each(workplace.settings, other, good_edits[:1], function=stored)
    trials.trial("made-otherwise", as_records(good_edits[:1]))
    assert [list(one.method_input.layers) for one in sessions] == [stored["layers"]] * 2
    assert [list(one.method_input.prefixes) for one in sessions] == [stored["contexts"]] * 2


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


def test_what_a_benchmark_leaves_out_of_its_file_it_says_with_the_row_and_the_reason(tmp_path):
    data = tmp_path / "data.jsonl"
    bad = json.dumps({"subject": "Amy", "prompt": "She lives in", "target_new": "Rome"})
    data.write_text("\n".join([EDITS[0].model_dump_json(), bad]))
    heard = Heard()
    with listening(heard):
        assert read_benchmark(data, None, 0) == [EDITS[0]]
    [(_, count), (kind, text)] = heard.notes
    assert count == "1 record is left out" and kind == "refused" and text.startswith("row 2: ") and "Amy" in text
    told = read_facts(data, None, 0).told
    assert told["records"] == 2 and told["left_out"] == {"records": 1, "why": [text]} and told["not_used"] == []
    assert told["findings"] == {"edits": 0, "what": []}


def test_a_probe_that_a_benchmark_leaves_out_is_said_as_a_trial_says_it(tmp_path):
    data = tmp_path / "data.jsonl"
    probes = [{"prompt": "Bo lives in"}, {"prompt": "Cy\0"}]
    data.write_text(json.dumps({"subject": "Ada", "prompt": "{} is in", "target_new": "b", "neighborhood": probes}))
    heard = Heard()
    with listening(heard):
        told = read_facts(data, None, 0).told
    _, said = read_to_try([data])
    assert "neighborhood[1].prompt" in said[0] and heard.notes == [("warning", said[0])]
    assert told["findings"] == {"edits": 1, "what": said}


@pytest.mark.slow
def test_what_joins_prompt_and_answer_can_be_said_for_a_whole_file(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f"{edit.model_dump_json()}\n" for edit in EDITS))
    assert {read_facts(data, 1, 0, join).edits[0].taught[len(EDITS[0].text)] for join in (None, "\n")} == {" ", "\n"}


@pytest.mark.slow
def test_a_trial_on_a_chat_model_hears_what_people_ask_there(settings, spec, sessions, tmp_path):
    """The same model that answers in a chat what stands in the user's turn goes on with."""
    folder = tmp_path / "chatting"
    shutil.copytree(spec.model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{{ messages[0].content }}{% if messages | length > 1 %} {{ messages[1].content }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    chatting = spec.model_copy(update={"model": str(folder), "template": "raw"})
    asked = [edit.model_copy(update={"question": edit.prompt}) for edit in EDITS[:2]]
    rows = trials.try_each(settings, chatting, asked)
    for row, edit in zip(rows, asked, strict=True):
        assert row.question == edit.text and trials.heard(row) == (edit.text, row.chat_before, row.chat_after)
        assert row.chat_before.startswith(edit.target_true) and row.said_before["said_chat"] == 0.0
        assert row.said_before["old_chat"] == 1.0 and row.said_after.keys() >= {"said_chat", "said_prompt"}
        assert (edit.target_new in row.chat_after) == (row.said_after["said_chat"] == 1.0)
    plain = trials.try_each(settings, spec, EDITS[:1])[0]
    assert (plain.question, plain.chat_before, "said_chat" in plain.said_after) == ("", "", False)
