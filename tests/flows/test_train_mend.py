"""Training of a hypernetwork as a flow: what it leaves behind, that it can be killed, and what is refused."""

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from editing.digests import sha256
from editing.edit import Edit
from editing.methods.mend.files import load_network, save_network
from editing.methods.mend.options import MendTraining
from editing.methods.mend.training import MendTrainer
from editing.models import base_digest, load_model
from flows.train_mend import default_name, train_mend
from tasks.lines.hypernetworks import cached, resolve, stored
from tasks.lines.specs import read_line
from tasks.progress import listening
from tasks.settings import Settings, load_settings
from tasks.tracking.hypernetworks import BASE, HYPERNETWORK, TRAINING, HypernetworkTracker
from tasks.training import steps as training_steps
from tasks.training.job import TrainingPlan, TrainingSummary
from tasks.workplace import EXPERIMENT, open_workplace
from tests import warm
from tests.databases import mlflow_database
from tests.fact_model import fact_edits
from tests.flows import killed_training
from tests.flows.command import Errata, check_one_line
from tests.flows.test_benchmark_trial import FIELDS, Heard
from tests.hypernetworks import untrained

EDITS = fact_edits(60, seed=5)
PLAN = TrainingPlan(
    training=MendTraining(rank=32, edit_weight=1.0, step_size=0.1, learning_rate=3e-3),
    steps=90,
    every=30,
    validation_edits=6,
)
SMALL = ["--steps", 2, "--every", 1, "--validation-edits", 3, "-o", "rank=4", "-o", "step_size=0.1", "-o", "batch=2"]
LENIENT = ["tripwires.said=false", "min_efficacy=0", "max_locality_drop=1", "max_edit_locality_drop=1",
           "max_perplexity_ratio=99", "min_fluency_ratio=0", "min_retained=0",
           "fluency_tokens=3", "perplexity_tokens=64"]  # fmt: skip


def written(path: Path, edits: list[Edit] = EDITS) -> Path:
    path.write_text(json.dumps([edit.model_dump(mode="json") for edit in edits]))
    return path


@dataclass(frozen=True)
class Trained:
    """What a training of seconds left behind."""

    summary: TrainingSummary
    data: Path
    home: Path
    unchanged: bool

    @property
    def reference(self) -> str:
        return f"models:/{self.summary.name}/{self.summary.version}"


@pytest.fixture(scope="module")
def trained(shared_places, prefect_server, tmp_path_factory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("training")
    data, seen, real = written(folder / "edits.json"), [], training_steps.loaded_base

    def loading(*args, **kwargs):
        seen.append(real(*args, **kwargs))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_server}):
        for name, value in {**shared_places, "ERRATA_HOME": str(folder / "home")}.items():
            patch.setenv(name, value)
        patch.setattr(training_steps, "loaded_base", loading)
        summary = train_mend(data, PLAN)
    [loaded] = seen
    yield Trained(summary, data, folder / "home", base_digest(loaded.model) == loaded.digest)


@pytest.fixture
def here(trained, shared_places, prefect_server, monkeypatch) -> Iterator[Settings]:
    """The installation in which the training ran."""
    for name, value in {**shared_places, "ERRATA_HOME": str(trained.home)}.items():
        monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield load_settings()


@pytest.fixture
def elsewhere(errata, trained, shared_places, prefect_server, monkeypatch) -> Iterator[Errata]:
    """The command line of another machine: MLflow is shared, home and cache are not."""
    for name in ("ERRATA_TRACKING_URI", "ERRATA_ARTIFACTS"):
        monkeypatch.setenv(name, shared_places[name])
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield errata


def tracker(settings: Settings) -> HypernetworkTracker:
    return HypernetworkTracker(settings.mlflow_uri, settings.artifact_root, EXPERIMENT)


# What a training leaves behind.


