"""Laws of the object stores, each held against a folder, moto and SeaweedFS."""

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest

from editing.errors import UsageError
from tasks.names import check_line
from tasks.stores.errors import ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.opening import open_store


def together(count, function):
    """Run the function in threads that start at once; their results, None for a lost race."""
    results, gate = [None] * count, threading.Barrier(count)

    def work(number):
        gate.wait()
        with contextlib.suppress(ObjectConflict):
            results[number] = function(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_what_was_put_is_got(store):
    etag = store.put("a/b.json", b"one")
    assert store.get("a/b.json") == (b"one", etag)
    assert store.exists("a/b.json")


def test_missing_is_said(store):
    assert not store.exists("a/nothing")
    with pytest.raises(ObjectNotFound, match="a/nothing"):
        store.get("a/nothing")


def test_an_object_is_created_once(store):
    store.put_if_absent("k", b"one")
    with pytest.raises(ObjectConflict):
        store.put_if_absent("k", b"two")
    assert store.get("k")[0] == b"one"


def test_creating_the_same_again_is_success(store):
    assert store.put_if_absent("k", b"one") == store.put_if_absent("k", b"one")


def test_only_the_object_that_was_seen_is_replaced(store):
    first = store.put("k", b"one")
    second = store.put_if_match("k", b"two", first)
    with pytest.raises(ObjectConflict):
        store.put_if_match("k", b"three", first)
    assert store.get("k") == (b"two", second)


def test_an_object_that_is_gone_is_not_replaced(store):
    with pytest.raises(ObjectConflict):
        store.put_if_match("gone", b"two", store.put("k", b"one"))


def test_of_eight_who_create_one_wins(store):
    won = together(8, lambda number: store.put_if_absent("race", b"%d" % number))
    assert sum(etag is not None for etag in won) == 1
    assert store.get("race")[0] == b"%d" % next(n for n, etag in enumerate(won) if etag)


def test_of_eight_who_swap_one_wins(store):
    etag = store.put("race", b"old")
    won = together(8, lambda number: store.put_if_match("race", b"%d" % number, etag))
    assert sum(etag is not None for etag in won) == 1
    assert store.get("race")[0] == b"%d" % next(n for n, etag in enumerate(won) if etag)


def test_keys_are_listed_by_prefix_and_sorted(store):
    for key in ("b/2", "b/1", "a", "bc"):
        store.put(key, b"")
    assert store.list("b/") == ["b/1", "b/2"]
    assert store.list("b") == ["b/1", "b/2", "bc"]
    assert store.list("") == ["a", "b/1", "b/2", "bc"]
    assert store.list("none/") == []
    assert store.list("b", "b/1") == ["b/2", "bc"] and store.list("b/", "b/0") == ["b/1", "b/2"]
    assert store.list("b", "b/10") == ["b/2", "bc"] and store.list("", "bc") == []


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a//b", "a/../b", ".hidden", "a\\b", "a\0b", "", "a/"])
def test_keys_stay_inside(folder, key):
    with pytest.raises(StorageError, match="key"):
        folder.put(key, b"")


@pytest.mark.parametrize("line", ["", "A", "-a", "a/b", "../a", "a..b", "a" * 64, "a b"])
def test_names_of_lines_are_checked(line):
    with pytest.raises(UsageError, match="a name has"):
        check_line(line)
    assert check_line("smollm2-memit.v1") == "smollm2-memit.v1"


def test_what_a_killed_writer_left_is_never_listed_and_swept_after_a_day(folder):
    left = Path(folder.uri) / ".tmp"
    left.mkdir()
    (left / "new").write_bytes(b"half")
    (left / "old").write_bytes(b"half")
    os.utime(left / "old", (time.time() - 90_000,) * 2)
    assert open_store(folder.uri).list("") == []
    assert [path.name for path in left.iterdir()] == ["new"]


def test_a_folder_that_is_missing_is_named_and_never_taken_for_an_empty_one(tmp_path):
    path = str(tmp_path / "typo")
    with pytest.raises(StorageError, match=r"typo.*mkdir") as caught:
        open_store(path)
    assert "\n" not in str(caught.value)
    store = open_store(path, create=True)
    shutil.rmtree(path)
    for call in (
        lambda: store.get("HEAD"),
        lambda: store.list(""),
        lambda: store.exists("a"),
        lambda: store.put("a", b""),
    ):
        with pytest.raises(StorageError, match="mount it") as caught:
            call()
        assert not isinstance(caught.value, ObjectNotFound)


def test_a_folder_that_cannot_be_written_is_named():
    path = tempfile.mkdtemp()
    user = os.geteuid()
    try:
        os.chmod(path, 0o555)
        store = open_store(path)
        if user == 0:
            os.seteuid(65534)  # permissions do not bind root
        for write in (lambda: store.put("a", b""), lambda: store.put_if_match("a", b"", "x")):
            with pytest.raises(StorageError, match=rf"{path}.*Permission denied.*choose another folder"):
                write()
    finally:
        os.seteuid(user)
        shutil.rmtree(path)


def test_a_file_in_the_way_is_named(folder):
    folder.put("a", b"")
    for write in (folder.put, folder.put_if_absent):
        with pytest.raises(StorageError, match="a file stands where a folder belongs"):
            write("a/b", b"")


def test_an_unknown_kind_of_store_is_refused():
    with pytest.raises(StorageError, match="gs"):
        open_store("gs://bucket/x")


def test_a_lost_answer_does_not_turn_success_into_conflict(credentials, seaweedfs_url):
    store = open_store("s3://errata-tests/lost", endpoint_url=seaweedfs_url)
    losses = iter([0])

    def lose(**_):
        return next(losses, None)  # 0: send the request again although it was answered

    first = store.put("head", b"one")
    store._client.meta.events.register_first("needs-retry.s3.PutObject", lose)
    store.put_if_absent("new", b"ours")
    losses = iter([0])
    second = store.put_if_match("head", b"two", first)
    assert store.get("head") == (b"two", second)
    assert next(losses, None) is None


def test_errors_of_s3_are_one_line_with_bucket_key_and_remedy_and_no_secret(credentials, moto_url, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(StorageError, match=r"'HEAD' in 's3://no-such-bucket/p'.*create the bucket") as missing:
        open_store("s3://no-such-bucket/p", endpoint_url=moto_url).get("HEAD")
    monkeypatch.setattr("tasks.stores.s3._RETRIES", 1)
    with pytest.raises(StorageError, match="check the endpoint") as refused:
        open_store("s3://bucket/p", endpoint_url="http://127.0.0.1:1").put_if_absent("k", b"")
    for caught in (missing, refused):
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, ObjectNotFound)
    assert "secret" not in f"{missing.value}{refused.value}{caplog.text}"


def test_wrong_credentials_are_explained(credentials, seaweedfs_url, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-but-secret")
    with pytest.raises(StorageError, match="SignatureDoesNotMatch: set AWS_SECRET_ACCESS_KEY") as caught:
        open_store("s3://errata-tests/x", endpoint_url=seaweedfs_url).get("k")
    assert "wrong-but-secret" not in str(caught.value)


def test_no_credentials_are_explained(moto_url, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        open_store("s3://errata-tests/x", endpoint_url=moto_url).get("k")
