"""Laws of taking facts out: at once where no version holds them, by a removal else; bad input changes nothing."""

from datetime import UTC, datetime

import pytest
import torch

from editing.edit import Edit
from editing.request import Request
from tasks.ledger import intake
from tasks.ledger.catching_up import catch_up
from tasks.ledger.events import Event
from tasks.ledger.removals import CannotTakeOut, removed_by, take_out, take_out_expired, take_out_withdrawn
from tasks.ledger.reserved import REFUSE
from tasks.ledger.table import Ledger
from tasks.ledger.view import look
from tasks.stores.lease import acquire
from tasks.stores.snapshots import SnapshotStore
from tests.tasks.test_view import LINE, promoted, states, written

pytestmark = pytest.mark.slow


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path / "ledger"))


@pytest.fixture
def store(folder) -> SnapshotStore:
    return SnapshotStore(folder)


def out(store: SnapshotStore, ledger: Ledger, *names: str, **options: str) -> tuple[list[str], dict[str, str]]:
    done = take_out(store, ledger, LINE, names, "ann", "wrong", **options)
    return done.withdrawn, done.queued


def submit(ledger: Ledger, name: str, **more: object) -> None:
    intake.submit(ledger, LINE, [Request(id=name, subject=name, prompt="{} is", target_new="x", **more)], "ann")


def test_what_is_in_no_version_is_called_back_at_once(store, ledger):
    for name in "qrz":
        submit(ledger, name)
    ledger.append([Event(request_id="r", event="rejected", line=LINE, actor="ann")])
    ledger.append([Event(request_id="z", event=what, line=LINE, actor="ann") for what in ("applied", "quarantined")])
    assert out(store, ledger, "q", "r", "z", "q") == (["q", "r", "z"], {})
    assert set(states(ledger).values()) == {"withdrawn"} and ledger.states(LINE)["q"].reason == "wrong"


def test_what_a_version_holds_is_queued_as_a_removal_with_a_history_of_its_own(store, ledger):
    version, head = promoted(store, ledger)
    written(store, ledger, 2, version, "b", based_on=head.sequence)
    events = {name: len(ledger.history(name)) for name in "ab"}
    assert out(store, ledger, "a", "b") == ([], {name: f"retract:{name}@{count}" for name, count in events.items()})
    removal = ledger.states(LINE)[f"retract:a@{events['a']}"]
    assert (removal.state, removal.actor, removal.reason) == ("queued", "ann", "wrong")
    assert removed_by(removal.payload) == "a" and states(ledger)["a"] == "promoted"
    assert [one.request_id for one in ledger.queued(LINE)] == [f"retract:{n}@{events[n]}" for n in "ab"]


def test_a_removal_can_be_called_back_and_asked_for_again(store, ledger):
    promoted(store, ledger)
    _, queued = out(store, ledger, "a")
    assert out(store, ledger, queued["a"]) == ([queued["a"]], {}) and states(ledger)["a"] == "promoted"
    assert out(store, ledger, "a") == ([], queued) and len(ledger.queued(LINE)) == 1


@pytest.mark.parametrize(
    ("name", "prefix", "message"),
    [
        ("none", "retract:", "line 'main' knows no request 'none'"),
        ("a", "retract:", "request 'a' is to be taken out already, by request 'retract:a@7'"),
        ("gone", "retract:", "request 'gone' is rolled_back: it is neither in service nor on its way"),
        ("q", REFUSE, "request 'q' is in no version that waits for review on line 'main': it is queued"),
        ("live", REFUSE, "request 'live' is in no version that waits for review on line 'main': it is promoted"),
    ],
)
def test_what_cannot_be_taken_out_is_one_line_and_changes_nothing(store, ledger, name, prefix, message):
    version = written(store, ledger, 1, None, ["a", "live"], based_on=0)
    head = store.move_head(LINE, version, None, "promote", "eve", "")
    other = written(store, ledger, 2, version, ["gone"], based_on=1)
    head = store.move_head(LINE, other, head, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    store.move_head(LINE, version, head, "rollback", "eve", "")
    submit(ledger, "q")
    out(store, ledger, "a")
    before = len(ledger.history())
    for names in ([name], ["q", name]):
        with pytest.raises(CannotTakeOut) as caught:
            out(store, ledger, *names, prefix=prefix)
        assert message in caught.value.faults[-1] and "\n" not in str(caught.value)
    catch_up(store, ledger, LINE, "ann")
    assert len(ledger.history()) == before


def test_what_a_job_may_have_taken_up_is_called_back_and_to_be_removed_too(store, ledger, folder):
    submit(ledger, "q")
    with acquire(folder, LINE):
        withdrawn, queued = out(store, ledger, "q")
    assert withdrawn == [] and states(ledger) == {"q": "withdrawn", queued["q"]: "queued"}


def test_what_a_job_wrote_though_it_was_called_back_is_to_be_removed(store, ledger):
    version, head = promoted(store, ledger)
    submit(ledger, "b")
    ledger.append([Event(request_id="b", event="withdrawn", line=LINE, actor="eve")])
    manifest = version.manifest.model_copy(
        update={"version": 2, "request_ids": ("b", "c"), "parent": version.snapshot, "based_on": head.sequence}
    )
    submit(ledger, "c")
    store.publish(manifest, {"w": torch.full((2,), 2.0)})
    for _ in range(2):
        view = catch_up(store, ledger, LINE, "ann")
        found = take_out_withdrawn(store, ledger, view, "job")
    assert found == [] and states(ledger) == {
        "a": "promoted",
        "b": "withdrawn",
        "c": "committed",
        "retract:b@3": "queued",
    }


def test_what_is_over_is_taken_out_once(store, ledger):
    long = Edit(id="long", subject="l", prompt="{} is", target_new="x")
    intake.submit(ledger, LINE, [long], "ann")
    submit(ledger, "short", expires="2027-01-01")
    version = written(store, ledger, 1, None, [], based_on=0)
    manifest = version.manifest.model_copy(
        update={"version": 2, "parent": version.snapshot, "request_ids": ("long", "short"), "based_on": 0}
    )
    head = store.move_head(LINE, store.publish(manifest, {"w": torch.ones(2)}), None, "promote", "eve", "")
    assert head.version == 2
    view = catch_up(store, ledger, LINE, "ann")
    assert take_out_expired(store, ledger, view, "errata") == []
    later = datetime(2027, 1, 2, tzinfo=UTC)
    assert take_out_expired(store, ledger, view, "errata", later) == ["short"]
    assert take_out_expired(store, ledger, look(store, ledger, LINE), "errata", later) == []
    [removal] = ledger.queued(LINE)
    assert (removal.actor, removal.reason) == ("errata", "expired 2027-01-01 00:00 UTC")


def test_what_expires_in_the_past_and_what_is_called_like_a_removal_is_refused_when_it_is_submitted(ledger):
    for name, more in (("old", {"expires": "2020-01-01"}), ("retract:a@1", {})):
        request = Request(id=name, subject="s", prompt="{} is", target_new="x", **more)
        done = intake.submit(ledger, LINE, [request], "ann")
        assert done.queued == [] and [*done.rejected] == [next(iter(done.rejected))] and name in str(done.rejected)
    assert ledger.queued(LINE) == []