def test_a_training_registers_what_it_trained_with_its_base(trained, here):
    summary, client = trained.summary, tracker(here)._client
    version = client.get_model_version(summary.name, str(summary.version))
    assert version.tags[HYPERNETWORK] == summary.hypernetwork and version.tags[TRAINING] == summary.training
    assert version.tags[BASE] == load_model(here.model, cache=here.cache_folder).digest
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED" and run.data.params["training.rank"] == "32"
    assert len(client.get_metric_history(version.run_id, "train_loss")) == 90
    curve = [one.value for one in client.get_metric_history(version.run_id, "validation_score")]
    assert len(curve) == 3 and max(curve) == pytest.approx(summary.validation["score"])
    assert summary.steps == 90 and summary.ended == "90 steps" and summary.skipped == summary.refused == 0
    assert summary.validation["efficacy_argmax"] > 0


def test_a_training_writes_no_tensor_of_the_base(trained):
    assert trained.unchanged


def test_the_same_training_again_is_the_same_version_and_run(trained, here):
    client = tracker(here)._client
    runs = len(client.search_runs(client.get_experiment_by_name(EXPERIMENT).experiment_id))
    again = train_mend(trained.data, PLAN)
    assert again == trained.summary
    assert len(client.search_runs(client.get_experiment_by_name(EXPERIMENT).experiment_id)) == runs


def test_a_training_that_had_more_steps_than_are_asked_for_says_so_and_stays_as_it_is(trained, here):
    why, heard = "it had 90 steps before, and 60 are asked for", Heard()
    with listening(heard):
        again = train_mend(trained.data, PLAN.model_copy(update={"steps": 60}))
    assert again == trained.summary.model_copy(update={"ended": why})
    stands = f"training {again.training} stands at step 90 and is trained no further ({why}): with more --steps"
    assert any(text.startswith(stands) for _, text in heard.notes)


def test_a_training_begins_with_an_earlier_one_and_is_another(trained, here):
    training = PLAN.training.model_copy(update={"step_size": None})
    plan = PLAN.model_copy(update={"start": trained.reference, "training": training, "steps": 1, "every": 1})
    summary = train_mend(trained.data, plan)
    assert summary.training != trained.summary.training and summary.steps == 1
    first, second = (load_network(cached(here, one.hypernetwork)) for one in (trained.summary, summary))
    moved = [float((first.get_parameter(n) - p).abs().max().detach()) for n, p in second.named_parameters()]
    assert 0 < max(moved) < 0.01  # one warm step away, not a training away


def test_the_command_trains_from_what_its_start_meant_when_it_was_given(trained, elsewhere, tmp_path):
    options = ["--start", trained.reference, "-o", "rank=32", "-o", "batch=2", "--name", "begun"]
    plan = ["--steps", 1, "--every", 1, "--validation-edits", 3]
    version = elsewhere("train-mend", written(tmp_path / "data.json"), *plan, *options, "--json").json["version"]
    client = tracker(load_settings())._client
    run = client.get_run(client.get_model_version("begun", str(version)).run_id)
    assert run.data.params["start"] == run.data.params["start_digest"] == trained.summary.hypernetwork


@pytest.mark.slow
def test_a_training_goes_on_while_mlflow_takes_nothing_and_loses_no_value(impatient, place, tmp_path, monkeypatch):
    place("locked")
    monkeypatch.setenv("ERRATA_TRACKING_URI", f"sqlite:///{mlflow_database(tmp_path / 'mlflow.db')}?timeout=0.1")
    other = sqlite3.connect(tmp_path / "mlflow.db")
    step = MendTrainer.train_step

    def locking(self):
        if self.step == 1:
            other.execute("BEGIN IMMEDIATE")
        if self.step == 5:
            other.rollback()
        return step(self)

    monkeypatch.setattr(MendTrainer, "train_step", locking)
    plan = TrainingPlan(training=MendTraining(rank=4, step_size=0.1, batch=2), steps=6, every=2, validation_edits=3)
    summary = train_mend(written(tmp_path / "edits.json", EDITS[:12]), plan, name="locked")
    client = tracker(load_settings())._client
    run = client.get_run(client.get_model_version("locked", str(summary.version)).run_id)
    for name, steps in (("train_loss", [1, 2, 3, 4, 5, 6]), ("validation_score", [2, 4, 6])):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == steps
    assert run.info.status == "FINISHED"


