"""An audit finds whatever is damaged, gone, or contradicts another, names it, and changes nothing."""

from pathlib import Path

import pytest

from tasks.audit.auditing import audit
from tasks.ledger.errors import LedgerError
from tasks.ledger.events import Event
from tasks.ledger.table import Ledger
from tasks.lines.specs import resolve_line, save_line
from tasks.review.aliases import sync_aliases
from tasks.review.decisions import approve, roll_back
from tasks.workplace import open_workplace


def faults(line) -> list[str]:
    """Of the line's installation, opened anew: nothing is remembered."""
    return [f"{one.place}: {one.text}" for one in audit(open_workplace(line.settings), line.name).faults]


@pytest.fixture
def served(line):
    """Version 1 in service, 2 taken back, 3 waiting."""
    approve(line.workplace, line.name, None, "good")
    roll_back(line.workplace, line.name, 1, "enough")
    line.make()
    spec = resolve_line(line.workplace.store.store, line.settings, line.name, model="embedded")
    save_line(line.workplace.store.store, spec)
    sync_aliases(line.workplace.tracker(), line.workplace, line.name)
    return line


@pytest.mark.slow
def test_of_a_sound_line_nothing_is_said(served):
    found = audit(served.workplace)
    assert (found.faults, found.findings) == ([], ())
    assert found.looked_at["versions"] == 3
    assert found.looked_at["versions in MLflow"] == 3
    assert found.looked_at["events"] > 10


def stored_files(line) -> list[Path]:
    """Everything of the store and the ledger that a decision or a job rests on.

    Not the record of the present HEAD in its history, which HEAD itself holds and the next move writes again; and not
    the last commit of the ledger: a ledger without it is one of a moment before.
    """
    home = line.settings.home_folder
    found = [path for place in ("snapshots", "ledger") for path in sorted((home / place).rglob("*")) if path.is_file()]
    last = {max((home / "ledger" / "_delta_log").glob("*.json")), max(home.glob("snapshots/lines/*/heads/*"))}
    return [path for path in found if path.stat().st_size and path not in last]


def harmed(data: bytes) -> list[bytes | None]:
    """Gone, emptied, cut, and one byte changed."""
    middle = len(data) // 2
    return [None, b"", data[: len(data) * 2 // 3], data[:middle] + bytes([data[middle] ^ 0x11]) + data[middle + 1 :]]


def names_of(path: Path) -> list[str]:
    """What tells a person which file it is; of the ledger's, which belong together and come from one copy, the ledger.

    What is gone is named by its number: of the versions, or of the moves of HEAD.
    """
    if "ledger" in path.parts:
        return ["ledger '"]
    number = path.stem.partition("-")[0]
    kind = {"versions": "version", "heads": "HEAD number"}.get(path.parent.name)
    return [path.stem, *([f"{kind} {int(number)}"] if kind else [])]


def said(line) -> list[dict]:
    """All that the ledger says, or nothing where it cannot be read."""
    try:
        return list(Ledger(line.workplace.ledger.uri).rows())
    except LedgerError:
        return []


@pytest.mark.slow
def test_every_file_that_is_damaged_or_gone_is_found_and_named_or_changes_nothing(served):
    """Of Delta's log and of Parquet not every byte means something to a reader."""
    assert faults(served) == []
    before, missed = said(served), []
    for path in stored_files(served):
        data = path.read_bytes()
        for number, other in enumerate(harmed(data)):
            path.unlink() if other is None else path.write_bytes(other)
            found = faults(served)
            if found and not any(name in one for name in names_of(path) for one in found):
                missed.append((number, f"{path.name} is named by none of {found}"))
            if not found and ("ledger" not in path.parts or said(served) != before or number == 0):
                missed.append((number, str(path.relative_to(served.settings.home_folder))))
            path.write_bytes(data)
    assert missed == [], "\n".join(map(str, missed))
    assert faults(served) == []


def test_a_row_of_the_ledger_that_somebody_rewrote_is_found(served):
    """By whoever can write Parquet: nothing of the file itself is damaged."""
    import pyarrow.parquet as pq

    path = max((served.settings.home_folder / "ledger").glob("*.parquet"), key=lambda path: path.stat().st_size)
    rows = pq.read_table(path)
    changed = rows.set_column(rows.schema.get_field_index("actor"), "actor", [["somebody"] * len(rows)])
    pq.write_table(changed, path)
    assert any("is not as it was written" in one for one in faults(served))


def test_a_row_that_is_missing_is_found(served):
    import pyarrow.parquet as pq

    path = max((served.settings.home_folder / "ledger").glob("*.parquet"), key=lambda path: path.stat().st_size)
    rows = pq.read_table(path)
    pq.write_table(rows.slice(1), path)
    assert any("events are missing" in one for one in faults(served))


def test_a_step_that_no_request_can_take_is_found(served, monkeypatch):
    monkeypatch.setattr("tasks.ledger.appending.check_transition", lambda *_: None)
    bad = Event(request_id="r3", event="promoted", line=served.name, actor="nobody")
    served.workplace.ledger.append([bad])
    found = faults(served)
    assert any("r3" in one and "cannot become promoted" in one for one in found)


@pytest.mark.slow
def test_head_of_an_older_copy_is_found(served):
    """As after a restore of HEAD alone, and of HEAD with its history."""
    store = served.settings.home_folder / "snapshots" / "lines" / served.name
    before = {path: path.read_bytes() for path in [store / "HEAD", *(store / "heads").iterdir()]}
    approve(served.workplace, served.name, 3, "good")
    assert faults(served) == []
    (store / "HEAD").write_bytes(before[store / "HEAD"])
    assert any("HEAD" in one and "older" in one for one in faults(served))
    for path in {*(store / "heads").iterdir()} - {*before}:
        path.unlink()
    assert any("HEAD" in one and "older" in one for one in faults(served))


def test_aliases_that_somebody_moved_are_found(served):
    tracker = served.workplace.tracker()
    number = tracker.line_versions(served.name)[3].mlflow_number
    tracker._client.set_registered_model_alias(served.name, "champion", str(number))
    assert any("alias champion" in one and "version 3" in one for one in faults(served))
    assert not audit(served.workplace, served.name, mlflow=False).faults


def test_what_a_killed_job_left_out_is_a_note(served, monkeypatch):
    monkeypatch.setattr(Ledger, "append_possible", lambda *_: [])  # killed before it
    served.make()
    monkeypatch.undo()
    found = audit(open_workplace(served.settings), served.name, mlflow=False)
    assert not found.faults
    assert [(one.weight, one.place) for one in found.findings] == [("note", "agreement")]
    assert served.workplace.ledger.counts(served.name)["queued"] == 1, "an audit writes nothing"
