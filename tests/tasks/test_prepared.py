"""What is made before a line's first edit: the same however often it was killed, kept as it comes, and told of."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch

from editing import collection
from editing.cache import Cache
from editing.collection import Unfinished
from editing.contexts import TEXT_TOKENS
from editing.key_sums import STEP_BATCHES
from editing.layout import layout_of
from editing.methods import method_config
from editing.methods.memit import MemitConfig
from tasks.progress import listening
from tasks.update import prepared
from tasks.update.prepared import HELD_OUT_ROW, Preparation, Prepared
from tests.conftest import tiny_model
from tests.heard import Heard

pytestmark = pytest.mark.slow

CONFIG = MemitConfig(layers=(0, 1), contexts=3, statistics_tokens=128, statistics_alternatives=1)
LONG = CONFIG.model_copy(update={"statistics_tokens": 9000})
GIVEN = [f"{i} and the old man and the sea. " * 9 for i in range(200)]


@pytest.fixture(scope="module")
def loaded():
    return tiny_model("llama")


HELD_OUT = 8
"""Rows of text that are held out in these tests: to sample all 32 would take most of their time."""


@pytest.fixture
def made(loaded, tmp_path, monkeypatch) -> Callable[..., Prepared]:
    """What is prepared for a configuration, in a cache of this test."""
    monkeypatch.setattr(prepared, "HELD_OUT_TOKENS", HELD_OUT * TEXT_TOKENS)

    def make(config=CONFIG, folder: str = "cache", texts: list[str] | None = None) -> Prepared:
        layers = config.layers or (0, 1)
        return Preparation(loaded, Cache(tmp_path / folder)).make(layout_of(loaded.model), layers, config, texts)

    return make


def assert_same(found: Prepared, expected: Prepared) -> None:
    assert (found.prefixes, found.held_out) == (expected.prefixes, expected.held_out)
    assert (found.statistics.tokens, found.statistics.source) == (
        expected.statistics.tokens,
        expected.statistics.source,
    )
    assert found.statistics.moments.keys() == expected.statistics.moments.keys()
    assert all(torch.equal(C, expected.statistics.moments[layer]) for layer, C in found.statistics.moments.items())


@pytest.fixture
def collected(monkeypatch) -> list[str]:
    """The texts that statistics are collected from."""
    used: list[str] = []
    real = prepared.collect_statistics
    monkeypatch.setattr(prepared, "collect_statistics", lambda *a, **k: used.extend(a[4]) or real(*a, **k))
    return used


@pytest.mark.parametrize("tokens", [192, 5000])
def test_perplexity_is_not_taken_on_the_text_behind_the_statistics(made, collected, monkeypatch, tokens):
    monkeypatch.setattr(prepared, "HELD_OUT_ROW", 0)
    held_out = made(CONFIG.model_copy(update={"statistics_tokens": tokens, "statistics_alternatives": 0})).held_out
    assert collected and not any(text.startswith(tuple(held_out)) for text in collected)
    assert len(held_out) == HELD_OUT


def test_where_the_text_held_out_begins_there_is_room_for_all_that_was_usual():
    config = MemitConfig(statistics_tokens=98304)
    assert prepared._held_out(config) == range(HELD_OUT_ROW, HELD_OUT_ROW + 32)
    assert prepared._held_out(MemitConfig(statistics_tokens=200_000)).start > HELD_OUT_ROW


@pytest.mark.parametrize("method", ["finetune", "ultraedit", "lora"])
def test_the_text_held_out_is_the_same_whatever_statistics_there_are(made, monkeypatch, tmp_path, method):
    whole = [made(CONFIG.model_copy(update={"statistics_tokens": tokens})) for tokens in (128, 2049)]
    monkeypatch.delattr(prepared, "collect_statistics")
    monkeypatch.delattr(prepared, "context_prefixes")
    found = made(method_config(method, {"layers": [1]}), "other")
    assert [found.held_out] * 2 == [one.held_out for one in whole] and found.prefixes == ("",)
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"texts"}


class Killed(BaseException):
    """What no code catches."""


def after(calls: int, real: Callable[..., object]) -> Callable[..., object]:
    """The function until it was called so often; then the process is as good as killed."""
    left = [calls]

    def function(*arguments: object, **options: object) -> object:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return real(*arguments, **options)

    return function


class Work:
    """What is sampled and how many batches run; killed on request after one pass of text, or after nine batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.rows, self.batches = monkeypatch, list[range](), 0
        self.sample_rows, self.run_body = prepared.sample_rows, collection.run_body
        monkeypatch.setattr(prepared, "PASS_ROWS", 30)
        monkeypatch.setattr(prepared, "Unfinished", partial(Unfinished, seconds=0.0, work_a_write=0.0))
        monkeypatch.setattr(prepared, "sample_rows", self.sample)
        monkeypatch.setattr(collection, "run_body", self.run)

    def sample(self, *arguments) -> list[str]:
        self.rows.append(arguments[2])
        return self.sample_rows(*arguments)

    def run(self, *arguments, **options) -> object:
        self.batches += 1
        return self.run_body(*arguments, **options)

    def until_through(self, make: Callable[[], Prepared]) -> tuple[Prepared, int]:
        """What comes in the end, and how often it was killed before."""
        for number in range(60):
            with self.monkeypatch.context() as patch:
                patch.setattr(prepared, "sample_rows", after(1, self.sample))
                patch.setattr(collection, "run_body", after(9, self.run))
                try:
                    return make(), number
                except Killed:
                    continue
        raise AssertionError("it never comes to an end")


