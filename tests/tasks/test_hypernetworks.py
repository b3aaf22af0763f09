"""Hypernetworks by digest: fetched where they are missing, and never taken for what they are not."""

import pytest

from editing.digests import sha256
from editing.errors import HypernetworkError, NoSuchHypernetwork
from editing.methods import method_config
from editing.methods.mend.files import load_network, network_bytes
from tasks.lines.hypernetworks import cached, keep, located, resolve, stored
from tasks.settings import Settings
from tasks.stores.opening import open_store
from tasks.tracking.errors import TrackingError
from tasks.tracking.hypernetworks import HypernetworkTracker
from tasks.workplace import EXPERIMENT
from tests.conftest import tiny_model
from tests.hypernetworks import untrained


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache")


@pytest.fixture
def data() -> bytes:
    tiny = tiny_model("llama")
    return network_bytes(untrained(tiny.model, tiny.digest, (2, 3)))


@pytest.fixture
def config(data):
    return method_config("mend", {"hypernetwork_digest": sha256(data)})


def test_a_kept_hypernetwork_is_found_by_its_digest_where_the_cache_is_empty(settings, data, config, tmp_path):
    (tmp_path / "h.safetensors").write_bytes(data)
    assert resolve(str(tmp_path / "h.safetensors"), settings) == sha256(data)
    first = located(config, settings)
    store = open_store(settings.store_uri, create=True)
    keep(store, first)
    cached(settings, sha256(data)).unlink()
    assert located(config, settings) == first and load_network(cached(settings, sha256(data))).spec.rank == 8


def test_what_was_resolved_keeps_its_meaning_whatever_its_reference_means_later(settings, data, tmp_path):
    path = tmp_path / "h.safetensors"
    path.write_bytes(data)
    digest = resolve(str(path), settings)
    path.write_bytes(b"another one")
    assert resolve(digest, settings) == digest
    cached(settings, digest).write_bytes(b"broken")
    with pytest.raises(HypernetworkError, match=f"no hypernetworks in .* begin with {digest}"):
        resolve(digest, settings)


def test_a_changed_file_of_the_cache_is_fetched_again(settings, data, config):
    stored(open_store(settings.store_uri, create=True)).put(data)
    path = cached(settings, sha256(data))
    located(config, settings)
    path.write_bytes(data[:-1])
    assert located(config, settings).hypernetwork == str(path) and path.read_bytes() == data


def test_what_is_missing_or_changed_in_the_store_is_refused_by_name(settings, data, config):
    store = open_store(settings.store_uri, create=True)
    key = stored(store).key(sha256(data))
    with pytest.raises(HypernetworkError, match=f"no hypernetwork {sha256(data)[:12]} in the cache or in .* as {key}"):
        located(config, settings)
    store.put(key, data[:-1])
    with pytest.raises(HypernetworkError, match=rf"'{key}' in '.*': expected sha256 .*; restore it from a copy"):
        located(config, settings)
    assert not cached(settings, sha256(data)).exists()


def test_a_folder_with_several_files_names_none(settings, data, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    with pytest.raises(HypernetworkError, match=r"holds 2 \.safetensors files, not one; name the file"):
        resolve(str(tmp_path), settings)


def test_what_mlflow_has_not_is_named(settings):
    tracker = HypernetworkTracker(settings.mlflow_uri, settings.artifact_root, EXPERIMENT)
    run = tracker.start_run("there", "a training", {}, {})
    tracker.register_hypernetwork("there", run, b"x", "a" * 64, {})
    missing = [f"models:/{name}" for name in ("nope/1", "nope@best", "there/9", "there@best")]
    for reference in (*missing, f"runs:/{'0' * 32}/x.safetensors"):
        with pytest.raises(NoSuchHypernetwork, match=f"^MLflow has no '{reference}': .*; look at its page of models$"):
            resolve(reference, settings)
    with pytest.raises(TrackingError, match=r"path is correct\. It was deleted there, or .*TRACKING_URI"):
        resolve(f"runs:/{run}/x.safetensors", settings)


def test_other_methods_have_nothing_to_locate(settings):
    config = method_config("memit")
    assert located(config, settings) is config
