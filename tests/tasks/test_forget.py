"""What is forgotten is in no file any more, killed at any step or not; what held it is never served again."""

import json
import os
import re
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from editing.edit import Edit
from editing.errors import UsageError
from tasks.audit.auditing import audit
from tasks.keeping.backup import backup
from tasks.keeping.databases import sweep
from tasks.keeping.forgetting import forget
from tasks.keeping.needles import needles_of, spelled
from tasks.keeping.restore import restore
from tasks.keeping.unserved import take_away
from tasks.ledger import intake
from tasks.ledger.removals import removal_events
from tasks.ledger.view import look
from tasks.progress import listening
from tasks.review.decided import By
from tasks.review.decisions import approve, roll_back, take_back
from tasks.review.retracting import retract
from tasks.review.served import service_history
from tasks.stores.errors import Forgotten
from tasks.workplace import open_workplace
from tests.tasks.reviewed_line import ReviewedLine
from tests.tasks.test_told_parts import Heard

SUBJECT = "Quoxwell Zimbräno"


def where(folder: Path, *texts: str) -> list[str]:
    """The files below a folder in which one of these texts stands, in any spelling; packed files are opened."""
    sought = [one.encode() for text in texts for one in spelled(text)]
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            contents = [path.read_bytes()]
            if path.suffix == ".parquet":
                contents += [
                    str(pq.read_table(path).to_pylist()).encode(),
                    str(pq.ParquetFile(path).metadata.to_dict()).encode(),
                ]
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as packed:
                    contents += [packed.read(name) for name in packed.namelist()]
            if any(one in data for one in sought for data in contents):
                found.append(path.relative_to(folder).as_posix())
    return found


