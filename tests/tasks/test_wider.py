"""What a policy wants asked beside the facts: of base, champion and candidate alike, once, and judged as levels."""

import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from editing.edit import Edit
from editing.errors import PolicyError, ReadError
from editing.measure.metrics import EditScores
from editing.methods import method_config
from editing.models import quiet_transformers
from editing.weights import Factors
from tasks.lines.specs import LineSpec
from tasks.settings import Settings
from tasks.update import ability as asked_of_all
from tasks.update import in_context
from tasks.update.ability_files import read_sets, relocated, settled
from tasks.update.champion import measure_served
from tasks.update.measured import Served
from tasks.update.policy import AbilityFile, Policy, make_policy
from tasks.update.probing import probes_of, sampled
from tasks.update.reference import measure_reference
from tasks.update.run import Reference
from tasks.update.session import Session, open_session
from tasks.update.validation import judge_candidate, validate_batch
from tests.conftest import tiny_model

EDITS = [
    Edit(id=f"e{n}", subject=name, prompt="{} lives in", target_new="Rome", target_true="Oslo")
    for n, name in enumerate(("Ada", "Bo", "Cy", "Di"))
]
PLAIN = {"fluency_tokens": 4, "perplexity_tokens": 64, "kl_tokens": 1024, "tripwires": {"said": None}}


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    folder = tmp_path_factory.mktemp("model")
    made = tiny_model("llama")
    with quiet_transformers():
        made.model.save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
    fields = {"layers": [0, 1], "contexts": 2, "statistics_tokens": 128, "search": {"steps": 2}}
    spec = LineSpec(line="main", model=str(folder), config=method_config("memit", fields))
    return open_session(spec, Settings(cache=tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Two choices a question; which is right the base says by itself."""
    path = tmp_path_factory.mktemp("files") / "ability_letters.parquet"
    rows = [{"query": f"Number {n} is", "choices": ["one of them", "another"], "gold": n % 2} for n in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def damaged(session):
    """The model with noise in its weights, inside the test alone."""
    noise = torch.Generator().manual_seed(0)
    update = {}
    parameters = session.loaded.model.named_parameters()
    for name, weight in ((name, one.data) for name, one in parameters if name.endswith("down_proj.weight")):
        rows, columns = session.weights.layout.oriented(weight).shape
        update[name] = Factors(torch.randn(rows, 4, generator=noise), torch.randn(4, columns, generator=noise))
    undo = session.weights.apply(update)
    yield
    session.weights.revert(undo)


def policy_of(file: Path | None = None, **more: object) -> Policy:
    files = [] if file is None else [str(file)]
    return make_policy(**PLAIN, ability=files, **more)


def checks_of(session: Session, policy: Policy, served: Served | None = None) -> dict[str, object]:
    reference = measure_reference(session, policy)
    found = judge_candidate(session, EDITS, [], reference, policy, served)
    return {check.field: check for check in found.verdict.checks} | {"numbers": found}


@pytest.mark.slow
def test_ability_is_a_level_of_the_job_asked_of_the_base_once_and_shown_with_its_errors(session, file, monkeypatch):
    policy = policy_of(file, levels={"ability": {"worse_than_base": 0.02}})
    first = checks_of(session, policy)
    row, numbers = first["levels.ability.worse_than_base"], first["numbers"]
    assert (row.measure, row.kind, row.sample, row.holds) == ("ability.letters", "level", 60, True)
    assert numbers.numbers["ability.letters"] == numbers.baseline["ability.letters"]  # the base is the candidate
    assert 0 < numbers.numbers["ability.letters_stderr"] == pytest.approx(numbers.baseline["ability.letters_stderr"])
    assert numbers.numbers["ability.letters_change_stderr"] == 0.0
    asked, real = [], asked_of_all.answer
    monkeypatch.setattr(asked_of_all, "answer", lambda *a, **k: (asked.append(len(a[2])), real(*a, **k))[1])
    checks_of(session, policy)
    assert asked == [60]  # the candidate alone
    assert validate_batch(session, EDITS, [], measure_reference(session, policy), policy).checks and asked == [60]


def test_a_file_is_told_by_its_digest_and_found_where_it_is_now(file, tmp_path):
    policy = settled(policy_of(file))
    [known] = policy.ability
    assert len(known.sha256) == 64 and settled(policy) == policy and known.name == "letters"
    moved = tmp_path / "elsewhere.parquet"
    moved.write_bytes(file.read_bytes())
    [here] = relocated(policy, [moved]).ability
    assert here.file == str(moved) and len(read_sets([here])[0].questions) == 60
    other = known.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(PolicyError, match="the policy means 000000000000; put that one there"):
        read_sets([other])
    with pytest.raises(ReadError, match=r"cannot read the ability file '.*gone': No such file.*; correct the path"):
        settled(policy_of(Path("/gone")))
    text = tmp_path / "text.parquet"
    text.write_text("no table")
    with pytest.raises(ReadError, match="cannot read the Parquet file"):
        settled(policy_of(text))


def test_divergence_is_a_level_after_each_batch_and_at_the_end(session, damaged):
    policy = policy_of(levels={"kl": {"max": 0.001, "when": "both", "then": "stop"}})
    reference = measure_reference(session, policy)
    batch = validate_batch(session, EDITS[:1], [], reference, policy.model_copy(update={"min_efficacy": 0.0,
        "max_perplexity_ratio": 1e9, "min_fluency_ratio": 0.0}))  # fmt: skip
    [row] = [check for check in batch.checks if check.measure == "kl"]
    assert not row.holds and row.value > 0.001 and row.p < 0.01 and "levels.kl.max is 0.001" in row.reason
    job = judge_candidate(session, EDITS, [], reference, policy)
    assert job.numbers["kl"] == pytest.approx(row.value) and job.baseline["kl"] == 0.0
    assert job.numbers["kl_stderr"] > 0


def test_the_base_itself_diverges_from_nothing(session):
    policy = policy_of(levels={"kl": {"max": 0.001}})
    row = checks_of(session, policy)["levels.kl.max"]
    assert row.holds and row.value == pytest.approx(0.0, abs=1e-9)


def test_probes_are_levels_of_their_kinds_and_stand_at_each_fact(session, damaged):
    policy = policy_of(probes=["choice", "negation", "drift", "reverse", "prefix50"], levels={"probes": {"min": 0.0}})
    found = checks_of(session, policy)["numbers"]
    rows = {check.measure for check in found.verdict.checks if check.field == "levels.probes.min"}
    assert rows == {
        "probes.choice",
        "probes.negation",
        "probes.reverse",
        "probes.prefix50",
    }  # drift is neither
    assert {*found.verdict.request_metrics["e0"]} >= rows
    assert 0 <= found.numbers["probes.drift"] < 1  # noise says another thing about the subject
    assert found.baseline["probes.choice"] <= 1


def test_a_probe_that_no_fact_of_a_job_can_be_asked_is_named_with_the_reason(session, monkeypatch):
    heard: list[str] = []
    monkeypatch.setattr("tasks.update.probing.note", lambda text, kind: heard.append(f"{kind} {text}"))
    monkeypatch.setattr(sys.modules[__name__], "EDITS", [one.model_copy(update={"target_true": None}) for one in EDITS])
    checks_of(session, policy_of(probes=["choice", "reverse"], levels={"probes": {"min": 0.0}}))
    assert heard and {*heard} == {
        "warning the probe choice asks nothing and is left out: no fact has what it asks by, as an old answer "
        "(target_true) or a prompt that is no conversation already"
    }


def test_the_probes_of_the_base_are_the_same_out_of_the_cache(session, damaged):
    policy = policy_of(probes=["choice", "drift", "prefix50"])
    reference = measure_reference(session, policy)
    first, again = (probes_of(session, EDITS, policy, reference.texts, None) for _ in range(2))
    with session.weights.at_base():
        plain = first.now()
    assert first.base(first.base_scores()) == again.base(again.base_scores())
    for edit, numbers in plain.items():
        assert first.base(first.base_scores())[edit]["choice"] == numbers["choice"]


def test_what_the_version_in_service_says_is_what_a_level_may_be_held_against(session, damaged):
    """The same state is champion and candidate: no loss; against a better champion there is one."""
    relative = {"worse_than_champion": 0.0}
    policy = policy_of(levels={"said": relative, "said_paraphrases": relative, "probes": relative}, probes=["choice"])
    reference = measure_reference(session, policy)
    scores = [EditScores(edit.id) for edit in EDITS]
    served = measure_served(session, EDITS, scores, reference, policy)
    rows = checks_of(session, policy, served)
    assert rows["levels.said.worse_than_champion"].holds and rows["levels.said.worse_than_champion"].sample == 4
    assert rows["levels.probes.worse_than_champion"].value == rows["levels.probes.worse_than_champion"].limit
    better = replace(served, texts=dict.fromkeys(served.texts, " Rome."))
    row = checks_of(session, policy, better)["levels.said.worse_than_champion"]
    assert row.limit == 1.0 > row.value and row.p == pytest.approx(0.5**4)
    assert "levels.said.worse_than_champion" not in checks_of(session, policy, None)  # nothing is in service
    fewer = replace(served, texts={asked: text for asked, text in served.texts.items() if "Ada" not in asked[0]})
    missing = checks_of(session, policy, fewer)["levels.said.worse_than_champion"]
    assert not missing.holds and "was not measured" in missing.reason


def test_facts_are_sampled_always_the_same_and_of_fewer_no_others():
    assert sampled(EDITS, 2) == sampled(EDITS, 2) and len(sampled(EDITS, 2)) == 2
    assert sampled(EDITS, 9) == EDITS
    some = sampled(EDITS, 2)
    assert sampled([edit for edit in EDITS if edit in some], 2) == some


def test_the_base_reads_the_correction_before_what_it_is_asked_and_the_candidate_changes_nothing_of_it(
    session, monkeypatch, damaged
):
    asked, real = [], in_context.said_about

    def heard(session, edits, *args, **kwargs):
        asked.extend(edit.text for edit in edits)
        return real(session, edits, *args, **kwargs)

    monkeypatch.setattr(in_context, "said_about", heard)
    found = in_context.measure_in_context(session, EDITS, 5, None, {})
    assert asked[0] == "Ada lives in Rome. Ada lives in" and {"said_prompt", "efficacy_prob"} <= found.keys()
    with session.weights.at_base():
        assert in_context.measure_in_context(session, EDITS, 5, None, {}) == found


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"levels": {"ability": {"min": 0.5}}}, "levels.ability asks nothing, ability is empty; name some"),
        ({"levels": {"probes": {"min": 0.5}}, "probes": ["drift"]}, "of drift nothing is right or wrong"),
        ({"ability": ["a/x.parquet", "b/x.parquet"]}, "two files of ability are named 'x'; rename one"),
        ({"ability": [{"file": "x", "questions": 2}]}, "ability.0.questions = 2: .*greater than or equal to 10"),
        ({"ability": [{"file": "x", "colour": 2}]}, "ability.0.colour = 2: .*fields are file, questions, sha256"),
        ({"probes": ["sideways"]}, "probes.0 = 'sideways': input should be 'prefix50'"),
        ({"levels": {"ability": {"min": 0.5, "when": "both"}}, "ability": ["x"]}, "asked at the end of a job"),
        ({"levels": {"said": {"worse_than_champion": 0.5, "when": "batch"}}}, "is known at the end of a job alone"),
        (
            {"levels": {"retained": {"worse_than_base": 0.5}}},
            "retained has no worse_than_base",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(fields, says):
    with pytest.raises(PolicyError, match=says) as error:
        make_policy(**fields)
    assert "\n" not in str(error.value)


def test_a_file_may_be_named_by_its_name_alone():
    assert make_policy(ability=["x.parquet"]).ability == (AbilityFile(file="x.parquet"),)
    assert Reference(1.0, []).sets == ()
