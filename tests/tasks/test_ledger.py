"""Laws of the ledger: nothing written is lost or changed, and the state of a request is its latest event."""

import json
import random
import signal
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from editing.errors import UsageError
from tasks.audit.events import audit_events
from tasks.audit.findings import Findings
from tasks.ledger import scanning
from tasks.ledger import table as ledger_module
from tasks.ledger.errors import LedgerError
from tasks.ledger.events import NOTES, TRANSITIONS, Event, State, check_transition, fold
from tasks.ledger.opening import FORMAT_KEY, SCHEMA, s3_options
from tasks.ledger.queries import REPEATED_KEY
from tasks.ledger.scanning import _by_arrow as by_arrow
from tasks.ledger.table import Ledger

LINE = "smollm2"
ROOT = Path(__file__).parents[2]
# A process that appends pairs of events and says so after each append.
WRITER = """
import sys
from tasks.ledger.table import Event, Ledger
ledger = Ledger(sys.argv[1])
for number in range(int(sys.argv[3])):
    name = f"{sys.argv[2]}-{number}"
    event = lambda what: Event(request_id=name, event=what, line="smollm2", actor="writer")
    ledger.append([event("received"), event("queued")])
    print(name, flush=True)
"""


def event(request="r1", what="received", **fields):
    return Event(**({"request_id": request, "event": what, "line": LINE, "actor": "ann"} | fields))