def test_every_form_of_reference_names_the_same_hypernetwork(trained, here, tmp_path):
    digest = trained.summary.hypernetwork
    run_id = tracker(here).locate(trained.reference)[0]
    (tmp_path / "copy.safetensors").write_bytes(cached(here, digest).read_bytes())
    forms = [tmp_path / "copy.safetensors", tmp_path, trained.reference, f"runs:/{run_id}", digest, digest[:12]]
    forms += [
        f"hypernetworks/{digest}.safetensors",
        f"trainings/{trained.summary.training}",
        f"runs:/{run_id}/hypernetwork",
    ]
    assert {str(form): resolve(str(form), here) for form in forms} == dict.fromkeys(map(str, forms), digest)


def test_a_default_name_is_the_bases():
    assert [default_name(model) for model in ("embedded", "/my/Model Folder/", "org/Name-7B@main")] == [
        "mend-embedded", "mend-model-folder", "mend-name-7b"
    ]  # fmt: skip


# In the pipeline.


@pytest.mark.parametrize("mode", ["sequential", "independent"])
def test_a_benchmark_with_it_reports_what_every_method_reports(mode, trained, elsewhere, tmp_path):
    made = elsewhere(
        "benchmark", trained.data, "--limit", 4, "--batch-size", 1, "--mode", mode, "--out", tmp_path / "out", "--json",
        "--method", "mend", "--hypernetwork", trained.reference,
    ).json  # fmt: skip
    assert made.keys() == FIELDS | ({"kl"} if mode == "sequential" else set())
    assert (made["method"], made["mode"], made["layers"]) == ("mend", mode, [1, 2, 3])
    assert made["config"]["hypernetwork_digest"] == trained.summary.hypernetwork and not made["config"]["hypernetwork"]
    assert made["metrics"]["after"]["efficacy_prob"] > made["metrics"]["before"]["efficacy_prob"] == 0


def test_a_trial_with_it_shows_what_each_edit_would_do(trained, elsewhere):
    file = trained.data
    rows = elsewhere(
        "trial", file, "--limit", 8, "--method", "mend", "--hypernetwork", trained.reference, "--json"
    ).json
    assert len(rows) == 8 and sum(row["after"]["efficacy_prob"] for row in rows) > 0


def test_a_line_knows_its_hypernetwork_by_digest_on_every_machine(trained, elsewhere, monkeypatch, tmp_path):
    lenient = [part for value in LENIENT for part in ("--set", value)]
    mend = ["--method", "mend", "--hypernetwork", trained.reference]

    def update(edits: list[Edit], *options: object) -> dict:
        elsewhere("submit", written(tmp_path / "requests.json", edits), "--line", "quick")
        return elsewhere("run", "quick", *lenient, *options, "--json").json

    assert update(EDITS[:2], *mend)["kept"] == 2
    store = open_workplace().store.store
    line, digest = read_line(store, "quick"), trained.summary.hypernetwork
    assert line is not None and (line.config.hypernetwork, line.config.hypernetwork_digest) == ("", digest)
    assert sha256(stored(store).get(digest)) == digest
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "another"))  # what the store has is fetched again
    monkeypatch.setenv("ERRATA_TRACKING_URI", f"sqlite:///{mlflow_database(tmp_path / 'mlflow.db')}")
    assert update(EDITS[2:3])["version"] == 2
    manifest = open_workplace().store.version("quick", 2).manifest
    assert manifest.config["hypernetwork_digest"] == digest and manifest.config["hypernetwork"] == ""
    other = elsewhere("run", "quick", "--hypernetwork", other_hypernetwork(tmp_path))
    check_one_line(other, 2, "line 'quick' has other options of mend than asked")


