"""What watches remember, whom they tell how often, and the pages: no server, no model."""

import html
import threading
from datetime import UTC, datetime, timedelta

import pytest

from editing.errors import PolicyError
from tasks.settings import Settings
from tasks.stores.errors import NewerFormat
from tasks.stores.manifest import Head
from tasks.watch import alerts
from tasks.watch.alerts import MOST_TRIES, Alarm
from tasks.watch.findings import Finding, WatchReport
from tasks.watch.memory import Memory, WatchRecord
from tasks.watch.policy import WatchPolicy, make_watch_policy

LATE = Finding(kind="queue", weight="late", text="2 requests wait")
BREACH = Finding(kind="efficacy", weight="breach", text="half is lost")
KEY = "lines/north/watch.json"


def head(sequence: int) -> Head:
    return Head(
        line="north",
        sequence=sequence,
        version=sequence,
        snapshot="a" * 64,
        previous=None,
        action="promote",
        actor="tester",
        reason="",
        moved=datetime.now(UTC),
        token=str(sequence),
    )


def counted(record: WatchRecord) -> WatchRecord:
    return record.model_copy(update={"watches": record.watches + 1})


def test_of_watches_at_once_none_forgets_what_another_noted(store):
    gate = threading.Barrier(4)

    def work() -> None:
        gate.wait()
        for _ in range(3):
            Memory(store, "north").change(counted)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Memory(store, "north").read().watches == 12


def test_a_record_that_is_damaged_is_begun_anew_and_a_newer_one_is_left_alone(folder):
    folder.put(KEY, b"{")
    assert Memory(folder, "north").change(counted).watches == 1
    newer = b'{"format": 2, "line": "north"}'
    folder.put(KEY, newer)
    with pytest.raises(NewerFormat):
        Memory(folder, "north").change(counted)
    assert folder.get(KEY)[0] == newer


@pytest.fixture
def said(monkeypatch):
    """What was told and sent; `reached` says whether people, and the server, could be."""
    found, reached = [], [True]

    def tell(settings, kind, line, text, link):
        found.append((kind, text))
        return reached[0]

    def send_event(what, line, payload, name):
        found.append((f"event {what}", payload))
        return reached[0]

    monkeypatch.setattr(alerts, "tell", tell)
    monkeypatch.setattr(alerts, "send_event", send_event)
    return found, reached


def alarm(folder, events: bool = False) -> Alarm:
    return Alarm(Settings(notify="json://127.0.0.1:9"), Memory(folder, "north"), events)


def test_people_are_told_once_a_day_of_a_finding_and_anew_of_another_head(folder, said):
    for _ in range(3):
        alarm(folder).raise_for([LATE, BREACH], head(1))
    assert said[0] == [("breached", "version 1: half is lost"), ("late", "2 requests wait")]
    alarm(folder).raise_for([BREACH], head(2))
    assert said[0][2:] == [("breached", "version 2: half is lost")]
    Memory(folder, "north").change(
        lambda then: then.model_copy(
            update={
                "told": {
                    name: one.model_copy(update={"day": one.day - timedelta(days=1)}) for name, one in then.told.items()
                }
            }
        )
    )
    alarm(folder).raise_for([LATE], head(2))
    assert said[0][3:] == [("late", "2 requests wait")]


def test_what_did_not_reach_everybody_is_tried_again_and_not_for_ever(folder, said):
    found, reached = said
    reached[0] = False
    for _ in range(MOST_TRIES + 2):
        alarm(folder).raise_for([LATE], None)
    assert len(found) == MOST_TRIES


def test_a_breach_is_sent_once_an_hour_for_one_head_and_at_once_for_the_next(folder, said):
    def sent() -> list[int]:
        return [payload["sequence"] for kind, payload in said[0] if kind == "event breached"]

    for sequence in (1, 1, 2, 2):
        alarm(folder, events=True).raise_for([BREACH], head(sequence))
    assert sent() == [1, 2]
    Memory(folder, "north").change(
        lambda then: then.model_copy(
            update={"emitted": {name: time - timedelta(minutes=61) for name, time in then.emitted.items()}}
        )
    )
    alarm(folder, events=True).raise_for([BREACH], head(2))
    assert sent() == [1, 2, 2]


def test_an_event_that_no_server_took_is_sent_by_the_next_watch(folder, said):
    found, reached = said
    reached[0] = False
    alarm(folder, events=True).raise_for([BREACH, LATE], head(1))
    assert Memory(folder, "north").read().emitted == {}
    reached[0], found[:] = True, []
    for _ in range(2):
        alarm(folder, events=True).raise_for([BREACH, LATE], head(1))
    assert [kind for kind, _ in found if kind.startswith("event ")] == ["event breached", "event late"]


def test_what_was_repaired_is_told_to_nobody(folder, said):
    alarm(folder, events=True).raise_for([Finding(kind="aliases", weight="repaired", text="again")], head(1))
    assert said[0] == [] and not folder.exists(KEY)


def test_the_page_shows_what_others_wrote_as_text():
    found = Finding(kind="queue", weight="late", text="<b>|*x*\n[a](http://b)")
    page = WatchReport(line="north", version=1, numbers={"queued": 2.0}, findings=(found,)).markdown()
    [row] = [line for line in page.splitlines() if line.startswith("| late")]
    assert html.unescape(row) == "| late | queue | <b>|*x* [a](http://b) |" and row.count("|") == 4
    assert not set("<>*[]") & set(row) and "| queued | 2 |" in page
    assert "1 late" in page and "all is well" in WatchReport(line="north", version=0).markdown()


def test_a_limit_that_is_none_is_refused_by_name():
    assert make_watch_policy(queue_hours=3).queue_hours == 3
    for fields, says in (({"min_live_efficacy": 2}, "min_live_efficacy = 2: "), ({"colour": 1}, "fields are min_live")):
        with pytest.raises(PolicyError, match=says):
            make_watch_policy(**fields)
    assert all(field.description for field in WatchPolicy.model_fields.values())