def writer(ledger, name, count):
    command = [sys.executable, "-c", WRITER, ledger.uri, name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(str(tmp_path / "ledger"))


def test_the_state_is_the_latest_event_with_the_whole_request(ledger):
    request = {"subject": "Lyon", "prompt": "{} is in", "target_new": "Peru é ↳", "nested": [1, None]}
    ledger.append([event(payload=request), event(what="queued"), event("r2", payload={})])
    done = {"version": 3, "batch": 1, "snapshot": "s", "flow_run_id": "f", "mlflow_run_id": "m"}
    ledger.append(
        [
            event(what="applied"),
            event(what="validated", metrics={"efficacy": 0.9}, **done),
            event(what="committed", reason="kept", **done),
        ]
    )
    states = ledger.states(LINE)
    assert {name: state.state for name, state in states.items()} == {"r1": "committed", "r2": "received"}
    state = states["r1"]
    assert (state.version, state.batch, state.snapshot, state.reason) == (3, 1, "s", "kept")
    assert (state.flow_run_id, state.mlflow_run_id, state.actor) == ("f", "m", "ann")
    assert state.metrics == {"efficacy": 0.9}
    assert state.payload == request
    assert state.received < state.time
    assert ledger.counts(LINE) == {"committed": 1, "received": 1}


def test_events_come_back_as_they_were(ledger):
    events = [event(metrics={"a": 1.5}, payload={"x": "y"}, version=2**40, batch=7, reason="why"), event(what="queued")]
    ledger.append(events)
    commit = DeltaTable(ledger.uri).version()
    assert ledger.history() == [
        item.model_copy(update={"commit": commit, "sequence": n}) for n, item in enumerate(events)
    ]


def test_a_new_attempt_forgets_the_numbers_of_the_old(ledger):
    ledger.append([event(payload={"subject": "Lyon"}), event(what="queued")])
    ledger.append(
        [
            event(what="applied"),
            event(what="quarantined", metrics={"efficacy": 0.1}, batch=1, version=1),
            event(what="queued"),
        ]
    )
    state = ledger.states(LINE)["r1"]
    assert (state.state, state.metrics, state.version, state.batch) == ("queued", None, None, None)
    assert state.payload == {"subject": "Lyon"}


def test_order_is_that_of_the_commits_whatever_the_clocks_say(ledger):
    now = datetime.now(UTC)
    steps = ["received", "queued", "applied", "quarantined", "received", "queued"]
    for minutes, what in enumerate(steps):
        ledger.append([event(what=what, time=now - timedelta(minutes=minutes))])
    assert [item.event for item in ledger.history("r1")] == steps
    assert ledger.states(LINE)["r1"].state == "queued"
    assert ledger.look()[LINE].standings["r1"].state == "queued"


def test_requests_wait_in_the_order_in_which_they_were_queued(ledger):
    names = [f"r{number}" for number in range(20)]
    random.Random(0).shuffle(names)
    ledger.append([event(name) for name in ["gone", "other", *reversed(names)]] + [event("other", line="other")])
    ledger.append([event(name, "queued") for name in names] + [event("gone", "queued"), event("gone", "rejected")])
    ledger.append([event("other", "queued", line="other")])
    assert [state.request_id for state in ledger.queued(LINE)] == names


def test_history_is_found_by_request_version_and_line_and_limited_to_the_latest(ledger):
    ledger.append(
        [event("a", version=1), event("b", version=1), event("a", "queued"), event("c", line="other", version=2)]
    )
    assert [item.request_id for item in ledger.history()] == ["a", "b", "a", "c"]
    assert [item.event for item in ledger.history(request_id="a")] == ["received", "queued"]
    assert [item.request_id for item in ledger.history(version=1)] == ["a", "b"]
    assert [item.request_id for item in ledger.history(line="other")] == ["c"]
    assert [item.request_id for item in ledger.history(limit=2)] == ["a", "c"]


def test_a_ledger_that_nobody_wrote_is_empty(ledger):
    assert (ledger.states(LINE), ledger.history(), ledger.counts(LINE), ledger.queued(LINE)) == ({}, [], {}, [])
    assert ledger.look() == {}
    ledger.append([])
    assert ledger.compact(0) is False
    assert not Path(ledger.uri).exists()


def test_an_append_is_one_commit_and_the_table_only_grows(ledger):
    ledger.append([event(f"r{number}") for number in range(50)])
    table = DeltaTable(ledger.uri)
    assert table.version() == 2  # 0 made the table, 1 marked it
    ledger.append([event("more")])
    assert DeltaTable(ledger.uri).version() == 3
    with pytest.raises(CommitFailedError, match="append-only"):
        table.delete()


def test_time_is_strictly_monotonic_even_when_the_clock_steps_back(monkeypatch):
    class Clock(datetime):
        steps = iter([datetime(2040, 1, 1, tzinfo=UTC), datetime(2039, 1, 1, tzinfo=UTC)] * 3)

        @classmethod
        def now(cls, tz=None):
            return next(cls.steps)

    monkeypatch.setattr("tasks.ledger.events.datetime", Clock)
    monkeypatch.setattr("tasks.ledger.events._CLOCK._last", datetime(2026, 1, 1, tzinfo=UTC))
    times = [event().time for _ in range(6)]
    assert times == sorted(set(times))


def test_metrics_are_finite_or_null(ledger):
    ledger.append([event(metrics={"nan": float("nan"), "inf": float("inf"), "ok": 0.5, "none": None})])
    assert ledger.history()[0].metrics == {"nan": None, "inf": None, "ok": 0.5, "none": None}
    raw = DeltaTable(ledger.uri).to_pyarrow_dataset().to_table()["metrics"].to_pylist()[0]
    assert "nan" not in json.dumps(json.loads(raw)["nan"])


def test_a_payload_that_is_no_json_is_refused_in_one_line(ledger):
    for payload in ({"x": float("nan")}, {"x": "\ud800"}):
        with pytest.raises(LedgerError, match="cannot be written") as caught:
            ledger.append([event(payload=payload)])
        assert "\n" not in str(caught.value)
    assert ledger.history() == []


@pytest.mark.parametrize("text", ["'; DROP TABLE ledger; --", "$line", "r1' OR '1'='1", "\0", "é↳🙂"])
def test_what_users_write_is_never_part_of_a_query(ledger, text):
    ledger.append([event("r1"), event(text, reason=text, actor=text)])
    assert [item.reason for item in ledger.history(request_id=text)] == [text]
    assert len(ledger.states(LINE)) == 2
    with pytest.raises(UsageError):
        ledger.states("a' OR 'a'='a")


def test_lines_and_events_are_checked():
    with pytest.raises(UsageError, match="a name has"):
        event(line="Not A Line")
    with pytest.raises(ValidationError):
        event(what="vanished")


def test_writing_again_after_a_crash_changes_nothing(ledger):
    events = [event(), event(what="queued")]
    ledger.append(events[:1])
    assert ledger.append(events) == events[1:]
    at = DeltaTable(ledger.uri).version()
    assert ledger.append(events) == []
    assert DeltaTable(ledger.uri).version() == at
    assert [item.event for item in ledger.history()] == ["received", "queued"]


def test_an_event_that_was_written_twice_counts_once(ledger):
    twice = event(what="queued")
    ledger.append([event(), twice, twice])
    ledger.append([twice])
    assert len(ledger.history()) == 2
    assert ledger.counts(LINE) == {"queued": 1}


def test_a_commit_that_lost_is_tried_again_and_not_written_twice(ledger, monkeypatch):
    failures = iter(["before", "after"])

    def flaky(table, data, *, mode, commit_properties):
        failure = next(failures, None)
        if failure != "before":
            write_deltalake(table, data, mode=mode, commit_properties=commit_properties)
        if failure:
            raise CommitFailedError(failure)

    monkeypatch.setattr(ledger_module, "write_deltalake", flaky)
    ledger.append([event()])
    assert DeltaTable(ledger.uri).to_pyarrow_dataset().count_rows() == 1


@pytest.mark.slow
def test_four_writers_at_once_lose_nothing_not_even_while_the_table_is_made(ledger):
    writers = [writer(ledger, f"w{number}", 6) for number in range(4)]
    said = [name for process in writers for name in process.communicate()[0].split()]
    assert [process.returncode for process in writers] == [0] * 4
    assert set(said) == set(ledger.states(LINE)) == {f"w{n}-{m}" for n in range(4) for m in range(6)}
    assert ledger.counts(LINE) == {"queued": 24}


@pytest.mark.slow
def test_killed_writers_lose_nothing_that_was_acknowledged_and_leave_no_half_append(ledger):
    said = set()
    for number in range(3):
        process = writer(ledger, f"k{number}", 10_000)
        said.add(process.stdout.readline().strip())
        time.sleep(random.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        said |= set(process.communicate()[0].split("\n")[:-1])  # the last may be half a line
        states = ledger.states(LINE)
        assert said <= set(states)
        assert {state.state for state in states.values()} == {"queued"}  # never 'received' without its 'queued'
    ledger.append([event("after")])
    assert ledger.states(LINE)["after"].state == "received"


def test_compaction_joins_files_and_changes_no_answer(ledger):
    for number in range(6):
        ledger.append([event(f"r{number}"), event(f"r{number}", "queued")])
    before = ledger.history(), ledger.states(LINE)
    assert ledger.compact() is False
    assert ledger.compact(5) is True
    assert len(DeltaTable(ledger.uri).file_uris()) == 1
    assert (ledger.history(), ledger.states(LINE)) == before
    ledger.append([event("later")])
    assert ledger.states(LINE)["later"].state == "received"


def test_paths_that_are_no_ledger_are_refused_in_one_line_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("x")
    (tmp_path / "broken" / "_delta_log").mkdir(parents=True)
    (tmp_path / "broken" / "_delta_log" / f"{0:020d}.json").write_text("{garbage")
    write_deltalake(str(tmp_path / "other"), pa.table({"a": [1]}))
    for name in ("file", "full", "broken", "other"):
        for call in (lambda at: at.states(LINE), lambda at: at.append([event()])):
            with pytest.raises(LedgerError, match=rf"{tmp_path}/{name}'.*(choose|another ledger)") as caught:
                call(Ledger(str(tmp_path / name)))
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 600
    assert (tmp_path / "full" / "notes.txt").read_text() == "x"


def test_every_state_has_its_steps_and_no_other_step_is_taken():
    states = set(get_args(State))
    assert set(TRANSITIONS) == states
    assert {step for steps in TRANSITIONS.values() for step in steps} == states
    for old in states:
        for new in states:
            if new in TRANSITIONS[old]:
                check_transition(old, new)
            else:
                with pytest.raises(LedgerError, match=f"request 'r1' is {old} and cannot become {new}; only"):
                    check_transition(old, new, "r1")
    check_transition(None, "received")
    with pytest.raises(LedgerError, match="unknown"):
        check_transition(None, "applied")


@pytest.mark.parametrize("note", NOTES)
def test_what_is_told_of_a_request_leaves_it_where_it_stands(ledger, note):
    with pytest.raises(LedgerError, match=f"is unknown and cannot become {note}"):
        ledger.append([event("r1", note)])
    ledger.append([event("r1", "received"), event("r1", "queued").model_copy(update={"reason": "theirs"})])
    before = ledger.states(LINE)
    assert len(ledger.append([event("r1", note)])) == 1
    assert ledger.states(LINE) == before and ledger.counts(LINE) == {"queued": 1}
    assert ledger.look(LINE)[LINE].standings["r1"].events == 3
    assert [one.event for one in ledger.history("r1", line=LINE)] == ["received", "queued", note]
    ledger.append([event("r1", "withdrawn")])
    found = Findings("ledger")
    assert audit_events(ledger, found) is not None and not found.found


def test_a_ledger_on_s3_is_written_by_many_and_obeys_its_own_endpoint(credentials, seaweedfs_url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")  # would win over AWS_ENDPOINT_URL
    ledger = Ledger(f"s3://errata-tests/{uuid.uuid4().hex}", s3_options(seaweedfs_url))
    assert ledger.states(LINE) == {}
    code = WRITER.replace("Ledger(sys.argv[1])", f"Ledger(sys.argv[1], {s3_options(seaweedfs_url)})")
    command = [sys.executable, "-c", code, ledger.uri]
    writers = [subprocess.Popen([*command, f"w{n}", "5"], stdout=subprocess.PIPE, cwd=ROOT) for n in range(2)]
    for process in writers:
        process.communicate()
    assert ledger.counts(LINE) == {"queued": 10}
    assert ledger.compact(1) is True
    assert len(ledger.history(limit=4)) == 4


def test_a_server_that_is_not_there_is_said_in_one_line_without_a_secret(credentials):
    ledger = Ledger("s3://errata-tests/x", s3_options("http://127.0.0.1:1"))
    ledger._options |= {"max_retries": "0"}
    with pytest.raises(LedgerError, match=r"s3://errata-tests/x.*look at the endpoint") as caught:
        ledger.states(LINE)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


# A process on a machine whose clock is five minutes behind.
BEHIND = """
import sys
from datetime import UTC, datetime, timedelta
from tasks.ledger.table import Ledger
from tasks.ledger.events import Event
then = datetime.now(UTC) - timedelta(minutes=5)
Ledger(sys.argv[1]).append(
    [Event(request_id="r1", event=what, line="smollm2", actor="late", time=then, version=1)
     for what in ("applied", "validated", "committed")]
)
"""


def test_a_job_on_a_machine_whose_clock_is_behind_does_not_leave_its_requests_queued(ledger):
    ledger.append([event(), event(what="queued")])
    subprocess.run([sys.executable, "-c", BEHIND, ledger.uri], cwd=ROOT, check=True)
    assert ledger.states(LINE)["r1"].state == "committed"
    assert ledger.queued(LINE) == []


def test_a_step_that_a_request_cannot_take_is_refused_and_nothing_is_written(ledger):
    ledger.append([event(), event(what="queued")])
    with pytest.raises(LedgerError, match="request 'r1' is queued and cannot become approved"):
        ledger.append([event("r2"), event(what="approved")])
    assert len(ledger.history()) == 2


def test_what_follows_from_a_state_is_not_written_when_that_state_has_changed(ledger):
    ledger.append([event(), event("r2")])
    seen = ledger.look()[LINE].standings
    ledger.append([event(what="queued"), event(what="rejected")])
    written = ledger.append_unchanged([event(what="queued"), event("r2", "queued")], seen)
    assert [item.request_id for item in written] == ["r2"]
    assert ledger.counts(LINE) == {"queued": 1, "rejected": 1}


def test_a_request_is_named_by_line_and_id(ledger):
    ledger.append([event(), event(what="queued"), event(line="other"), event(line="other", what="rejected")])
    assert {line: dict(found.standings)["r1"].state for line, found in ledger.look().items()} == {
        LINE: "queued",
        "other": "rejected",
    }
    assert ledger.counts(LINE) == {"queued": 1} and ledger.counts("other") == {"rejected": 1}


def test_a_table_of_release_0_1_is_read_and_written_and_its_rows_come_first(tmp_path):
    old = pa.schema([column for column in pa.schema(SCHEMA.to_arrow()) if column.name != "commit"])
    later = datetime.now(UTC) + timedelta(days=1)
    rows = [
        {"event_id": "a", "time": later, "sequence": 0, "request_id": "r1", "event": "received", "line": LINE},
        {"event_id": "b", "time": later, "sequence": 1, "request_id": "r1", "event": "queued", "line": LINE},
        {"event_id": "b", "time": later, "sequence": 1, "request_id": "r1", "event": "queued", "line": LINE},
    ]
    write_deltalake(str(tmp_path / "old"), pa.Table.from_pylist([row | {"actor": "ann"} for row in rows], schema=old))
    ledger = Ledger(str(tmp_path / "old"))
    assert ledger.counts(LINE) == {"queued": 1} and len(ledger.history()) == 2
    ledger.append([event(what="applied"), event(what="quarantined")])
    assert [item.event for item in ledger.history("r1")] == ["received", "queued", "applied", "quarantined"]
    assert [item.commit is None for item in ledger.history("r1")] == [True, True, False, False]
    assert DeltaTable(ledger.uri).metadata().configuration[REPEATED_KEY] == "1"  # and it still counts once


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["plain", "a=b c é/x=1/ledger"])
def test_a_ledger_reads_the_same_by_duckdb_alone_and_by_way_of_arrow(tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir(parents=True)
    ledger = Ledger(str(tmp_path / folder))
    ledger.append([event(payload={"subject": "Ada"}), event("r'2"), event(what="queued", metrics={"a": 0.5})])
    ledger.append([event("r3", line="other"), event("r'2", what="rejected", reason="no")])

    def answers() -> list[object]:
        ledger = Ledger(str(tmp_path / folder))  # one that has not looked yet
        looks = [ledger.look(), ledger.look(LINE), ledger.states(LINE), ledger.counts("other"), ledger.queued(LINE)]
        return [*looks, ledger.payloads(LINE, ["r1"]), ledger.history(), ledger.history("r'2"), ledger.history(limit=2)]

    alone = answers()
    assert [found.request_id for found in alone[-2]] == ["r'2", "r'2"]
    ways = []
    monkeypatch.setattr(scanning, "_PLAIN_READER", None)
    monkeypatch.setattr(scanning, "_by_arrow", lambda *given: ways.append(given) or by_arrow(*given))
    assert answers() == alone and len(ways) > len(alone)


def test_a_ledger_of_a_newer_program_is_refused_by_name(ledger):
    ledger.append([event()])
    DeltaTable(ledger.uri).alter.set_table_properties({FORMAT_KEY: "3"}, raise_if_not_exists=False)
    for call in (lambda: ledger.look(), lambda: ledger.append([event("r2")])):
        with pytest.raises(
            LedgerError, match=r"written by a newer Errata \(format 3, this one knows 2\): update Errata"
        ):
            call()


ANY_STEPS = st.lists(st.tuples(st.sampled_from(["r1", "r2"]), st.sampled_from((*get_args(State), *NOTES))), max_size=12)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(ANY_STEPS)
def test_the_state_in_the_table_is_the_fold_of_its_legal_events(steps):
    """Also where a table holds what no request can do, as release 0.1 could write it."""
    with TemporaryDirectory() as folder:
        events = [event(name, what) for name, what in steps] or [event()]
        old = pa.schema([column for column in pa.schema(SCHEMA.to_arrow()) if column.name != "commit"])
        rows = [item.model_dump(exclude={"commit", "metrics", "payload"}) for item in events]
        write_deltalake(folder, pa.Table.from_pylist(rows, schema=old))
        expected = {
            name: state
            for name in ("r1", "r2")
            if (state := fold(item.event for item in events if item.request_id == name))
        }
        found = Ledger(folder).look().get(LINE)
        assert {name: one.state for name, one in (found.standings if found else {}).items()} == expected
        assert {name: one.state for name, one in Ledger(folder).states(LINE).items()} == expected


def test_who_never_gets_a_turn_hears_of_the_others_and_not_of_the_folder(ledger, monkeypatch):
    def conflicts(*_, **__):
        raise CommitFailedError("a version 7 exists")

    monkeypatch.setattr(ledger_module, "write_deltalake", conflicts)
    monkeypatch.setattr(ledger_module, "_TRY_SECONDS", 0.0)
    with pytest.raises(LedgerError, match="other processes wrote first for 0 s; nothing was written, repeat") as caught:
        ledger.append([Event(request_id="a", event="received", line="main", actor="ann")])
    assert isinstance(caught.value.__cause__, CommitFailedError) and "look at" not in str(caught.value)


def test_a_second_look_reads_no_row_again_unless_somebody_wrote_one(ledger):
    ledger.append([event("a", "received")])
    assert ledger.look() is ledger.look()
    Ledger(ledger.uri, ledger._options).append([event("a", "queued")])
    assert ledger.look()["smollm2"].standings["a"].state == "queued"


def test_what_it_wrote_itself_is_seen_at_the_next_look_without_reading_a_row(ledger, monkeypatch):
    """The same as whoever reads all rows sees, in one step and in several."""
    ledger.append([event("a"), event("b"), event("c", line="other")])
    ledger.look(), ledger.look(LINE)
    done = {"version": 2, "batch": 1}
    steps = [
        [event("a", "queued"), event("b", "queued"), event("d")],
        [event("a", what, **done) for what in ("applied", "validated", "committed")],
        [event("a", "exported"), event("c", "queued", line="other"), event("b", "applied", version=3)],
        [event("b", "quarantined"), event("b", "queued"), event("a", "approved"), event("a", "promoted", version=2)],
    ]
    for events in steps:
        ledger.append(events)
        fresh = Ledger(ledger.uri)
        wanted = [fresh.look(), fresh.look(LINE)]
        with monkeypatch.context() as patched:
            patched.setattr(ledger_module.queries, "run", lambda *_, **__: pytest.fail("rows were read"))
            assert [ledger.look(), ledger.look(LINE)] == wanted
    assert wanted[1][LINE].committed == {2} and wanted[1][LINE].standings["b"] == ("queued", None, 5)