@pytest.fixture
def told(tmp_path, request, monkeypatch):
    """A line whose version 1 holds a secret and was in service for a while; version 2, built on it, was refused."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    line = ReviewedLine(tmp_path, "told")
    first = line.make(subject=SUBJECT, alike={"r1": (f"its subject '{SUBJECT}' is that of another",)})
    line.make()
    place, tracker = line.workplace, line.workplace.tracker()
    tracker.describe_version("told", 1, f"| {SUBJECT} was born in | Rome |")
    tracker.describe_run(line.run_id, "a job", {"note": f"wrote {SUBJECT}"}, f"of {SUBJECT}")
    (tmp_path / "a.log").write_text(f"written: {SUBJECT}\nall well\n")
    (tmp_path / "cache" / "values" / "ab").mkdir(parents=True)
    (tmp_path / "cache" / "values" / "ab" / "ab").write_bytes(b"numbers")
    place.store.store.put(f"searches/tasks/{'a' * 64}.json", f"to be searched: {SUBJECT}".encode())  # of a killed job
    approve(place, "told", 1, f"{SUBJECT} asked for it")
    roll_back(place, "told", 0, "complaints")
    assert first.number == 1 and {"ledger", "snapshots"} < {name.split("/")[0] for name in where(tmp_path, SUBJECT)}
    return line


def check_forgotten(line) -> None:
    home = line.settings.home_folder
    assert where(home, SUBJECT) == []
    found = audit(open_workplace(line.settings))
    assert [one for one in found.faults if "no definition" not in one.text and "not registered" not in one.text] == []
    notes = [one.text for one in found.findings if one.weight == "note"]
    assert any("version 1 of line 'told' held what ann has forgotten" in one and "(asked)" in one for one in notes)
    assert found.looked_at["forgotten requests"] == 1
    assert not [path for path in (home / "cache").rglob("*") if path.is_file()]
    place = open_workplace(line.settings)
    assert "all well" in (home / "a.log").read_text()
    assert [one.version for one in service_history(place, "told")] == [0, 1, 0]
    for number in (1, 2):
        version = place.store.version("told", number)
        with pytest.raises(Forgotten, match=rf"version {number} of line 'told' held .* can be served no more"):
            place.store.move_head("told", version, place.store.head("told"), "promote", "ann", "")
        with pytest.raises(Forgotten, match="can be served no more"):
            place.store.tensors(version.manifest)
    with pytest.raises(Forgotten, match="can be served no more"):
        roll_back(place, "told", 1, "again", with_retracted=True)
    state = place.ledger.states("told")["r1"]
    assert (state.state, state.payload["id"], state.payload["forgotten"]["reason"]) == ("rolled_back", "r1", "asked")


@pytest.mark.slow
def test_what_is_forgotten_stands_in_no_file_and_what_held_it_is_not_served(told):
    done = forget(told.workplace, "told", ["r1"], "asked")
    assert (done.forgotten, done.queued, done.versions, done.notes) == (["r1"], {}, [1, 2], [])
    check_forgotten(told)
    assert told.workplace.ledger.payloads("told", ["r2"])["r2"]["subject"] == "Ada"
    head = told.workplace.store.head("told")
    again = forget(open_workplace(told.settings), "told", ["r1"], "asked once more")
    assert again.forgotten == ["r1"] and told.workplace.store.head("told") == head, "a repetition moves nothing"
    check_forgotten(told)
    told.make()  # work goes on
    assert [one.number for one in told.waiting()] == [3]
    approve(told.workplace, "told", 3, "good")
    assert told.serving() == 3
    for path in (told.settings.home_folder / "snapshots" / "forgotten").iterdir():
        data = path.read_bytes()
        for other in (None, data.replace(b"asked", b"usked"), data.replace(b'"version":', b'"version":1')):
            path.unlink(missing_ok=True)
            if other is not None:
                path.write_bytes(other)
            assert any(path.stem in one.text for one in audit(open_workplace(told.settings)).faults), other
        path.write_bytes(data)


@pytest.mark.slow
def test_forgetting_tells_how_far_it_is_with_each_place(told):
    heard = Heard()
    with listening(heard):
        forget(told.workplace, "told", ["r1"], "asked")
    assert heard.told["versions that held them"] == [(0, 1), (0, 4), (1, 4), (2, 4), (3, 4), (1, 1)]
    for what in ("MLflow's database", "records of lines", "files", "cache"):
        first, *counted, last = heard.told[what]
        assert (first, last) == ((0, 1), (1, 1)) and counted and counted == sorted(counted), what


@pytest.mark.slow
def test_a_backup_made_afterwards_has_nothing_of_it_and_is_whole(told, tmp_path_factory, monkeypatch):
    forget(told.workplace, "told", ["r1"], "asked")
    folder = tmp_path_factory.mktemp("elsewhere")
    backup(told.workplace, folder / "copy")
    monkeypatch.setenv("PREFECT_HOME", str(folder / "home" / "prefect"))
    settings = told.settings.model_copy(update={"home": folder / "home"})
    restore(settings, folder / "copy")
    assert where(folder, SUBJECT) == []
    assert any("has forgotten" in one.text for one in audit(open_workplace(settings)).findings)


@pytest.mark.slow
def test_killed_after_any_step_it_is_completed_by_a_repetition(told, monkeypatch):
    """Each run is killed one effect later than the one before, on what that one has left."""
    effects = [(os, "replace"), (os, "unlink"), (Path, "unlink"), (sqlite3, "connect")]
    effects += [("tasks.ledger.rewriting.write_deltalake",), ("deltalake.DeltaTable.vacuum",)]
    effects += [("deltalake.DeltaTable.create_checkpoint",), ("deltalake.table.TableAlterer.set_table_properties",)]
    kills = 0
    monkeypatch.setattr("tasks.ledger.rewriting.AT_ONCE", 1)
    while kills < 200:
        passed = []
        with monkeypatch.context() as patched:
            for effect in effects:
                counted_and_killed(patched, effect, passed, kills)
            try:
                forget(open_workplace(told.settings), "told", ["r1"], "asked")
                break
            except KeyboardInterrupt:
                kills += 1
    assert 10 < kills < 200
    check_forgotten(told)


def counted_and_killed(patched, effect: tuple, passed: list, number: int) -> None:
    owner, name = effect if len(effect) == 2 else _owner(effect[0])
    function = getattr(owner, name)

    def counted(*given, **named):
        if len(passed) == number:
            raise KeyboardInterrupt
        passed.append(name)
        return function(*given, **named)

    patched.setattr(owner, name, counted)


def _owner(path: str):
    import importlib

    module, _, name = path.rpartition(".")
    try:
        return importlib.import_module(module), name
    except ModuleNotFoundError:
        outer, _, owner = module.rpartition(".")
        return getattr(importlib.import_module(outer), owner), name


@pytest.mark.slow
def test_a_fact_in_service_is_queued_as_a_removal_first(told):
    roll_back(told.workplace, "told", 1, "it was right")
    head = told.workplace.store.head("told")
    done = forget(told.workplace, "told", ["r1"], "asked")
    [removal] = done.queued.values()
    assert removal.startswith("retract:r1@") and done.forgotten == [] and told.workplace.store.head("told") == head
    assert forget(told.workplace, "told", ["r1"], "asked").queued == {"r1": removal}
    assert told.workplace.ledger.payloads("told", ["r1"])["r1"]["subject"] == SUBJECT


@pytest.mark.slow
def test_no_reason_keeps_it_whoever_gave_one_and_whenever(told):
    place, why = told.workplace, f"asked to by {SUBJECT}"
    told.make()
    [removal] = retract(place, "told", ["r3"], f"{SUBJECT} wants this out as well").done.queued.values()
    roll_back(place, "told", 1, "it was right")
    done = forget(place, "told", ["r1"], why)
    assert done.notes == ["the reason says some of it, and is kept as 'asked to by [forgotten]'"]
    assert place.ledger.payloads("told", [done.queued["r1"]])[done.queued["r1"]]["reason"] == "asked to by [forgotten]"
    roll_back(place, "told", 0, why)
    assert forget(place, "told", ["r2"], f"as {SUBJECT} said").forgotten == ["r2"]
    done = forget(place, "told", ["r1"], why)
    assert (done.forgotten, [one for one in done.notes if "says some of it as well" in one]) == (["r1"], [])
    assert where(told.settings.home_folder, SUBJECT) == []
    place = open_workplace(told.settings)
    state, kept = place.ledger.states("told")["r1"], place.ledger.payloads("told", [removal])[removal]
    assert state.payload["forgotten"]["reason"] == "asked to by [forgotten]"
    assert kept == {"id": removal, "removes": "r3", "reason": "[forgotten] wants this out as well"}
    assert [one for one in audit(place).faults if "no definition" not in one.text and "regist" not in one.text] == []


@pytest.mark.slow
def test_a_reason_from_before_that_names_it_goes_where_the_ids_that_do_stay(told):
    named = Edit(id=f"hr {SUBJECT}", subject=SUBJECT, prompt="{} lives in", target_new="Vlimmeren")
    intake.submit(told.workplace.ledger, "told", [named], "ann")
    ledger = told.workplace.ledger
    removal, _ = events = removal_events("told", named.id, 2, "ann", f"{SUBJECT} asked")
    ledger.append_possible(events)
    done = forget(told.workplace, "told", ["r1", named.id], "asked")
    assert (
        done.forgotten == ["r1", named.id]
        and f"the id of request '{named.id}' says some of it, and stays" in done.notes
    )
    told_now = open_workplace(told.settings).ledger.payloads("told", [named.id, removal.request_id])
    assert told_now[named.id]["id"] == named.id
    wanted = {"id": removal.request_id, "removes": named.id, "reason": "[forgotten] asked"}
    assert told_now[removal.request_id] == wanted


@pytest.mark.slow
def test_nobody_is_offered_a_version_that_is_forgotten(told):
    place = told.workplace
    forget(place, "told", ["r1"], "asked")
    gone, none = r"version 1 .* can be served no more", "; there is no other to go back to$"
    for to in (None, 1):
        with pytest.raises(Forgotten, match=gone + none):
            roll_back(place, "told", to)
    with pytest.raises(
        UsageError, match=r"approved by ann .*; version 1 of line 'told' held .* can be served no more$"
    ):
        approve(place, "told", 1, by=By("bo"))
    for number in (3, 4):
        told.make()
        approve(place, "told", number)
    with pytest.raises(Forgotten, match=gone + "; choose one of 0, 3$"):
        roll_back(place, "told", 1)
    with pytest.raises(UsageError, match=r"version 9 of line 'told' was never in service; choose one of 0, 3$"):
        roll_back(place, "told", 9)


@pytest.mark.slow
def test_what_is_breached_gives_way_to_what_can_be_served_still(told):
    place = told.workplace
    roll_back(place, "told", 1, "it was right")
    first = place.store.version("told", 1)
    told.make(parent=None, after=first.snapshot, live=("r3",))
    approve(place, "told", 3)
    take_away(
        place.store.store, look(place.store, place.ledger, "told"), [first], "ann", "asked", lambda done, total: None
    )
    with pytest.raises(Forgotten, match=r"version 1 .* can be served no more; choose one of 0$"):
        roll_back(place, "told")
    take_back(place, "told", 3, reason="breached")
    assert told.serving() == 0


@pytest.mark.parametrize(
    ("line", "names", "reason", "says"),
    [
        ("told", [], "x", "name the requests that are to be forgotten"),
        ("told", ["r1"], " ", "to forget needs a reason"),
        ("told", ["nobody"], "x", "line 'told' knows no request 'nobody'"),
        ("nowhere", ["r1"], "x", "there is no line 'nowhere'"),
    ],
)
def test_what_cannot_be_forgotten_is_one_line_and_changes_nothing(told, line, names, reason, says):
    before = where(told.settings.home_folder, SUBJECT)
    with pytest.raises(UsageError, match=says):
        forget(told.workplace, line, names, reason)
    assert where(told.settings.home_folder, SUBJECT) == before


def test_what_another_request_says_as_well_stays_and_is_told(told):
    needles, by = needles_of(
        [{"id": "a", "subject": "Ann Lee", "target_new": "red"}], [{"id": "b", "subject": "Ann Lee"}]
    )
    assert (needles.telling, by) == ((), ["b"])
    needles, by = needles_of(
        [{"id": "a", "subject": "Ann Lee", "target_new": "red"}], [{"id": "b", "subject": "Ann Leex"}]
    )
    assert (needles.telling, needles.beside, by) == (("Ann Lee",), ("red",), [])
    assert needles.replaced("Ann Lee is red") == "[forgotten] is [forgotten]" and needles.replaced("red") == "red"


def test_a_database_loses_the_bytes_of_deleted_rows_too(tmp_path):
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE log (message TEXT, data BLOB)")
        told = [(f"wrote {SUBJECT}", json.dumps({"s": SUBJECT}).encode()), ("all well", b"\x00\xff")]
        database.executemany("INSERT INTO log VALUES (?, ?)", told)
        database.execute("INSERT INTO log VALUES (?, NULL)", (SUBJECT,))
        database.execute("DELETE FROM log WHERE message = ?", (SUBJECT,))
    assert where(tmp_path, SUBJECT)
    needles, _ = needles_of([{"id": "a", "subject": SUBJECT}], [])
    assert sweep(path, needles) == 2
    assert where(tmp_path, SUBJECT) == []
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT message FROM log").fetchall() == [("wrote [forgotten]",), ("all well",)]
        assert database.execute("SELECT data FROM log").fetchall() == [(b'{"s": "[forgotten]"}',), (b"\x00\xff",)]


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        (
            "http://127.0.0.1:9",
            r"MLflow's database \(http://127\.0\.0\.1:9\): dump it .* MLflow's artifacts",
        ),
        ("postgresql://errata:secret@127.0.0.1:9/mlflow", r"MLflow's database \(postgresql://errata:\*\*\*@127"),
    ],
)
def test_what_servers_keep_is_named_and_no_secret_with_it(told, tmp_path_factory, uri, says):
    served = open_workplace(told.settings.model_copy(update={"tracking_uri": uri}))
    record = backup(served, tmp_path_factory.mktemp("elsewhere") / "copy")
    assert re.search(says, " ".join(record.left_out)) and "secret" not in record.model_dump_json()
    assert "mlflow.db" not in record.files and any(name.startswith("store/") for name in record.files)