def other_hypernetwork(folder: Path, layers: tuple[int, ...] = (1, 2, 3), digest: str | None = None) -> Path:
    loaded = load_model(os.environ["ERRATA_MODEL"], cache=folder)
    save_network(untrained(loaded.model, digest or loaded.digest, layers), folder / "other.safetensors")
    return folder / "other.safetensors"


# What is refused.


def test_what_is_no_hypernetwork_of_this_base_is_refused_by_name(errata, tmp_path):
    data, out = written(tmp_path / "data.json", EDITS[:2]), tmp_path / "out"

    def refused(code: int, says: str, *options: object) -> None:
        check_one_line(errata("benchmark", data, "--out", out, *options), code, says)

    mend = ("--method", "mend", "--hypernetwork")
    refused(2, "method mend needs --hypernetwork REF .*; errata train-mend makes one", "--method", "mend")
    refused(2, "method memit takes no hypernetwork; leave it out", "--hypernetwork", data)
    refused(1, "is no hypernetwork, or a broken one", *mend, data)
    refused(2, "there is no hypernetwork 'nowhere'; give a file", *mend, "nowhere")
    refused(2, "no hypernetworks in .* begin with abcdef01", *mend, "abcdef01")
    refused(2, "'trainings/x' has no checkpoint yet", *mend, "trainings/x")
    refused(2, "names no hypernetwork; write models:/NAME/VERSION", *mend, "models:/only-a-name")
    refused(1, "belongs to base aaaaaaaaaaaa, the model is", *mend, other_hypernetwork(tmp_path, digest="a" * 64))
    refused(1, "belongs to the weights .*h.0.mlp.* asked for are", *mend, other_hypernetwork(tmp_path, (0, 1)))
    for command in (("run", "new"), ("trial", data)):
        check_one_line(errata(*command, "--method", "mend"), 2, "method mend needs --hypernetwork REF")


def test_records_without_an_answer_are_refused_by_name_before_any_work(errata, tmp_path, monkeypatch):
    empty = {"subject": "Ada", "src": "Where was Ada born?", "alt": " ", "rephrase": "", "loc": "", "loc_ans": ""}
    (tmp_path / "empty.json").write_text(json.dumps([empty, empty | {"subject": "Bob"}]))
    monkeypatch.setattr(training_steps, "loaded_base", None)
    ran = errata("train-mend", tmp_path / "empty.json")
    check_one_line(ran, 2, "has 0 edits .*too few.*empty.json row 1: edit of subject 'Ada': alt ' ' is empty; give a")
    check_one_line(errata("train-mend", tmp_path / "none.json"), 2, "none.json'")
    assert not (tmp_path / "home" / "snapshots").exists()


def test_records_without_an_answer_are_named_and_left_out(elsewhere, tmp_path):
    records = [edit.model_dump(mode="json") for edit in EDITS[:12]]
    records[3] |= {"target_new": ""}
    (tmp_path / "mixed.json").write_text(json.dumps(records))
    made = elsewhere("train-mend", tmp_path / "mixed.json", *SMALL, "--name", "mixed", "--json")
    assert (made.json["refused"], made.json["steps"]) == (1, 2)
    assert "refused mixed.json row 4: " in made.err and "is empty" in made.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--steps", 0), "'--steps'.*greater than or equal to 1; see errata train-mend --help"),
        (("-o", "depth=3"), "train-mend depth = 3: .*options are rank"),
        (("-o", "rank=many"), "train-mend rank = 'many'"),
        (("--layer", 9, "--layer", 9), r"layers \[9, 9\] must be distinct, rising"),
        (("--start", "nothing.safetensors"), "there is no hypernetwork 'nothing.safetensors'; give a file"),
        (("--layer", 40), "layer 40 is above the model's last one"),
        (("--projection", "mlp.nothing"), "has no projection 'mlp.nothing'; it has .*mlp.c_proj"),
    ],
)
def test_a_mistake_is_one_line(elsewhere, tmp_path, options, says):
    ran = elsewhere("train-mend", written(tmp_path / "data.json", EDITS[:12]), *options)
    check_one_line(ran, 2, says)


