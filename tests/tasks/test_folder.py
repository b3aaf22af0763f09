"""Laws of a store in a folder: no hard links, one lock that no killed process keeps, files that are whole or absent."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from tasks.stores import folder as folder_module
from tasks.stores.errors import ObjectConflict, StorageError
from tasks.stores.opening import open_store
from tests.tasks.test_snapshots import killed_at

KEYS = [f"k/{number:03d}" for number in range(40)]
ROOT = Path(__file__).parents[2]


def test_a_file_system_without_hard_links_will_do(folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    first = folder.put_if_absent("k", b"one")
    with pytest.raises(ObjectConflict):
        folder.put_if_absent("k", b"two")
    assert folder.get("k") == (b"one", first)


def test_a_creation_killed_anywhere_is_whole_or_not_there_and_what_was_there_stays(tmp_path):
    for step in range(1, 100):
        store = open_store(str(tmp_path / str(step)), create=True)
        store.put_if_absent("a/taken", b"first")

        def create(store=store):
            store.put_if_absent("a/new", b"x" * 100_000)
            with pytest.raises(ObjectConflict):
                store.put_if_absent("a/taken", b"second")

        killed = killed_at(step, create)
        assert store.get("a/taken")[0] == b"first"
        assert not store.exists("a/new") or store.get("a/new")[0] == b"x" * 100_000
        store.put_if_absent("a/new", b"x" * 100_000)  # nobody is left who holds a lock
        if not killed:
            break
    assert 4 < step < 99


def create_all(uri: str, name: bytes, gate) -> None:
    store = open_store(uri)
    gate.wait()
    for key in KEYS:
        try:
            store.put_if_absent(key, name * 1000)
            store.put_if_absent(f"won/{key}/{name.decode()}", b"")
        except ObjectConflict:
            pass


def test_of_processes_that_create_the_same_one_wins_each_and_nothing_is_overwritten(folder):
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(4)
    workers = [context.Process(target=create_all, args=(folder.uri, name, gate)) for name in (b"a", b"b", b"c", b"d")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for key in KEYS:
        winners = [won.rpartition("/")[2] for won in folder.list(f"won/{key}/")]
        assert [folder.get(key)[0]] == [winner.encode() * 1000 for winner in winners]


HOLDING = """
import filelock, time
with filelock.FileLock({path!r}):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_free(folder):
    code = HOLDING.format(path=f"{folder.uri}/.lock")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout.readline() == b"held\n"
    waiting = threading.Thread(target=folder.put_if_absent, args=("k", b"one"))
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive() and not folder.exists("k")
    child.send_signal(signal.SIGKILL)
    waiting.join()
    assert folder.get("k")[0] == b"one"
    child.communicate()


def test_a_process_that_hangs_with_the_lock_is_said_and_not_waited_for_for_ever(folder, monkeypatch):
    monkeypatch.setattr(folder_module, "_LOCK_SECONDS", 0.05)
    with (
        FileLock(f"{folder.uri}/.lock"),
        pytest.raises(StorageError, match=r"\.lock' was locked by another process for 0\.05 s: end the process"),
    ):
        folder.put_if_absent("k", b"one")
    assert folder.list("") == []
