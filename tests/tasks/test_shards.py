"""Laws of values that are searched in shards: however many there are, the same bits; nothing foreign is used."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from editing.cache import Cache
from editing.chat import chat_of
from editing.covariance import KeyStatistics
from editing.digests import json_digest
from editing.edit import Edit
from editing.errors import ErrataError
from editing.layout import layout_of
from editing.methods.memit import MemitConfig
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.models import load_model, quiet_transformers
from editing.weights import EditedWeights
from tasks.lines.specs import LineSpec
from tasks.settings import Settings
from tasks.stores.errors import DigestMismatch
from tasks.stores.opening import open_store
from tasks.stores.search_records import Search
from tasks.stores.searches import Searches
from tasks.update.ahead import planned
from tasks.update.run import Run
from tasks.update.searched import about_value
from tasks.update.session import Session
from tasks.update.shards import search_shard
from tests.conftest import END, tiny_model
from tests.editing.test_chat import TEMPLATE

NAMES = ("Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus")
EDITS = [Edit(id=name, subject=name, prompt="{} was born in", target_new="Rome") for name in NAMES]
EDITS[5:5] = [Edit(id="Ada lives", subject="Ada", prompt="{} lives in", target_new="Oslo")]  # of the first one's key
CONFIG = MemitConfig(layers=(0, 1), contexts=2, search={"steps": 2, "weight_decay": 0.0, "edits_at_once": 2})
CONTEXTS = ("", "The moon. ")
AS_EVER = "53bf017c04253334f1ccb66fcf3f2f3e886b79e17675cbdc461fdd4ea7927006"
"""What a value in the chat was known by before a line could have a system message of its own."""


def folder_of(model: torch.nn.Module, tokenizer: object, folder: Path) -> Path:
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    made = tiny_model("llama")
    return folder_of(made.model, made.tokenizer, tmp_path_factory.mktemp("model"))


@pytest.fixture
def job(model_folder, tmp_path) -> SimpleNamespace:
    """A job's session with an empty cache, what it wants searched, and where that is."""
    loaded = load_model(str(model_folder), cache=tmp_path)
    nothing = KeyStatistics({}, 0, loaded.digest, "none")
    weights = EditedWeights(loaded.model, layout_of(loaded.model))
    given = MethodInput(
        loaded.model, loaded.tokenizer, weights.layout, (0, 1), nothing, KeyHistory(), CONTEXTS, weights
    )
    spec = LineSpec(line="main", model=str(model_folder), config=CONFIG)
    session = Session(loaded, CONFIG, given, weights, Cache(tmp_path / "cache"), [], spec)
    run = cast(Run, SimpleNamespace(line="main", policy=SimpleNamespace(batch_size=3)))
    search = planned(run, session, EDITS, [])
    assert search is not None
    store, settings = open_store(str(tmp_path / "store"), create=True), Settings(cache=tmp_path / "cache")
    return SimpleNamespace(session=session, search=search, store=store, settings=settings, searches=Searches(store))


def shard(job: SimpleNamespace, search: Search, first: int = 0, every: int = 1) -> int:
    return search_shard(job.store, job.settings, job.searches.begin(search), first, every).chunks


def answers(job: SimpleNamespace) -> dict[str, str]:
    """The digest of the values of each chunk."""
    return {chunk.name: job.searches.found(chunk)[1].values for chunk in job.search.chunks}


@pytest.mark.parametrize("store", ["moto", "seaweedfs"], indirect=True)
def test_shards_in_s3_give_what_one_in_a_folder_gives_and_what_the_job_finds_itself(job, store):
    assert [len(chunk.groups) for chunk in job.search.chunks] == [2, 2, 1, 2]  # batches of three, two at once
    assert shard(job, job.search) == 4
    alone = answers(job)
    job.store, job.searches = store, Searches(store)
    assert [shard(job, job.search, first, 3) for first in (2, 0, 1)] == [1, 2, 1]
    assert answers(job) == alone
    batches = job.session.keys.batches(EDITS, 3)
    written = [list(chain.from_iterable(batches[:number])) for number in range(len(batches) + 1)]
    itself = torch.cat([job.session.values(batch, live) for batch, live in zip(batches, written, strict=False)])
    found = {
        edit.id: value
        for chunk in job.search.chunks
        for group, value in zip(chunk.groups, job.searches.found(chunk)[0], strict=True)
        for edit in group
    }
    assert all(torch.equal(found[edit.id], value) for edit, value in zip(written[-1], itself, strict=True))


