"""What a line resolved once stays as it was: layers, contexts, key statistics."""

import pytest
import torch

from editing.cache import Cache
from editing.config import layers_for
from editing.errors import StatisticsError, UsageError
from editing.layout import layout_of
from editing.methods.memit import MemitConfig
from tasks.lines.specs import LineSpec
from tasks.progress import listening
from tasks.settings import Settings
from tasks.stores.manifest import Manifest
from tasks.update.function import check_statistics, function_of, note_other_statistics, stored_function
from tasks.update.prepared import Preparation
from tasks.update.session import open_session
from tests.conftest import tiny_model
from tests.heard import Heard
from tests.tasks.test_session import model_folder  # noqa: F401  # a fixture

SMALL = {"contexts": 2, "context_tokens": 4, "statistics_tokens": 128, "statistics_alternatives": 0}
CONFIG = MemitConfig(**SMALL)
TEXTS = [f"{i} and the old man and the sea. " * 9 for i in range(40)]


@pytest.fixture
def opened(model_folder, tmp_path):  # noqa: F811
    def make(config=CONFIG, **more):
        return open_session(
            LineSpec(line="main", model=str(model_folder), config=config), Settings(cache=tmp_path), **more
        )

    return make


@pytest.mark.slow
def test_a_later_release_that_prefers_other_layers_or_contexts_changes_no_line(opened, monkeypatch):
    first = function_of(opened())
    assert first["layers"] == list(layers_for(CONFIG, "llama", 4, 32)) == [1] and len(first["contexts"]) == 2
    monkeypatch.setattr("editing.config.PRESET_LAYERS", {("llama", 4, 32): (0, 2)})
    monkeypatch.setattr("tasks.update.prepared.context_prefixes", lambda *a, **k: ["", "Another time. "])
    monkeypatch.setattr("tasks.update.prepared.Preparation._prefixes", lambda self, config: ["", "Another time. "])
    assert function_of(opened(function=first)) == first
    other = function_of(opened())
    assert other["layers"] == [0, 2] and other["contexts"] != first["contexts"]
    assert opened(function=first).config.layers == (1,)


@pytest.mark.slow
def test_a_version_names_its_statistics_by_their_bits(opened):
    one, same = function_of(opened())["statistics"], function_of(opened())["statistics"]
    other = function_of(opened(statistics_texts=TEXTS))["statistics"]
    assert one == same and one["sha256"] != other["sha256"] and other["source"].startswith("text ")


def test_statistics_that_come_out_otherwise_than_those_of_the_line_are_said_to(opened):
    session, heard = opened(), Heard()
    stored = function_of(session)
    with listening(heard):
        for same in (stored, {}, {"layers": [1]}, {"statistics": {"source": "text", "tokens": 1}}):
            note_other_statistics("main", same, session)
        assert heard.notes == []
        note_other_statistics("main", stored, opened(statistics_texts=TEXTS))
    [(kind, text)] = heard.notes
    assert kind == "warning" and f"'main' was made with key statistics {stored['statistics']['sha256'][:12]}" in text


def test_a_text_for_the_statistics_of_a_line_that_has_others_is_refused(opened):
    sampled, given = function_of(opened()), function_of(opened(statistics_texts=TEXTS))
    check_statistics("main", sampled, None)
    check_statistics("main", given, TEXTS)
    check_statistics("main", {}, TEXTS)
    for stored, texts in ((sampled, TEXTS), (given, TEXTS[1:])):
        with pytest.raises(
            UsageError, match=r"line 'main' has key statistics of (sampled|text) .*leave it out, give that"
        ):
            check_statistics("main", stored, texts)


def test_statistics_of_a_text_that_is_not_given_again_come_from_the_cache_or_not_at_all(tmp_path):
    loaded = tiny_model("llama")

    def made(folder, texts=None, function=None):
        preparation = Preparation(loaded, Cache(tmp_path / folder))
        return preparation.make(layout_of(loaded.model), (1,), CONFIG, texts, function).statistics

    first = made("here", TEXTS)
    function = {"layers": [1], "contexts": ["", "I. "], "statistics": {"source": first.source, "tokens": first.tokens}}
    assert torch.equal(made("here", None, function).moments[1], first.moments[1])
    with pytest.raises(StatisticsError, match="are not in the cache here; give that text by --statistics-text"):
        made("elsewhere", None, function)


def test_the_newest_version_says_what_the_line_is_a_function_of():
    def version(number, **more):
        return Manifest(
            line="main", version=number, parent=None, base="b", base_digest="d", config={}, request_ids=(),
            tensor_digests={}, batch=1, **more,
        )  # fmt: skip

    versions = [version(1), version(2, function={"layers": [1]}), version(3, function={"layers": [2]}), version(4)]
    assert stored_function(versions) == {"layers": [2]} and stored_function(versions[:1]) == {}
