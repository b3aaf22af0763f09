"""Laws of what a writer knows: who loses a race reads what the others wrote, and nothing that it has read already."""

import pytest
from deltalake import DeltaTable

from tasks.ledger import queries, scanning
from tasks.ledger.events import Event
from tasks.ledger.following import Following
from tasks.ledger.rewriting import rewrite
from tasks.ledger.table import Ledger

LINE = "main"
ASKED = [(LINE, "a"), (LINE, "b"), ("other", "a"), (LINE, "new")]


def event(request, what="received", **fields):
    return Event(**({"request_id": request, "event": what, "line": LINE, "actor": "ann"} | fields))


@pytest.fixture(params=["by DuckDB", "by way of Arrow"])
def ledger(request, tmp_path, monkeypatch):
    if request.param == "by way of Arrow":
        monkeypatch.setattr(scanning, "_PLAIN_READER", None)
    ledger = Ledger(str(tmp_path / "ledger"))
    ledger.append([event("a", payload={"subject": "Ada"}), event("b"), event("a", line="other"), event("c")])
    return ledger


@pytest.fixture
def read(monkeypatch):
    """The rows that were read, look by look."""
    found: list[int] = []
    run_named = queries.run_named

    def counted(*given, **named):
        rows = run_named(*given, **named)
        found.append(len(rows))
        return rows

    monkeypatch.setattr(queries, "run_named", counted)
    return found


def known(following, ledger):
    return following.known(DeltaTable(ledger.uri))


def anew(ledger):
    return known(Following(ASKED), ledger)


def test_what_others_wrote_since_is_read_and_nothing_else(ledger, read):
    following = Following(ASKED)
    assert known(following, ledger) == anew(ledger)
    other = Ledger(ledger.uri)
    other.append([event("a", "queued"), event("c", "queued"), event("new", payload={"subject": "Lyon"})])
    other.append([event("a", "rejected"), event("a", payload={"subject": "Ada Lovelace"}), event("b", "queued")])
    read.clear()
    now = known(following, ledger)
    assert read == [5]  # of requests that were asked about
    assert now == anew(ledger) and now[LINE, "a"].payload == {"subject": "Ada Lovelace"}
    read.clear()
    assert known(following, ledger) == now and read == []


def test_joined_and_rewritten_rows_are_read_anew(ledger):
    following = Following(ASKED)
    known(following, ledger)
    other = Ledger(ledger.uri)
    other.append([event("a", "queued")])
    assert other.compact(1)
    other.append([event("b", "queued")])
    assert known(following, ledger) == anew(ledger)
    forgotten = '{"forgotten": true}'
    rewrite(other, lambda row: {**row, "payload": forgotten} if row["payload"] not in (None, forgotten) else None)
    now = known(following, ledger)
    assert now == anew(ledger) and now[LINE, "a"].payload == {"forgotten": True}
