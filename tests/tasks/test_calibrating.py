"""Laws of calibration: on what a model knows, with no benchmark read; kept as it goes; taken by new lines alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from editing.errors import UsageError
from editing.methods import method_config
from editing.models import load_model
from tasks.calibrating import search as searching
from tasks.calibrating.facts import FEWEST, Relation, ask_relation, make_facts, read_relations
from tasks.calibrating.job import calibrate
from tasks.calibrating.search import CalibrationPlan, layers_tried, score_of
from tasks.lines.calibrations import Calibration, Trial, read_calibration, save_calibration, taken_from
from tasks.lines.specs import LineSpec, calibrated_line, read_line, resolve_line, save_line
from tasks.settings import Settings
from tasks.stores.errors import RecordError
from tasks.stores.opening import open_store
from tasks.stores.snapshots import CALIBRATIONS
from tests.fact_model import FACTS

PLAN = CalibrationPlan(
    facts=4,
    statistics_tokens=512,
    perplexity_tokens=64,
    windows=2,
    widths=(2,),
    weights=(0.1,),
    clamps=(4,),
    steps=(3,),
)
VERSIONS = (
    "tasks.calibrating.search.SEARCH_VERSION",
    "tasks.calibrating.search.VALUES_VERSION",
    "tasks.update.session.MEASURED_VERSION",
)
TRIED = ["rule", "layers", "width", "weight", "clamp", "steps"]
KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.calibrating import search
from tests.tasks.test_calibrating import PLAN, calibrate, settings_in
measure, seen = search.Search._measure, []
def measured(self, options):
    seen.append(options)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return measure(self, options)
search.Search._measure = measured
calibrate(settings_in(Path(sys.argv[1])), sys.argv[2], "float32", PLAN, Path(sys.argv[1]) / "relations.json")
"""


def settings_in(folder: Path) -> Settings:
    return Settings(home=folder / "home", cache=folder / "cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the relations of the fact model."""
    folder = tmp_path_factory.mktemp("calibrating")
    relations = {fact.relation.name: fact.relation for fact in FACTS}
    listed = [
        {
            "name": name,
            "templates": relation.templates,
            "answers": relation.answers,
            "subjects": [fact.subject for fact in FACTS if fact.relation is relation][:8],
        }
        for name, relation in list(relations.items())[:3]
    ]
    (folder / "relations.json").write_text(json.dumps(listed))
    return folder


def a_calibration(digest: str, **options) -> Calibration:
    one = Trial(stage="rule", options={"layers": [1]} | options, metrics={}, score=1.0)
    return Calibration(
        base_digest=digest, model="m", release="1", plan={}, facts=(), trials=(one,), rule=one, chosen=one
    )


@pytest.mark.slow
def test_a_killed_search_goes_on_and_opens_no_benchmark(place, fact_model_path, monkeypatch):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(place), str(fact_model_path)], check=False)
    assert killed.returncode == -9
    opened, measured = [], []
    sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
    measure = searching.Search._measure
    monkeypatch.setattr(
        searching.Search, "_measure", lambda self, asked: measured.append(asked) or measure(self, asked)
    )
    settings = settings_in(place)
    found = calibrate(settings, str(fact_model_path), "float32", PLAN, place / "relations.json")
    tried = [trial.stage for trial in found.trials]
    # Where the best layers are the first, there is no room for a width.
    assert tried in (TRIED, [stage for stage in TRIED if stage != "width"])
    assert len(measured) == len(tried) - 2 and measured[0] == found.trials[2].options
    assert found.chosen.score == max(trial.score for trial in found.trials) or found.chosen is found.rule
    assert found == read_calibration(open_store(settings.store_uri), found.base_digest)
    assert opened and not [path for path in opened if "shared/data" in path or path.endswith((".parquet", ".jsonl"))]
    measured.clear()
    assert calibrate(settings, str(fact_model_path), "float32", PLAN, place / "relations.json") == found
    assert not measured
    metrics = found.trials[0].metrics
    monkeypatch.setattr(searching.Search, "_measure", lambda self, asked: measured.append(asked) or metrics)
    for version in VERSIONS:  # what was tried before is not what would be found now
        monkeypatch.setattr(version, 99)
        calibrate(settings, str(fact_model_path), "float32", PLAN, place / "relations.json")
        assert measured, version
        measured.clear()


@pytest.mark.slow
def test_facts_are_what_the_model_says_alike_in_every_wording(place, fact_model_path, tmp_path):
    loaded = load_model(str(fact_model_path), cache=tmp_path)
    relations = read_relations(place / "relations.json")
    known = [(relation, ask_relation(loaded, relation)) for relation in relations]
    truth = {(fact.relation.name, fact.subject): fact.answer for fact in FACTS}
    asked = [(truth[relation.name, one], answer) for relation, said in known for one, answer in said.items()]
    assert len(asked) > 18 and sum(a == b for a, b in asked) / len(asked) > 0.9
    facts = make_facts(known, 6, seed=0)
    assert facts == make_facts(known, 6, seed=0) != make_facts(known, 6, seed=1)
    said = {(edit.prompt, edit.subject): edit for edit in facts}
    assert len(said) == 6 and len({edit.prompt for edit in facts}) == 3
    for edit in facts:
        answers = next(relation.answers for relation in relations if relation.templates[0] == edit.prompt)
        assert edit.target_new in answers and edit.target_new != edit.target_true and len(edit.paraphrases) == 2
        neighbors = [probe.prompt for probe in edit.neighborhood]
        assert len(neighbors) == 3 and not set(neighbors) & {one.text for one in facts}