def test_values_of_another_system_message_are_not_used_and_those_of_none_are_known_as_ever(job, tmp_path):
    tokenizer, fact = job.session.loaded.tokenizer, EDITS[:1]
    tokenizer.chat_template = TEMPLATE

    def name(system: str | None) -> str:
        given = replace(job.session.method_input, chat=chat_of(tokenizer, "chat", system))
        return json_digest(about_value(given, "base", CONFIG, fact))

    assert name(None) == AS_EVER
    assert len({name(system) for system in (None, "Be brief.", "Be brief", f"Be brief.{END}")}) == 4


def test_a_shard_searches_under_the_system_message_of_the_line(job, tmp_path):
    loaded = job.session.loaded
    loaded.tokenizer.chat_template = TEMPLATE
    folder = folder_of(loaded.model, loaded.tokenizer, tmp_path / "chatting")
    job.session.spec = LineSpec(
        line="main", model=str(folder), template="chat", system="The moon is old.", config=CONFIG
    )
    chat = chat_of(loaded.tokenizer, "chat", "The moon is old.")
    job.session.method_input = replace(job.session.method_input, chat=chat)
    run = cast(Run, SimpleNamespace(line="main", policy=SimpleNamespace(batch_size=3)))
    search = planned(run, job.session, EDITS[:1], [])
    assert shard(job, search) == 1
    found, _ = job.searches.found(search.chunks[0])
    assert torch.equal(found, job.session.values(EDITS[:1]))


def test_a_shard_goes_on_where_another_was_killed_and_the_first_answer_counts(job):
    first = job.search.chunks[0]
    job.searches.answer(first.name, torch.ones(2, 32), "elsewhere", "cpu", 1.0)
    assert shard(job, job.search) == 3
    job.searches.answer(first.name, torch.zeros(2, 32), "late", "cpu", 1.0)
    z_star, answer = job.searches.found(first)
    assert bool(z_star.eq(1).all()) and answer.host == "elsewhere"


def test_a_search_that_the_job_has_ended_is_searched_no_more_and_leaves_nothing(job, monkeypatch):
    digest = job.searches.begin(job.search)
    monkeypatch.setattr(Searches, "goes_on", lambda self, asked: not self.is_answered(job.search.chunks[1].name))
    assert search_shard(job.store, job.settings, digest, 0, 1).chunks == 2
    job.searches.end(digest, job.search.chunks)
    assert job.store.list("searches/") == []
    done = search_shard(job.store, job.settings, digest, 0, 1)
    assert (done.chunks, done.said) == (0, "nothing was left to do")


def other_base(search: Search, tmp_path: Path) -> Search:
    made = tiny_model("gpt2")
    folder = folder_of(made.model, made.tokenizer, tmp_path / "other")
    return search.model_copy(update={"spec": search.spec | {"model": str(folder)}})


def other_release(search: Search, tmp_path: Path) -> Search:
    return search.model_copy(update={"release": "9.9"})


def other_config(search: Search, tmp_path: Path) -> Search:
    config = search.spec["config"] | {"search": search.spec["config"]["search"] | {"clamp": 9.0}}
    return search.model_copy(update={"spec": search.spec | {"config": config}})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_base, r"line 'main': its base '.*other' has digest [0-9a-f]{12} for the job and [0-9a-f]{12} here"),
        (other_release, r"line 'main': its job runs Errata 9\.9, this worker has "),
        (other_config, r"line 'main': a search is known as [0-9a-f]{12} to the job and as [0-9a-f]{12} here"),
    ],
)
def test_a_worker_with_another_base_release_or_configuration_refuses_in_one_line(
    job, tmp_path, change: Callable[[Search, Path], Search], says: str
):
    with pytest.raises(ErrataError, match=says) as error:
        shard(job, change(job.search, tmp_path))
    assert "\n" not in str(error.value)
    assert not any(job.searches.is_answered(chunk.name) for chunk in job.search.chunks)


def test_values_that_are_not_what_their_digest_says_are_not_used(job):
    first = job.search.chunks[0]
    job.searches.answer(first.name, torch.ones(2, 32), "elsewhere", "cpu", 1.0)
    [key] = job.store.list("searches/values/")
    job.store.put(key, job.store.get(key)[0][:-1] + b"x")
    with pytest.raises(DigestMismatch, match="searches/values/"):
        job.searches.found(first)