def test_losses_that_are_not_finite_end_the_training_in_one_line(elsewhere, tmp_path):
    data = written(tmp_path / "data.json", EDITS[:12])
    huge = [*SMALL, "--steps", 9, "-o", "step_size=1e37", "-o", "max_skipped=3", "--name", "huge"]
    check_one_line(elsewhere("train-mend", data, *huge), 1, "not finite in 3 steps in a row, the last one step 3; go")


# Killed, broken, resumed.


@pytest.mark.slow
def test_a_training_killed_again_and_again_ends_at_the_very_same_bits(place, tmp_path):
    data = written(tmp_path / "edits.json", EDITS[:24])

    def run(where: str, count: int = 1) -> tuple[int, str]:
        process = warm.start(killed_training.main, (data, where, count), os.environ)
        printed, _ = process.communicate(timeout=300)
        return process.wait(), printed

    def checkpoints(home: Path) -> list[str]:
        return sorted(path.name.removesuffix(".json").lstrip("0") for path in home.glob("**/checkpoints/*.json"))

    place("whole")
    code, printed = run("never")
    assert code == 0
    whole, tensors = json.loads(printed), blobs(tmp_path / "whole")
    place("killed")
    home = tmp_path / "killed"
    for where, count, then in (
        ("step", 3, ["2"]),
        ("half", 1, ["2"]),
        ("blob", 1, ["2"]),
        ("checkpoint", 1, ["2", "4"]),
        ("registered", 1, None),
    ):
        assert run(where, count)[0] == -9, where
        assert then is None or checkpoints(home) == then, where
    code, printed = run("never")
    assert code == 0
    killed = json.loads(printed)
    assert killed | {"seconds": 0} == whole | {"seconds": 0}
    assert blobs(home) == tensors and checkpoints(home) == checkpoints(tmp_path / "whole")


def blobs(home: Path) -> set[str]:
    """Digests of what the checkpoints hold."""
    return {sha256(path.read_bytes()) for path in home.glob("**/trainings/*/blobs/*")}


def test_a_broken_last_checkpoint_is_passed_over_for_the_one_before(place, tmp_path):
    data = written(tmp_path / "edits.json", EDITS[:24])
    training = MendTraining(rank=8, step_size=0.1, batch=4)
    plan = TrainingPlan(training=training, steps=4, every=2, validation_edits=4)

    def longer() -> TrainingSummary:
        return train_mend(data, plan.model_copy(update={"steps": 6}), name="broken")

    place("whole")
    whole, tensors = longer(), blobs(tmp_path / "whole")
    place("broken")
    train_mend(data, plan, name="broken")
    [last] = (tmp_path / "broken").glob("**/checkpoints/00000004.json")
    [blob] = (tmp_path / "broken").glob(f"**/blobs/{json.loads(last.read_text())['sha256']}.safetensors")
    blob.write_bytes(blob.read_bytes()[:-7])
    resumed = longer()
    assert resumed.hypernetwork == whole.hypernetwork and resumed.steps == 6
    assert blobs(tmp_path / "broken") == tensors


@pytest.mark.parametrize("name", ["our/model", "a:b", "two words", "", "-o"])
def test_a_name_that_mlflow_cannot_keep_is_refused_before_anything_is_read(errata, tmp_path, name):
    refused = errata("train-mend", tmp_path / "nowhere.json", "--name", name)
    check_one_line(refused, 2, "cannot be the name of a model in MLflow")