def test_a_model_that_knows_nothing_is_refused_by_what_to_do_instead():
    [relation, *_] = read_relations()
    with pytest.raises(UsageError, match=rf"0 of 14 facts .*{FEWEST} are needed.*--option layers="):
        make_facts([(relation, {})], 10, 0)


def test_the_committed_list_can_be_asked():
    relations = read_relations()
    assert len({relation.name for relation in relations}) == len(relations) >= 8
    for relation in relations:
        assert isinstance(relation, Relation) and all(one.count("{}") == 1 for one in relation.templates)
        assert len(set(relation.answers)) == len(relation.answers) >= 6
        assert len(set(relation.subjects)) == len(relation.subjects) >= 10


@pytest.mark.parametrize(
    "count, key_size, ends",
    [(18, 2048, [4, 6, 8, 10]), (4, 64, [1, 2]), (28, 8960, [4, 6])],
    ids=["all", "as deep as can be searched", "as many as fit"],
)
def test_layers_are_tried_from_the_rule_on_as_far_as_their_statistics_fit(count, key_size, ends):
    rule = (1,) if count == 4 else (1, 2, 3, 4)
    plan = CalibrationPlan(windows=len(ends) if count == 4 else 4)
    found = layers_tried(rule, count, key_size, plan)
    assert found[0] == rule and {len(some) for some in found} == {len(rule)}
    assert [some[-1] for some in found][: len(ends)] == ends or count == 28
    assert (found[-1][-1] - found[0][0] + 1) * 8 * key_size**2 <= searching.BYTES


@pytest.mark.parametrize(
    "values",
    [{"clamps": [0]}, {"clamps": [-1]}, {"weights": [-1]}, {"weights": [1, 0]}, {"steps": [0]}, {"steps": [1001]},
     {"widths": [0]}, {"widths": [2, -1]}, {"widths": [65]}, {"steps": [True]}],
)  # fmt: skip
def test_what_no_option_could_be_is_refused_in_the_plan(values):
    with pytest.raises(ValidationError) as error:
        CalibrationPlan.model_validate(values)
    assert error.value.errors()[0]["loc"][0] == next(iter(values))


def test_harm_lowers_a_score_and_what_is_said_raises_it():
    metrics = dict.fromkeys(("efficacy_argmax", "generalization_prob", "generalization_argmax", "locality_kept"), 1.0)
    metrics |= {"locality_prob": 0.9, "locality_before": 0.9, "perplexity_ratio": 1.0}
    best = score_of(metrics)
    worse = ({"efficacy_argmax": 0.5}, {"generalization_argmax": 0.5}, {"locality_prob": 0.8}, {"locality_kept": 0.5})
    assert best == 1.0 and all(score_of(metrics | one) < best for one in (*worse, {"perplexity_ratio": 1.02}))


def test_a_new_line_takes_what_it_leaves_open_and_a_stored_one_never_changes(tmp_path):
    settings, digest = settings_in(tmp_path), "d" * 64
    store = open_store(settings.store_uri, create=True)
    save_calibration(store, a_calibration(digest, statistics_weight=650.0, search={"clamp": 0.5, "steps": 25}))
    found = read_calibration(store, digest)
    assert read_calibration(store, "e" * 64) is None
    old = resolve_line(store, settings, "old")
    save_line(store, old)
    assert calibrated_line(LineSpec.model_validate_json(old.model_dump_json()), None) == old
    new = calibrated_line(resolve_line(store, settings, "new", options={"search": {"steps": 7}}), found)
    assert (new.config.layers, new.config.statistics_weight) == ((1,), 650.0)
    assert (new.config.search.steps, new.config.search.clamp) == (7, 0.5)
    save_line(store, new)
    save_calibration(store, a_calibration(digest, layers=[2]))
    assert resolve_line(store, settings, "new", options={"search": {"steps": 7}}) == new == read_line(store, "new")
    assert resolve_line(store, settings, "old") == old and old.config.layers is None
    with pytest.raises(UsageError, match="other options of memit"):
        resolve_line(store, settings, "new", options={"search": {"steps": 8}})
    assert taken_from(found, method_config("alphaedit")) == {}


def test_a_damaged_calibration_says_what_to_do(tmp_path):
    store = open_store(str(tmp_path), create=True)
    store.put(f"{CALIBRATIONS}/{'d' * 64}.json", b"{}")
    with pytest.raises(RecordError, match=r"calibrations/d.*damaged.*errata calibrate"):
        read_calibration(store, "d" * 64)
