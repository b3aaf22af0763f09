"""Laws of text and key statistics that workers make: whoever does which part, the same bits; nothing is left."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from editing import collection
from editing.cache import Cache
from editing.contexts import TEXT_TOKENS
from editing.layout import layout_of
from editing.methods.memit import MemitConfig
from editing.models import load_model
from tasks.lines.specs import LineSpec
from tasks.settings import Settings
from tasks.stores.opening import open_store
from tasks.stores.searches import Searches
from tasks.update import prepared
from tasks.update.elsewhere import NOBODY, Shared
from tasks.update.prepared import Preparation, Prepared
from tasks.update.preparing import Workers
from tasks.update.run import Run
from tasks.update.shards import ShardDone, search_shard
from tasks.update.team import Team
from tests.conftest import tiny_model
from tests.tasks.test_shards import folder_of

CONFIG = MemitConfig(layers=(0, 1), contexts=1, statistics_tokens=1200, statistics_alternatives=4)
GIVEN = ["And the old man and the sea, he said. " * 3 + str(number) for number in range(90)]
LINE = "main"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    made = tiny_model("llama")
    return folder_of(made.model, made.tokenizer, tmp_path_factory.mktemp("model"))


class Place:
    """A base, a store and caches; `done` are the shards that workers did, in this process."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.folder, self.loaded = folder, load_model(str(model), cache=folder)
        self.store = open_store(str(folder / "store"), create=True)
        self.settings = Settings(cache=folder / "cache")
        policy = SimpleNamespace(workers=2)
        workplace = SimpleNamespace(store=SimpleNamespace(store=self.store), settings=self.settings)
        spec = LineSpec(line=LINE, model=str(model), config=CONFIG)
        self.run = cast(Run, SimpleNamespace(line=LINE, spec=spec, policy=policy, workplace=workplace))
        self.done: list[ShardDone] = []

    def made(self, cache: str, shared: Shared = NOBODY, texts: list[str] | None = None) -> Prepared:
        """What is prepared in an empty cache."""
        preparation = Preparation(self.loaded, Cache(self.folder / cache), shared)
        return preparation.make(layout_of(self.loaded.model), (0, 1), CONFIG, texts)

    def shards(self, team: Team, begin: Any, *, left_out: int = -1) -> None:
        """The shards of what is begun, all but one, before the job looks."""
        digest = Searches(self.store).begin(team.search)
        for first in (2, 0, 1):
            if first != left_out:
                self.done.append(search_shard(self.store, self.settings, digest, first, 3))
        begin(team)


@pytest.fixture
def place(model_folder, tmp_path, monkeypatch) -> Place:
    monkeypatch.setattr(prepared, "HELD_OUT_TOKENS", 4 * TEXT_TOKENS)
    monkeypatch.setattr(prepared, "PASS_ROWS", 5)
    monkeypatch.setattr(collection, "PART_BATCHES", 4)
    return Place(model_folder, tmp_path)


def with_shards(place: Place, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """What a job shares out is done by workers in this process; where something is missing, by nobody."""
    begin = Team.begin
    monkeypatch.setattr(Team, "begin", lambda team: place.shards(team, begin, **options))
    monkeypatch.setattr("tasks.update.team.run_deployment", nobody)


def nobody(*arguments: object, **options: object) -> None:
    raise OSError("no server is there")


def assert_same(found: Prepared, expected: Prepared) -> None:
    assert (found.prefixes, found.held_out) == (expected.prefixes, expected.held_out)
    assert found.statistics.digest == expected.statistics.digest
    assert found.statistics.tokens == expected.statistics.tokens


@pytest.mark.slow
@pytest.mark.parametrize("texts", [None, GIVEN])
def test_what_workers_sample_and_sum_is_what_the_job_makes_alone(place, monkeypatch, texts):
    alone = place.made("alone", texts=texts)
    with_shards(place, monkeypatch)
    for work in ("sample_rows", "run_body"):
        monkeypatch.setattr(collection if work == "run_body" else prepared, work, forbidden(place, work))
    beside = place.made("beside", Workers(place.run), texts)
    assert_same(beside, alone)
    did = [done for done in place.done if done.chunks]
    assert len(did) >= 2 and all(done.said.startswith(f"text in {done.chunks} chunks on cpu: ") for done in did)
    assert place.store.list("searches/") == []


def forbidden(place: Place, work: str) -> Any:
    """What the job itself is not to do; workers do it in their own copy of the model."""
    real = getattr(collection if work == "run_body" else prepared, work)

    def checked(model: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        held_out = work == "sample_rows" and len(arguments[1]) < 5  # a single pass, sampled here
        assert model is not place.loaded.model or held_out, f"the job does {work}"
        return real(model, *arguments, **options)

    return checked


@pytest.mark.slow
def test_what_no_worker_gives_the_job_makes_itself(place, monkeypatch):
    alone = place.made("alone")
    with_shards(place, monkeypatch, left_out=1)
    assert_same(place.made("beside", Workers(place.run)), alone)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["blob", "answer"])
def test_what_is_damaged_is_made_by_the_job_itself_and_said(place, monkeypatch, damage, caplog):
    alone = place.made("alone", texts=GIVEN)
    with_shards(place, monkeypatch)
    real = Team.begin

    def begin(team: Team) -> None:
        real(team)
        if damage == "blob":
            [key, *_] = place.store.list("searches/values/")
            place.store.put(key, place.store.get(key)[0][:-1] + b"x")
        else:
            [key, *_] = place.store.list("searches/answers/")
            place.store.put(key, place.store.get(key)[0].replace(b'"tokens":', b'"tokens":1'))

    monkeypatch.setattr(Team, "begin", begin)
    heard: list[str] = []
    monkeypatch.setattr("tasks.update.preparing.note", lambda text, kind="": heard.append(text))
    assert_same(place.made("beside", Workers(place.run), GIVEN), alone)
    [said] = heard
    assert said.startswith("part ") and "of the key statistics is summed by the job itself: " in said


def test_little_text_is_made_by_the_job_alone(place, monkeypatch):
    monkeypatch.setattr(prepared, "PASS_ROWS", 64)
    monkeypatch.setattr(collection, "PART_BATCHES", 32)
    monkeypatch.setattr(Team, "begin", partial(pytest.fail, "little text was shared out"))
    place.made("beside", Workers(place.run))
