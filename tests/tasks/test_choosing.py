"""Laws of what a job takes up: what replaces, what leaves, what comes first, what stays queued."""

from datetime import UTC, datetime, timedelta

import pytest

from editing.edit import Edit
from editing.request import Request, fact_of
from tasks.ledger.choosing import Intake, Line, take
from tasks.ledger.events import RequestState

NOW = datetime(2026, 12, 1, tzinfo=UTC)
LIVE = Edit(id="live", subject="Ada", prompt="{} lives in", target_new="Oslo", paraphrases=("The home of Ada  is in",))


def asks(name: str, target: str = "Rome", prompt: str = "{} lives in", **more: object) -> Request:
    return Request(id=name, subject="ada", prompt=prompt, target_new=target, **more)


def removal(fact: str) -> dict[str, str]:
    return {"id": f"retract:{fact}@4", "removes": fact, "reason": "wrong"}


def queued(*requests: Request | dict[str, str]) -> list[RequestState]:
    empty = dict.fromkeys(RequestState.model_fields)
    payloads = [one if isinstance(one, dict) else one.model_dump(mode="json") for one in requests]
    about = {"line": "main", "state": "queued", "time": NOW, "actor": "ann"}
    return [RequestState.model_validate(empty | about | {"request_id": p["id"], "payload": p}) for p in payloads]


def taken(*requests: Request | dict[str, str], line: Line | None = None, **options: object) -> Intake:
    return take(queued(*requests), line or Line([LIVE], known={"live", "old"}), now=NOW, **options)


def ids(found: Intake) -> list[str]:
    return [edit.id for edit in found.accepted]


@pytest.mark.parametrize("prompt", ["{} lives  in", "The home of {} is in"])
def test_a_request_that_asks_a_live_question_anew_takes_its_place(prompt):
    found = taken(asks("new", prompt=prompt))
    assert ids(found) == ["new"] and found.replaced == {"live": "new"} and not found.rejected
    refused = taken(asks("new", prompt=prompt), on_conflict="reject")
    assert refused.rejected["new"].startswith("contradicts request 'live'") and not refused.replaced
    told = taken(asks("new", prompt=prompt, replaces="live"), on_conflict="reject")
    assert ids(told) == ["new"] and told.replaced == {"live": "new"}


def test_what_replaces_a_fact_of_a_version_that_waits_stays_queued_until_that_is_decided():
    waits = Line([LIVE], waiting={"live"})
    for request in (asks("new"), asks("new", prompt="{} sleeps in", replaces="live")):
        found = taken(request, line=waits)
        assert not found.accepted and not found.rejected and "waits for review" in found.left["new"]


def test_of_two_that_contradict_each_other_the_newer_stands_where_it_says_so():
    refused = taken(asks("a"), asks("b", "Bonn"), line=Line())
    assert ids(refused) == ["a"] and refused.rejected["b"].startswith("contradicts request 'a'")
    found = taken(asks("a"), asks("b", "Bonn", replaces="a"), asks("c", "Kiel"))
    assert ids(found) == ["b"] and found.replaced == {"live": "b"} and [*found.rejected] == ["c"]
    assert found.ended == {"a": ("superseded", "replaced by request 'b' before it was written")}


def test_what_is_urgent_and_newer_is_taken_up_in_the_place_of_what_it_replaces():
    found = taken(asks("a"), asks("b", "Bonn", replaces="a", priority="urgent"))
    assert ids(found) == ["b"] and [*found.ended] == ["a"] and not found.rejected


@pytest.mark.parametrize(
    ("named", "why"), [("none", "does not know"), ("later", "is newer"), ("retract:live@4", "not")]
)
def test_what_cannot_be_replaced_is_said_in_one_line(named, why):
    found = taken(asks("new", prompt="{} is", replaces=named), asks("later", prompt="{} eats"), removal("live"))
    assert why in found.rejected["new"] and ids(found) == ["later"]


def test_what_is_out_already_needs_no_replacing():
    assert ids(taken(asks("new", prompt="{} is", replaces="old"))) == ["new"]


def test_a_removal_frees_its_question_and_one_of_what_left_ends():
    found = taken(asks("new"), removal("live"), removal("gone"))
    assert found.removals == {"retract:live@4": "live"} and ids(found) == ["new"] and not found.replaced
    assert found.ended == {"retract:gone@4": ("withdrawn", "request 'gone' is in no version any more")}