@pytest.fixture
def work(monkeypatch) -> Work:
    return Work(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("texts", [None, GIVEN])
def test_killed_between_any_two_parts_it_goes_on_and_comes_to_the_same(made, work, tmp_path, texts):
    whole = made(LONG, "whole", texts)
    rows, batches = len(work.rows), work.batches
    found, kills = work.until_through(lambda: made(LONG, "killed", texts))
    assert_same(found, whole)
    assert kills >= 1 and whole.statistics.tokens > 5000
    assert work.rows[:rows] == work.rows[rows:]  # nothing is sampled twice
    assert work.batches - 2 * batches < kills * STEP_BATCHES
    kept = [path for path in (tmp_path / "killed" / "statistics").rglob("*") if path.is_file()]
    assert len(kept) == 1


def test_what_is_shrunk_and_what_is_not_are_collected_once(made, monkeypatch):
    shrunk = made().statistics
    monkeypatch.delattr(prepared, "collect_statistics")
    plain = made(CONFIG.model_copy(update={"shrink": False})).statistics
    for layer, C in plain.shrunk().moments.items():
        assert torch.equal(C, shrunk.moments[layer]) and not torch.equal(C, plain.moments[layer])


def test_preparing_tells_how_far_it_is_and_never_falls(made):
    heard, again = Heard(), Heard()
    with listening(heard):
        made(LONG)
    for what in ("sampled text", "statistics", "contexts"):
        [total] = {total for name, _, total in heard.told if name == what}
        done = [done for name, done, _ in heard.told if name == what]
        assert done == sorted(done) and done[0] == 0 and done[-1] == total and len(done) > 4
    with listening(again):
        made(LONG)
    assert not again.told


def test_a_start_that_goes_on_tells_what_is_there_already(made, monkeypatch):
    heard = Heard()
    monkeypatch.setattr(prepared, "PASS_ROWS", 30)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(prepared, "sample_rows", after(1, prepared.sample_rows))
        made(LONG)
    with listening(heard):
        made(LONG)
    first, *_ = [(done, total) for what, done, total in heard.told if what == "sampled text"]
    assert first == (23 * TEXT_TOKENS, (94 + HELD_OUT) * TEXT_TOKENS)


@pytest.mark.parametrize(("rows", "parts"), [(1, [1]), (59, [59]), (64, [64]), (65, [32, 33]), (1000, [62, 63])])
def test_passes_are_few_and_even(rows, parts):
    found = prepared._passes(rows)
    assert found[0].start == 0 and found[-1].stop == rows
    assert all(one.stop == next_one.start for one, next_one in pairwise(found))
    assert sorted({len(one) for one in found}) == parts and len(found) == -(-rows // prepared.PASS_ROWS)
