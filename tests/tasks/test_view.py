"""Laws of catching up: after a kill the ledger says what storage says, and saying it twice adds nothing."""

from collections.abc import Iterable

import pytest
import torch

from tasks.ledger.catching_up import catch_up, count_states, standings, version_events
from tasks.ledger.events import Event
from tasks.ledger.table import Ledger
from tasks.ledger.view import chain, look
from tasks.stores.errors import RecordError
from tasks.stores.manifest import Head, members
from tasks.stores.repair import repair_line
from tasks.stores.snapshots import Manifest, SnapshotStore, Version

pytestmark = pytest.mark.slow

LINE = "main"


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path / "ledger"))


@pytest.fixture
def store(folder) -> SnapshotStore:
    return SnapshotStore(folder)


def made(
    store: SnapshotStore, ledger: Ledger, number: int, parent: Version | None, requests: Iterable[str], **more: object
) -> Version:
    """A version of `requests` (of a text, one letter each) as a job makes it, killed before it wrote the events."""
    for name in requests:
        ledger.append([Event(request_id=name, event=what, line=LINE, actor="ann") for what in ("received", "queued")])
    manifest = Manifest(
        line=LINE,
        version=number,
        parent=parent.snapshot if parent else None,
        base="embedded",
        base_digest="b" * 64,
        config={"method": "memit"},
        request_ids=tuple(requests),
        tensor_digests={"w": "d"},
        metrics={"efficacy_prob": 1.0},
        request_metrics={name: {"efficacy_prob": 1.0, "locality_prob": 0.5} for name in requests},
        batch=number,
        flow_run_id="flow",
        mlflow_run_id="run",
        **more,
    )
    return store.publish(manifest, {"w": torch.full((2,), float(number))})


def written(
    store: SnapshotStore, ledger: Ledger, number: int, parent: Version | None, requests: str, **more: object
) -> Version:
    """The same, with its events."""
    version = made(store, ledger, number, parent, requests, **more)
    ledger.append(version_events(version, "ann"))
    return version


def promoted(store: SnapshotStore, ledger: Ledger) -> tuple[Version, Head]:
    """A version of request 'a' in service, and HEAD."""
    version = written(store, ledger, 1, None, "a", based_on=0)
    head = store.move_head(LINE, version, None, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    return version, head


def promoted_and_rolled_back(store: SnapshotStore, ledger: Ledger) -> tuple[Version, Head]:
    """A version of request 'a' that was in service and no longer is, and HEAD after that."""
    version, head = promoted(store, ledger)
    head = store.move_head(LINE, None, head, "rollback", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    return version, head


def states(ledger: Ledger) -> dict[str, str]:
    return {name: state.state for name, state in sorted(ledger.states(LINE).items())}


def catch_up_twice(store: SnapshotStore, ledger: Ledger) -> None:
    """Twice, since the second time must add nothing."""
    foreseen = count_states(standings(look(store, ledger, LINE)))
    catch_up(store, ledger, LINE, "ann")
    events = ledger.history()
    assert count_states(ledger.look()[LINE].standings if events else {}) == foreseen
    catch_up(store, ledger, LINE, "bob")
    assert ledger.history() == events


def test_nothing_needs_no_catching_up(store, ledger):
    catch_up_twice(store, ledger)
    assert ledger.history() == [] and look(store, ledger, LINE).waiting == []


def test_a_version_without_events_gets_them_as_they_were(store, ledger):
    version = made(store, ledger, 1, None, "ab")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "committed", "b": "committed"}
    found = ledger.states(LINE)["a"]
    assert (found.version, found.batch, found.snapshot) == (1, 1, version.snapshot)
    assert (found.flow_run_id, found.mlflow_run_id) == ("flow", "run")
    assert found.metrics == {"efficacy_prob": 1.0, "locality_prob": 0.5}
    events = [event.event for event in ledger.history("a")]
    assert events == ["received", "queued", "applied", "validated", "committed"]
    assert [v.number for v in look(store, ledger, LINE).waiting] == [1]


def test_events_that_the_job_wrote_are_not_written_again(store, ledger):
    written(store, ledger, 1, None, "ab")
    before = ledger.history()
    catch_up_twice(store, ledger)
    assert ledger.history() == before


def test_several_versions_without_events_come_in_their_order(store, ledger):
    first = written(store, ledger, 1, None, "a")
    second = made(store, ledger, 2, first, "b")
    made(store, ledger, 3, second, "cd")
    catch_up_twice(store, ledger)
    assert set(states(ledger).values()) == {"committed"}
    assert [v.number for v in look(store, ledger, LINE).waiting] == [1, 2, 3]


def test_a_promotion_without_events_gets_them(store, ledger):
    first = written(store, ledger, 1, None, "a")
    second = written(store, ledger, 2, first, "b")
    written(store, ledger, 3, second, "c")
    store.move_head(LINE, second, None, "promote", "eve", "good")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "b": "promoted", "c": "committed"}
    last = ledger.history("a")[-2:]
    assert [event.event for event in last] == ["approved", "promoted"]
    assert {(event.actor, event.reason, event.version) for event in last} == {("eve", "good", 1)}
    assert [v.number for v in look(store, ledger, LINE).waiting] == [3]


