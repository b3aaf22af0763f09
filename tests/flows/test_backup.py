"""A backup taken at any moment of a job is one consistent set: restored elsewhere it is whole, and serves the same."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow.pyfunc
import pytest
from prefect import Task

from editing.errors import ErrataError, UsageError
from flows.knowledge_update import knowledge_update
from tasks.audit.auditing import audit
from tasks.keeping import pointers as pointing
from tasks.keeping.backup import backup
from tasks.keeping.record import RECORD, read_backup
from tasks.keeping.restore import restore
from tasks.ledger import intake
from tasks.ledger.table import Ledger
from tasks.ledger.view import look
from tasks.lines.stored import stored_line
from tasks.review.decisions import approve
from tasks.review.registering import pointer
from tasks.serving.loading import load_version
from tasks.settings import load_settings
from tasks.stores.snapshots import SnapshotStore
from tasks.workplace import Workplace, open_workplace
from tests.flows.conftest import POLICY

pytestmark = pytest.mark.slow
LINE = "kept"


def put_back(folder: Path, to: Path, monkeypatch) -> Workplace:
    monkeypatch.setenv("PREFECT_HOME", str(to / "prefect"))
    settings = load_settings(home=to)
    restore(settings, folder)
    return open_workplace(settings)


def facts(workplace: Workplace) -> dict:
    view = look(workplace.store, workplace.ledger, LINE)
    return {"head": view.head and view.head.snapshot, "versions": {n: v.snapshot for n, v in view.versions.items()}}


def test_a_backup_at_each_moment_of_a_job_is_whole_and_serves_the_same(own_home, monkeypatch, tmp_path, good_edits):
    home = own_home
    intake.submit(home.ledger, LINE, good_edits[:3], "ann")
    knowledge_update(LINE, POLICY)
    approve(home, LINE, None, "good")
    taken: list[tuple[str, dict]] = []

    def take(name: str) -> None:
        before = facts(home)
        backup(home, tmp_path / str(len(taken)))
        taken.append((name, before))

    task_call, publish, append = Task.__call__, SnapshotStore.publish, Ledger.write

    def called(self, *args, **kwargs):
        if self.name in ("register", "apply_batch", "evaluate"):
            take(f"before {self.name}")
        return task_call(self, *args, **kwargs)

    def published(self, *args, **kwargs):
        made = publish(self, *args, **kwargs)
        take("after publish")
        return made

    def appended(self, *args, **kwargs):
        written = append(self, *args, **kwargs)
        take("after append")
        return written

    intake.submit(home.ledger, LINE, good_edits[3:6], "ann")
    with monkeypatch.context() as patched:
        patched.setattr(Task, "__call__", called)
        patched.setattr(SnapshotStore, "publish", published)
        patched.setattr(Ledger, "write", appended)
        knowledge_update(LINE, POLICY)
    assert {"before register", "after publish", "after append"} <= {name for name, _ in taken}
    for number, (name, before) in enumerate(taken):
        again = put_back(tmp_path / str(number), tmp_path / f"home-{number}", monkeypatch)
        found = audit(again)
        assert not found.faults, (name, found.faults)
        assert facts(again) == before, name
    shutil.rmtree(home.settings.home_folder)  # nothing of what was copied is read from there
    monkeypatch.setenv("MLFLOW_TRACKING_URI", again.settings.mlflow_uri)
    served = mlflow.pyfunc.load_model(f"models:/{LINE}@champion")
    prompts = [edit.prompt.replace("{}", edit.subject) for edit in good_edits[:3]]
    said = load_version(pointer(again, again.store.version(LINE, 1), stored_line(again.store.store, LINE))).answer(
        prompts
    )
    assert served.predict(prompts) == said
    approve(again, LINE, None, "good")
    assert not audit(again).faults


@pytest.fixture
def queued(own_home, good_edits) -> Workplace:
    """A home without a version: what is copied of it is there at once."""
    intake.submit(own_home.ledger, LINE, good_edits[:3], "ann")
    own_home.tracker()
    return own_home


def killed(monkeypatch, number: int, work: Callable[[], object]) -> bool:
    """Do the work and be killed as its n-th file is to get its name; whether it was."""
    replace, passed = os.replace, []

    def counted(*names):
        if len(passed) == number:
            raise KeyboardInterrupt
        passed.append(names)
        replace(*names)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", counted)
        try:
            work()
        except KeyboardInterrupt:
            return True
    return False


def test_a_backup_that_was_killed_is_gone_on_with_and_forgets_the_other_moment(queued, tmp_path, monkeypatch):
    to, kills = tmp_path / "copy", 0
    while killed(monkeypatch, kills, lambda: backup(queued, to)):
        assert not to.exists()
        (tmp_path / "copy.partial" / "stray").write_text("of another moment")
        kills += 1
    record = read_backup(to)
    there = {path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file()}
    assert 3 < kills < len(there), "what never changes is not copied twice"
    assert there == {*record.files, RECORD} and not (tmp_path / "copy.partial").exists()


def test_a_restore_that_was_killed_is_gone_on_with_and_nothing_works_meanwhile(queued, tmp_path, monkeypatch):
    backup(queued, tmp_path / "copy")
    home, kills = tmp_path / "again", 0
    while killed(monkeypatch, kills, lambda: put_back(tmp_path / "copy", home, monkeypatch)):
        kills += 1
        if any(home.rglob("*.json")):
            with pytest.raises(UsageError, match=r"has not ended: the same errata restore again"):
                open_workplace(load_settings(home=home))
    again = open_workplace(load_settings(home=home))
    assert kills > 5 and not audit(again).faults
    assert again.ledger.counts(LINE) == {"queued": 3}


def test_what_is_damaged_or_not_empty_is_refused_and_nothing_is_changed(queued, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    record = backup(queued, folder)
    with pytest.raises(UsageError, match="is there already"):
        backup(queued, folder)
    with pytest.raises(UsageError, match="is copied: name a folder elsewhere"):
        backup(queued, queued.settings.home_folder / "ledger" / "copy")
    with pytest.raises(UsageError, match="is not empty: restore into a new home"):
        put_back(folder, queued.settings.home_folder, monkeypatch)
    with pytest.raises(UsageError, match=r"is no backup: it has no backup\.json"):
        put_back(tmp_path, tmp_path / "again", monkeypatch)
    for name in record.files:
        path, data = folder / name, (folder / name).read_bytes()
        for other in (None, data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
            path.unlink(missing_ok=True)
            if other is not None:
                path.write_bytes(other)
            with pytest.raises(ErrataError, match=name):
                put_back(folder, tmp_path / "again", monkeypatch)
        path.write_bytes(data)
    path = folder / next(iter(record.files))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ErrataError, match="is a link"):
        put_back(folder, tmp_path / "again", monkeypatch)
    said = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(said | {"files": {"../out": said["files"].popitem()[1]}}))
    with pytest.raises(ErrataError, match=r"'\.\./out' is no name of a file"):
        put_back(folder, tmp_path / "again", monkeypatch)
    assert not any((tmp_path / "again").rglob("*.json"))


def test_heads_that_move_while_they_are_read_are_read_again(queued, monkeypatch):
    """Two moves between ledger and HEAD would lose the events of the first."""
    heads = iter([{"a": b"1"}, {"a": b"2"}, {"a": b"2"}, {"a": b"2"}])
    monkeypatch.setattr(pointing, "_heads", lambda store: next(heads))
    assert pointing.pointers(queued.store.store, queued.ledger).objects["a"] == b"2"
    assert next(heads, None) is None
