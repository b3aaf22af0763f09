"""A ledger lies where its path says, whatever the path holds: everything that is done to the table is done there."""

import gc
import string
import tempfile
from pathlib import Path

import pytest

from tasks.ledger import aliases
from tasks.ledger.errors import LedgerError
from tasks.ledger.events import Event
from tasks.ledger.rewriting import drop_history, rewrite
from tasks.ledger.table import Ledger
from tasks.stores.folder import FolderStore
from tests.costs import some

ALL = string.punctuation.replace("/", "")
NAMES = ["a%20b", "%2F", "%2520", "[a]", "a\\b", "a|b", "a^b", "a\tb", "%5b 法国 é 🙂", ALL]


def event(name: str, what: str = "received") -> Event:
    return Event(request_id=name, event=what, line="main", actor="ann", payload={"subject": "Ada"})


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", some(NAMES, NAMES[-2:]))  # these hold what the others hold
def test_a_ledger_at_any_path_is_written_read_joined_and_rewritten_there_alone(tmp_path, monkeypatch, temporary, name):
    monkeypatch.setattr(aliases, "_CHECKPOINT_EVERY", 4)
    above = tmp_path / "above"
    ledger = Ledger(str(above / name / "ledger"))
    assert ledger.look() == {} and not above.exists()
    for number in range(5):
        ledger.append([event(f"r{number}")])
    log = Path(ledger.uri, "_delta_log")
    assert list(log.glob("*.checkpoint.parquet")) and ledger.log_faults() == []
    assert ledger.compact(more_than=2) and [one.request_id for one in ledger.history()] == [f"r{n}" for n in range(5)]
    assert rewrite(ledger, lambda row: {**row, "reason": "x"} if row["reason"] is None else None) == 5
    drop_history(ledger, FolderStore(Path(ledger.uri)))
    assert len(list(log.glob("*.json"))) <= 4 and len(list(Path(ledger.uri).glob("*.parquet"))) == 1
    Ledger(ledger.uri).append([event("r0", "queued")])
    assert {one.reason for one in ledger.history()} == {"x", None} and ledger.counts("main")["queued"] == 1
    assert [path.name for path in above.iterdir()] == [name] and [*(above / name).iterdir()] == [Path(ledger.uri)]
    gc.collect()
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_what_is_reached_by_a_link_is_never_removed_with_it(tmp_path, temporary):
    ledger = Ledger(str(tmp_path / "a%20b"))
    ledger.append([event("a")])
    table = aliases.opened(ledger.uri, aliases.DeltaTable)
    [above] = temporary.iterdir()
    assert (above / "table").is_symlink() and (above / "table" / "_delta_log").is_dir()
    del table
    gc.collect()
    assert list(temporary.iterdir()) == [] and len(ledger.history()) == 1


def test_where_no_plain_path_leads_to_it_both_are_named(tmp_path, monkeypatch, temporary):
    (tmp_path / "t%20t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t%20t"))
    with pytest.raises(LedgerError, match=r"ledger '.*a%20b' .*files '.*t%20t'.* set TMPDIR to a plain path"):
        Ledger(str(tmp_path / "a%20b")).append([event("a")])
    assert list((tmp_path / "t%20t").iterdir()) == []
