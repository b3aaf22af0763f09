"""The cache: made once, read afterwards, made anew where it is broken, and never what ends the work."""

import json
import logging
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from editing.cache import Cache
from editing.streamed import save_tensors


def dump(value: int) -> bytes:
    return json.dumps(value).encode()


def load(path: Path) -> int:
    found = json.loads(path.read_text())
    if not isinstance(found, int):
        raise ValueError("no number")
    return found


def counted(values: list[int]) -> Callable[[], int]:
    """Gives the values one after the other."""
    return lambda: values.pop(0)


def test_what_is_there_is_not_made_again_by_anyone(tmp_path):
    assert Cache(tmp_path).get("kind", {"a": 1}, counted([7]), dump, load) == 7
    assert Cache(tmp_path).get("kind", {"a": 1}, counted([]), dump, load) == 7


@pytest.mark.parametrize("about", [{"a": 2}, {"b": 1}, [1], "a", None, {"a": (1,)}])
def test_what_is_about_something_else_is_something_else(tmp_path, about):
    cache = Cache(tmp_path)
    cache.get("kind", {"a": 1}, counted([7]), dump, load)
    assert cache.get("kind", about, counted([8]), dump, load) == 8
    assert cache.get("other", {"a": 1}, counted([9]), dump, load) == 9
    assert cache.get("kind", {"a": 1}, counted([]), dump, load) == 7


def test_the_order_of_names_and_the_kind_of_sequence_do_not_matter(tmp_path):
    cache = Cache(tmp_path)
    cache.get("kind", {"a": 1, "b": (2, 3)}, counted([7]), dump, load)
    assert cache.get("kind", {"b": [2, 3], "a": 1}, counted([]), dump, load) == 7


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_an_entry_that_is_broken_is_made_anew(tmp_path, content):
    cache = Cache(tmp_path)
    cache.get("kind", "x", counted([7]), dump, load)
    cache.path("kind", "x").write_bytes(content)
    assert cache.get("kind", "x", counted([8]), dump, load) == 8
    assert cache.get("kind", "x", counted([]), dump, load) == 8


def test_a_folder_in_the_place_of_an_entry_stops_nothing(tmp_path):
    cache = Cache(tmp_path)
    cache.path("kind", "x").mkdir(parents=True)
    assert cache.get("kind", "x", counted([8]), dump, load) == 8


def test_of_several_only_those_that_are_missing_are_made_and_each_is_stored_at_once(tmp_path):
    cache = Cache(tmp_path)
    cache.get("kind", 1, counted([10]), dump, load)
    asked = []

    def make(missing: list[int]):
        asked.append(missing)
        yield 0
        assert cache.path("kind", 0).is_file()  # so that what a killed job had is not lost
        yield 20

    assert cache.get_all("kind", [0, 1, 2], make, dump, load) == [0, 10, 20] and asked == [[0, 2]]
    assert cache.get_all("kind", [2, 1, 0], make, dump, load) == [20, 10, 0] and asked == [[0, 2]]


def test_a_failure_to_make_something_is_the_callers_and_leaves_nothing(tmp_path):
    cache = Cache(tmp_path)
    with pytest.raises(ValueError, match="nothing to make"):
        cache.get("kind", "x", failing, dump, load)
    assert list(tmp_path.rglob("*")) == []


def test_what_is_written_from_where_it_lies_has_the_bytes_of_a_copy_and_one_owner(tmp_path):
    cache, tensors = Cache(tmp_path), {"b": torch.arange(3.0), "a": torch.ones(2, 2).double()}
    cache.write("kind", "x", partial(save_tensors, tensors=tensors, about={"tokens": "3"}))
    path = cache.path("kind", "x")
    assert path.read_bytes() == save(tensors, {"tokens": "3"}) and path.stat().st_mode & 0o777 == 0o600
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]


def test_a_disk_that_fills_while_tensors_are_written_leaves_what_was_there(tmp_path, caplog):
    cache = Cache(tmp_path)
    cache.write("kind", "x", b"whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        cache.write("kind", "x", partial(save_tensors, tensors={"a": torch.zeros(10_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "File too large" in caplog.text and "will be computed again" in caplog.text
    assert cache.read("kind", "x", Path.read_bytes) == b"whole"
    assert len([one for one in tmp_path.rglob("*") if one.is_file()]) == 1


def failing() -> int:
    raise ValueError("nothing to make")


def test_where_nothing_can_be_written_the_work_goes_on_and_one_line_says_so(tmp_path, caplog):
    place = tmp_path / "file"
    place.write_text("a file where the folder belongs")
    cache = Cache(place)
    with caplog.at_level(logging.WARNING):
        assert [cache.get("kind", i, counted([i]), dump, load) for i in range(3)] == [0, 1, 2]
        assert cache.get_all("kind", [4, 5], lambda missing: [4, 5], dump, load) == [4, 5]
    [line] = [record.getMessage() for record in caplog.records]
    assert str(place) in line and "make the folder writable, or choose another" in line and "\n" not in line
    assert place.read_text() == "a file where the folder belongs"