def test_a_rollback_without_events_gets_them_and_takes_back_what_was_built_on_it(store, ledger):
    first = written(store, ledger, 1, None, "a")
    second = written(store, ledger, 2, first, "b")
    head = store.move_head(LINE, second, None, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    written(store, ledger, 3, second, "c")
    store.move_head(LINE, first, head, "rollback", "eve", "complaints")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "b": "rolled_back", "c": "rolled_back"}
    found = ledger.states(LINE)
    assert found["b"].reason == "complaints" and "out of service" in found["c"].reason
    assert look(store, ledger, LINE).waiting == []


def test_back_to_the_base_and_forward_again(store, ledger):
    version = written(store, ledger, 1, None, "ab")
    head = store.move_head(LINE, version, None, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    head = store.move_head(LINE, None, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert set(states(ledger).values()) == {"rolled_back"}
    store.move_head(LINE, version, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert set(states(ledger).values()) == {"promoted"}


def test_a_version_and_a_move_that_were_both_killed_are_both_caught_up(store, ledger):
    version = made(store, ledger, 1, None, "a")
    store.move_head(LINE, version, None, "promote", "eve", "")
    catch_up_twice(store, ledger)
    events = [event.event for event in ledger.history("a")]
    assert events[-5:] == ["applied", "validated", "committed", "approved", "promoted"]


def test_a_refused_version_neither_waits_nor_carries_what_was_built_on_it(store, ledger):
    first = written(store, ledger, 1, None, "a")
    written(store, ledger, 2, first, "b")
    ledger.append([Event(request_id="a", event="rejected", line=LINE, version=1, actor="eve", reason="no")])
    assert look(store, ledger, LINE).waiting == []
    catch_up(store, ledger, LINE, "ann")
    assert states(ledger) == {"a": "rejected", "b": "rolled_back"}
    other = written(store, ledger, 3, None, "c")
    assert [v.snapshot for v in look(store, ledger, LINE).waiting] == [other.snapshot]


def test_a_request_submitted_again_is_not_taken_back_a_second_time(store, ledger):
    first = written(store, ledger, 1, None, "a")
    head = store.move_head(LINE, first, None, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    store.move_head(LINE, None, head, "rollback", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    ledger.append([Event(request_id="a", event=what, line=LINE, actor="ann") for what in ("received", "queued")])
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "queued"}
    made(store, ledger, 2, None, "z")
    catch_up_twice(store, ledger)
    assert states(ledger)["a"] == "queued"


def test_lines_do_not_touch_each_other(store, ledger):
    made(store, ledger, 1, None, "a")
    catch_up(store, ledger, "other", "ann")
    assert states(ledger) == {"a": "queued"} and look(store, ledger, "other").waiting == []


def test_the_live_requests_of_a_snapshot_are_those_of_its_whole_chain_oldest_first(store, ledger):
    first = written(store, ledger, 1, None, "ba")
    second = written(store, ledger, 2, first, "c")
    written(store, ledger, 3, first, "d")
    view = look(store, ledger, LINE)
    assert list(members(chain(view, second.snapshot))) == ["b", "a", "c"]
    assert members(chain(view, None)) == {}


def test_what_an_earlier_release_wrote_wrongly_is_put_right(store, ledger):
    version = written(store, ledger, 1, None, "ab")
    store.move_head(LINE, version, None, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    ledger.append([Event(request_id="a", event="rolled_back", line=LINE, actor="a look")])
    catch_up_twice(store, ledger)
    assert set(states(ledger).values()) == {"promoted"}


def test_a_fact_that_was_submitted_again_is_what_head_says_after_rolling_forward(store, ledger):
    first, head = promoted_and_rolled_back(store, ledger)
    second = written(store, ledger, 2, None, "a")
    head = store.move_head(LINE, second, head, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    store.move_head(LINE, first, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted"} and ledger.states(LINE)["a"].version == 1


def test_a_fact_that_waits_to_be_written_again_is_in_service_when_its_old_version_is(store, ledger):
    version, head = promoted_and_rolled_back(store, ledger)
    ledger.append([Event(request_id="a", event=what, line=LINE, actor="ann") for what in ("received", "queued")])
    store.move_head(LINE, version, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted"} and ledger.queued(LINE) == []


def test_a_version_made_anew_from_the_base_takes_over_what_it_carries_and_out_what_it_lacks(store, ledger):
    first = written(store, ledger, 1, None, "ab")
    head = store.move_head(LINE, first, None, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    root = {"based_on": head.sequence, "live": ("a", "c"), "after": first.snapshot, "removed": ("b",)}
    second = written(store, ledger, 2, None, "c", **root)
    view = look(store, ledger, LINE)
    assert [version.number for version in view.waiting] == [2] and view.tip == second.snapshot
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "b": "promoted", "c": "committed"}
    store.move_head(LINE, second, head, "promote", "eve", "without b")
    before = ledger.history("a")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "b": "retracted", "c": "promoted"}
    assert ledger.history("a") == before
    assert look(store, ledger, LINE).live == {"a": 2, "c": 2}


def rooted(store: SnapshotStore, ledger: Ledger, number: int, after: Version, live: str, **more: object) -> Version:
    """A root that comes after a version and holds the facts `live`, with its events."""
    leaving = (*more.get("removals", {}).values(), *more.get("replaced", {}))
    root = {"live": tuple(live), "after": after.snapshot, "removed": leaving}
    version = made(store, ledger, number, None, more.get("removals", {}), **root, **more)
    ledger.append_possible(version_events(version, "ann"))
    return version


def waiting(store: SnapshotStore, ledger: Ledger) -> list[int]:
    return [version.number for version in look(store, ledger, LINE).waiting]


def test_a_fact_is_taken_out_of_service_and_comes_back_with_an_older_version(store, ledger):
    first = written(store, ledger, 1, None, "ab", based_on=0)
    head = store.move_head(LINE, first, None, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    root = rooted(store, ledger, 2, first, "a", based_on=1, removals={"x": "b"})
    assert states(ledger) == {"a": "promoted", "b": "promoted", "x": "committed"} and waiting(store, ledger) == [2]
    head = store.move_head(LINE, root, head, "promote", "eve", "as asked")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "b": "retracted", "x": "promoted"}
    assert ledger.states(LINE)["b"].reason == "by request 'x'; as asked"
    head = store.move_head(LINE, first, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "b": "promoted", "x": "rolled_back"}
    head = store.move_head(LINE, root, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "b": "retracted", "x": "promoted"}
    store.move_head(LINE, None, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "rolled_back", "b": "retracted", "x": "rolled_back"}


def test_a_refused_removal_leaves_its_fact_where_it_was(store, ledger):
    first, head = promoted(store, ledger)
    root = rooted(store, ledger, 2, first, "", based_on=1, removals={"x": "a"})
    store.move_head(LINE, first, head, "reject", "eve", "it is right", rejected=(root.number,))
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "x": "rejected"} and waiting(store, ledger) == []


def test_a_version_without_the_refused_fact_decides_those_that_it_comes_after(store, ledger):
    first = written(store, ledger, 1, None, "ab", based_on=0)
    second = written(store, ledger, 2, first, "cd", based_on=0)
    root = rooted(store, ledger, 3, second, "ac", based_on=0, removals={"refuse:b@5": "b", "retract:d@5": "d"})
    written(store, ledger, 4, root, "e", based_on=0)
    assert waiting(store, ledger) == [1, 2, 3, 4]
    head = store.move_head(LINE, root, None, "promote", "eve", "but for b")
    assert waiting(store, ledger) == [4]
    catch_up_twice(store, ledger)
    assert states(ledger) == {
        "a": "promoted", "b": "rejected", "c": "promoted", "d": "retracted", "e": "committed",
        "refuse:b@5": "promoted", "retract:d@5": "promoted",
    }  # fmt: skip
    assert waiting(store, ledger) == [4] and look(store, ledger, LINE).live == {"a": 3, "c": 3}
    store.move_head(LINE, root, head, "reject", "eve", "no", rejected=(4,))
    catch_up_twice(store, ledger)
    assert waiting(store, ledger) == [] and states(ledger)["e"] == "rejected"


def test_a_version_that_waits_can_be_put_in_service_before_the_root_that_comes_after_it(store, ledger):
    first = written(store, ledger, 1, None, "ab", based_on=0)
    root = rooted(store, ledger, 2, first, "a", based_on=0, removals={"refuse:b@5": "b"})
    head = store.move_head(LINE, first, None, "promote", "eve", "")
    catch_up_twice(store, ledger)
    assert waiting(store, ledger) == [2]
    store.move_head(LINE, root, head, "promote", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "b": "retracted", "refuse:b@5": "promoted"}


def test_a_fact_is_replaced_and_one_event_says_by_whom(store, ledger):
    first, head = promoted(store, ledger)
    root = rooted(store, ledger, 2, first, "", based_on=1, replaced={"a": "n"})
    new = written(store, ledger, 3, root, "n", based_on=1)
    assert waiting(store, ledger) == [2, 3]
    head = store.move_head(LINE, new, head, "promote", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "superseded", "n": "promoted"}
    assert [event.reason for event in ledger.history("a") if event.event == "superseded"] == ["replaced by request 'n'"]
    store.move_head(LINE, first, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "n": "rolled_back"} and waiting(store, ledger) == []


def test_what_was_to_replace_a_fact_was_not_kept_and_the_fact_stays_in_service_throughout(store, ledger):
    first, head = promoted(store, ledger)
    root = rooted(store, ledger, 2, first, "", based_on=1, replaced={"a": "n"})
    back = made(store, ledger, 3, root, "", based_on=1, restored=("a",))
    assert waiting(store, ledger) == [2, 3]
    head = store.move_head(LINE, back, head, "promote", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted"} and waiting(store, ledger) == []
    assert look(store, ledger, LINE).live == {"a": 3}
    store.move_head(LINE, first, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted"} and waiting(store, ledger) == []


@pytest.mark.parametrize("refused", [True, False])
def test_a_root_that_no_request_asked_for_waits_until_it_is_decided_and_never_again(store, ledger, refused):
    first, head = promoted(store, ledger)
    root = rooted(store, ledger, 2, first, "a", based_on=1)
    catch_up_twice(store, ledger)
    assert waiting(store, ledger) == [2]
    if refused:
        head = store.move_head(LINE, first, head, "reject", "eve", "no", rejected=(2,))
    else:
        head = store.move_head(LINE, root, head, "promote", "eve", "")
    catch_up_twice(store, ledger)
    assert waiting(store, ledger) == [] and states(ledger) == {"a": "promoted"}
    head = store.move_head(LINE, None, head, "rollback", "eve", "")
    store.move_head(LINE, first, head, "rollback", "eve", "")
    written(store, ledger, 3, first, "c", based_on=head.sequence + 1)
    catch_up_twice(store, ledger)
    assert waiting(store, ledger) == [3]


def test_what_was_written_again_after_it_was_taken_out_is_not_taken_out_twice(store, ledger):
    first, head = promoted(store, ledger)
    root = rooted(store, ledger, 2, first, "", based_on=1, removals={"x": "a"})
    head = store.move_head(LINE, root, head, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    again = written(store, ledger, 3, root, "a", based_on=2)
    catch_up_twice(store, ledger)
    assert states(ledger)["a"] == "committed"
    head = store.move_head(LINE, again, head, "promote", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger)["a"] == "promoted"
    store.move_head(LINE, root, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "rolled_back", "x": "promoted"}


def test_a_root_is_caught_up_after_a_kill_and_a_move(store, ledger):
    first, head = promoted(store, ledger)
    more = {"live": (), "after": first.snapshot, "removed": ("a",), "removals": {"x": "a"}}
    root = made(store, ledger, 2, None, "x", based_on=1, **more)
    store.move_head(LINE, root, head, "promote", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "retracted", "x": "promoted"}


def test_rolling_back_below_and_forward_again_does_not_bring_back_what_was_built_in_between(store, ledger):
    first, head = promoted(store, ledger)
    written(store, ledger, 2, first, "b", based_on=head.sequence)
    head = store.move_head(LINE, None, head, "rollback", "eve", "")
    store.move_head(LINE, first, head, "rollback", "eve", "")
    assert look(store, ledger, LINE).waiting == []
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "b": "rolled_back"}


def test_a_refusal_is_a_move_of_head_that_leaves_the_version_in_service(store, ledger):
    first, head = promoted(store, ledger)
    written(store, ledger, 2, first, "b", based_on=1)
    head = store.move_head(LINE, first, head, "reject", "eve", "wrong", rejected=(2,))
    assert (head.version, head.previous) == (1, None)
    assert look(store, ledger, LINE).waiting == []
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted", "b": "rejected"}
    assert ledger.states(LINE)["b"].reason == "wrong"


def test_what_a_killed_job_had_written_stays_queued_where_it_can_no_longer_be_put_in_service(store, ledger):
    first, head = promoted(store, ledger)
    made(store, ledger, 2, first, "b", based_on=head.sequence)
    store.move_head(LINE, None, head, "rollback", "eve", "")
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "rolled_back", "b": "queued"}


def test_an_old_version_takes_nothing_back_that_was_submitted_again_since(store, ledger):
    """Version 2 was made of `a` while `a` came back into service with version 1, so its events were never legal."""
    first, head = promoted(store, ledger)
    head = store.move_head(LINE, None, head, "rollback", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    ledger.append([Event(request_id="a", event=what, line=LINE, actor="ann") for what in ("received", "queued")])
    made_for = head.sequence
    head = store.move_head(LINE, first, head, "rollback", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    manifest = first.manifest.model_copy(update={"version": 2, "based_on": made_for})
    second = store.publish(manifest, {"w": torch.full((2,), 2.0)})
    assert ledger.append_possible(version_events(second, "job")) == []
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "promoted"}
    store.move_head(LINE, None, head, "rollback", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    ledger.append([Event(request_id="a", event=what, line=LINE, actor="ann") for what in ("received", "queued")])
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "queued"} and look(store, ledger, LINE).waiting == []


def test_what_was_refused_once_never_waits_again_whatever_the_ledger_says(store, ledger):
    """The ledger of a line may be lost, and what it held of a request with it."""
    version = made(store, ledger, 1, None, "a", based_on=0)
    lost = Ledger(f"{ledger.uri}-lost")
    head = store.move_head(LINE, None, None, "reject", "eve", "wrong", rejected=(version.number,))
    assert look(store, lost, LINE).waiting == []
    other = made(store, ledger, 2, None, "b", based_on=head.sequence)
    store.move_head(LINE, other, head, "promote", "eve", "")
    store.move_head(LINE, None, store.head(LINE), "rollback", "eve", "")
    assert look(store, lost, LINE).waiting == []


def test_what_became_of_a_request_while_a_job_wrote_it_stands_and_the_others_are_told(store, ledger):
    version = made(store, ledger, 1, None, "abc", based_on=0)
    ledger.append([Event(request_id="b", event="withdrawn", line=LINE, actor="eve")])
    for _ in range(2):
        ledger.append_possible(version_events(version, "job"))
    catch_up_twice(store, ledger)
    assert states(ledger) == {"a": "committed", "b": "withdrawn", "c": "committed"}


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_version_that_is_gone_strands_nothing_and_is_made_again(store, ledger, folder, lost):
    first = written(store, ledger, 1, None, "a", based_on=0)
    second = written(store, ledger, 2, first, "b", based_on=0)
    third = written(store, ledger, 3, second, "c", based_on=0)
    head = store.move_head(LINE, second, None, "promote", "eve", "")
    catch_up(store, ledger, LINE, "ann")
    store.move_head(LINE, second, head, "reject", "eve", "no", rejected=(third.number,))
    written(store, ledger, 4, second, "d", based_on=2)
    before = states(ledger)
    folder.delete(f"lines/{LINE}/versions/{lost:08d}.json")
    anew = SnapshotStore(folder)
    for _ in range(2):
        with pytest.raises(RecordError, match=f"version {lost} of line 'main' is gone: 'errata repair main'"):
            catch_up(anew, ledger, LINE, "ann")
    assert states(ledger) == before
    [done] = repair_line(anew, LINE, "ann")
    assert f"version {lost} of line 'main'" in done and repair_line(anew, LINE, "ann") == []
    catch_up(anew, ledger, LINE, "ann")
    assert states(ledger) == {"a": "promoted", "b": "promoted", "c": "rejected", "d": "committed"}