def test_what_is_urgent_comes_first_then_the_oldest():
    order = ["low", "normal", "urgent", "normal", "urgent"]
    requests = [asks(f"{p}{n}", prompt=f"{{}} is {n}", priority=p) for n, p in enumerate(order)]
    assert ids(taken(*requests)) == ["urgent2", "urgent4", "normal1", "normal3", "low0"]
    assert ids(taken(*requests, limit=3)) == ["urgent2", "urgent4", "normal1"]


def test_what_is_early_stays_queued_and_what_is_over_is_refused():
    hour = timedelta(hours=1)
    found = taken(
        asks("early", not_before=NOW + hour), asks("due", prompt="{} is", not_before=NOW, expires=NOW + hour),
        asks("over", prompt="{} eats", expires=NOW),
    )  # fmt: skip
    assert ids(found) == ["due"] and found.left == {"early": "not before 2026-12-01 01:00 UTC"}
    assert found.rejected == {"over": "expired 2026-12-01 00:00 UTC, before a job took it up"} and not found.replaced


def test_only_what_is_named_is_taken_up():
    found = taken(asks("a"), asks("b", prompt="{} is"), removal("live"), removal("x"), only=["b", "live"])
    assert ids(found) == ["b"] and [*found.removals] == ["retract:live@4"] and not found.left and not found.ended


def test_what_is_written_is_the_fact_alone():
    assert [type(edit) for edit in taken(asks("a", ticket="17")).accepted] == [type(fact_of(LIVE))]


def departed(heir: str, *held: Edit) -> Line:
    """`live` is in service; a version that waits takes it out for `heir`, beside which it holds these."""
    facts = [one.id for one in held]
    return Line([LIVE, *held], facts, facts, known={"live", heir}, departed={"live": heir})


HEIR = fact_of(asks("heir", "Lima"))


def test_what_comes_back_into_service_is_replaced_as_what_stands_there():
    for request in (asks("new"), asks("new", prompt="The home of {} is in"), asks("new", replaces="live")):
        found = taken(request, line=departed("heir"))
        assert ids(found) == ["new"] and found.replaced == {"live": "new"}
    assert taken(asks("new", "Oslo"), line=departed("heir")).rejected == {"new": "says the same as request 'live'"}
    found = taken(asks("heir", "Lima"), line=departed("heir"))  # of a job that was killed before it wrote it
    assert ids(found) == ["heir"] and not found.replaced
    found = taken(removal("heir"), asks("new"), line=departed("heir", HEIR))
    assert found.removals == {"retract:heir@4": "heir"} and found.replaced == {"live": "new"}


def test_a_removal_of_what_leaves_with_a_version_that_waits_is_not_lost():
    found = taken(removal("live"), line=departed("heir", HEIR))
    assert not found.removals and not found.ended
    assert found.left == {
        "retract:live@4": "request 'live' leaves with what waits for review, for 'heir': decide on that"
    }
    assert taken(removal("live"), line=departed("heir")).removals == {"retract:live@4": "live"}
    both = taken(removal("live"), removal("heir"), line=departed("heir", HEIR))
    assert both.removals == {"retract:heir@4": "heir", "retract:live@4": "live"}


def test_who_takes_a_request_back_to_what_stands_is_heard():
    found = taken(asks("a"), asks("b", "Oslo", replaces="a"))
    assert not found.accepted and not found.replaced
    assert found.ended["a"][0] == "superseded" and found.rejected == {"b": "says the same as request 'live'"}


def test_two_that_say_the_same_otherwise_asked_replace_a_fact_once():
    found = taken(asks("a"), asks("b", prompt="The home of {} is in"))
    assert ids(found) == ["a", "b"] and found.replaced == {"live": "a"} and not found.rejected


def test_a_paraphrase_of_a_request_before_it_is_not_contradicted_in_one_queue():
    first = asks("a", paraphrases=("Ada sleeps in",))
    found = taken(first, asks("b", "Bonn", prompt="{} sleeps in"), line=Line())
    assert ids(found) == ["a"] and found.rejected["b"].startswith("contradicts request 'a'")
    assert ids(taken(first, asks("b", prompt="{} sleeps in"), line=Line())) == ["a", "b"]
