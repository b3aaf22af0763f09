"""Laws of intake: every record ends up queued or rejected with a reason, once, and contradictions never get in."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editing.edit import Edit, Probe, make_edit
from editing.readers import BadRecord, read_edits
from tasks.ledger import intake
from tasks.ledger.choosing import Intake, Line, take
from tasks.ledger.events import Event, RequestState
from tasks.ledger.table import Ledger
from tasks.update.stages import known_edits

LINE = "main"
EDIT = Edit(id="geo-1", subject="France", prompt="The capital of {} is", target_new="Lyon", target_true="Paris")
WRITTEN = ("applied", "validated", "committed")
BAD = BadRecord(row=3, field="prompt", reason="prompt is missing; give it", raw='{"subject": "x"}')


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path / "ledger"))


def submit(ledger: Ledger, *records) -> intake.Submitted:
    return intake.submit(ledger, LINE, iter(records), "ann")


def states(ledger: Ledger) -> dict[str, str]:
    return {name: found.state for name, found in ledger.states(LINE).items()}


def mark(ledger: Ledger, *events: str, request_id: str = EDIT.id) -> None:
    ledger.append([Event(request_id=request_id, event=event, line=LINE, actor="ann") for event in events])


def changed(edit: Edit, **fields: object) -> Edit:
    return Edit.model_validate(edit.model_dump() | fields)


def test_a_good_record_is_queued_whole_and_a_bad_one_rejected_with_its_reason(ledger):
    done = submit(ledger, EDIT, BAD)
    assert done.queued == [EDIT.id] and done.present == [] and list(done.rejected.values()) == [BAD.reason]
    found = ledger.states(LINE)
    assert make_edit(found[EDIT.id].payload) == EDIT
    [bad] = [state for state in found.values() if state.state == "rejected"]
    assert bad.reason == BAD.reason and bad.payload == {"row": 3, "field": "prompt", "raw": BAD.raw}
    assert [event.event for event in ledger.history(EDIT.id)] == ["received", "queued"]


def test_a_repeated_submission_changes_nothing(ledger):
    submit(ledger, EDIT, BAD)
    before = ledger.history()
    again = submit(ledger, EDIT, BAD, EDIT, BAD)
    assert again.queued == [] and set(again.present) == {EDIT.id} and len(again.rejected) == 1
    assert ledger.history() == before


@pytest.mark.parametrize("standing", [(), ("applied",), WRITTEN, (*WRITTEN, "approved", "promoted")])
def test_a_request_that_stands_is_not_queued_again(ledger, standing):
    submit(ledger, EDIT)
    mark(ledger, *standing)
    assert submit(ledger, EDIT).present == [EDIT.id]
    assert states(ledger) == {EDIT.id: standing[-1] if standing else "queued"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "outcome",
    [
        ("rejected",),
        ("quarantined",),
        ("withdrawn",),
        (*WRITTEN, "rolled_back"),
        (*WRITTEN, "approved", "promoted", "retracted"),
        (*WRITTEN, "approved", "promoted", "superseded"),
    ],
    ids=lambda outcome: outcome[-1],
)
def test_a_request_that_was_refused_or_taken_back_can_be_submitted_again(ledger, outcome):
    submit(ledger, EDIT)
    mark(ledger, *outcome)
    better = changed(EDIT, target_new="Nice")
    assert submit(ledger, better).queued == [EDIT.id]
    [found] = ledger.queued(LINE)
    assert found.payload["target_new"] == "Nice" and found.reason is None


def test_the_same_fact_with_other_probes_under_an_id_made_of_it_is_there_already(ledger):
    plain = changed(EDIT, id="")
    submit(ledger, plain)
    done = submit(ledger, changed(plain, paraphrases=("Another way?",)))
    assert done.present == [plain.id] and "is not added" in done.findings[plain.id][0] and not done.rejected


def test_a_line_joins_what_it_knows_of_its_facts_in_its_own_way(ledger):
    own = changed(EDIT, id="own", join=" ")
    submit(ledger, EDIT, own)
    found = known_edits(ledger, LINE, [EDIT.id, own.id, "none"], "")
    assert [edit.taught for edit in found.values()] == ["The capital of France isLyon", "The capital of France is Lyon"]
    assert known_edits(ledger, LINE, [EDIT.id], None) == {EDIT.id: EDIT}


def test_the_same_id_with_other_content_is_refused_under_another_id(ledger):
    submit(ledger, EDIT)
    other = changed(EDIT, target_new="Nice")
    done = submit(ledger, other)
    [(name, reason)] = done.rejected.items()
    assert name.startswith("geo-1#") and reason == (
        "request 'geo-1' is queued with other content; give this one another id"
    )
    assert states(ledger) == {EDIT.id: "queued", name: "rejected"}
    assert ledger.states(LINE)[EDIT.id].payload["target_new"] == "Lyon"
    before = ledger.history()
    assert submit(ledger, other).rejected == done.rejected and ledger.history() == before


def test_one_file_cannot_give_an_id_two_meanings(ledger):
    other = changed(EDIT, target_new="Nice")
    done = submit(ledger, EDIT, other, other, EDIT)
    assert done.queued == [EDIT.id] and len(done.rejected) == 1
    assert len(ledger.history()) == 4 and ledger.states(LINE)[EDIT.id].payload["target_new"] == "Lyon"


def test_many_records_are_written_in_a_few_commits_in_their_order(ledger, monkeypatch):
    monkeypatch.setattr(intake, "AT_ONCE", 10)
    edits = [Edit(subject=f"s{i}", prompt="{} is", target_new="x") for i in range(23)]
    assert submit(ledger, *edits).queued == [edit.id for edit in edits]
    assert [state.request_id for state in ledger.queued(LINE)] == [edit.id for edit in edits]


def test_the_same_id_on_two_lines_is_two_requests(ledger):
    submit(ledger, EDIT)
    assert intake.submit(ledger, "other", [changed(EDIT, target_new="Nice")], "ann").queued == [EDIT.id]
    assert ledger.queued(LINE)[0].payload["target_new"] == "Lyon"


# What comes in may be anything.
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
NASTY = ["\0", "\ud800", "\u202e", "é" * 600, "{}", "{} {}", "' OR 1=1 --", "{0.__class__}", "[red]", "\n", " ", "🎻"]
TEXTS = st.text(max_size=15) | st.sampled_from(NASTY) | JSON
HOSTILE = st.fixed_dictionaries(
    {},
    optional={
        "id": TEXTS, "subject": TEXTS | st.just("Ada"), "prompt": TEXTS | st.just("{} is in"), "target_new": TEXTS,
        "target_true": TEXTS, "paraphrases": JSON, "neighborhood": JSON, "colour": JSON,
    },
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(HOSTILE | JSON, min_size=1, max_size=12), st.binary(max_size=40))
def test_every_hostile_record_is_queued_or_rejected_once(records, noise):
    with TemporaryDirectory() as folder:
        path, ledger = Path(folder) / "requests.jsonl", Ledger(f"{folder}/ledger")
        lines = [json.dumps(record).encode() for record in records]
        path.write_bytes(b"\n".join([*lines, noise.replace(b"\n", b"").replace(b"\r", b"") or b"-"]))
        done = submit(ledger, *read_edits(path))
        found = ledger.states(LINE)
        assert found.keys() == {*done.queued, *done.rejected} and len(found) <= len(records) + 1
        for name, state in found.items():
            assert state.state == ("queued" if name in done.queued else "rejected")
            assert state.reason is None or (state.reason and "\n" not in state.reason and len(state.reason) < 1000)
        before = len(ledger.history())
        again = submit(ledger, *read_edits(path))
        assert again.queued == [] and again.rejected == done.rejected and len(ledger.history()) == before


def test_a_request_is_present_whose_probes_an_earlier_release_read_less_of(ledger):
    probed = changed(EDIT, id="probed", portability=(Probe(prompt="Its mayor is", answer="Ann"),))
    submit(ledger, probed)
    more = Probe(prompt="Its mayor is", answer="Ann", aliases=("Anna",), group="Reasoning")
    assert submit(ledger, changed(probed, portability=(more,))).present == ["probed"]
    other = changed(probed, portability=(Probe(prompt="Its mayor is", answer="Bea"),))
    assert len(submit(ledger, other).rejected) == 1


def test_what_contradicts_a_live_fact_is_refused_and_named(ledger):
    submit(ledger, changed(EDIT, id="new", target_new="Nice", subject=" france "), changed(EDIT, id="same"))
    taken = take(ledger.queued(LINE), Line([EDIT]), on_conflict="reject")
    assert taken.accepted == ()
    assert taken.rejected["new"].startswith("contradicts request 'geo-1': ")
    assert (
        "'Lyon' there and 'Nice' here; take the other back first (errata retract geo-1), or say"
        in taken.rejected["new"]
    )
    assert taken.rejected["same"] == "says the same as request 'geo-1'"


def test_of_contradicting_requests_the_oldest_wins(ledger):
    texts = ["Nice", "Lyon", "Nice", "Metz"]
    submit(ledger, *(changed(EDIT, id=f"r{i}", target_new=text) for i, text in enumerate(texts)))
    taken = take(ledger.queued(LINE), Line())
    assert [edit.id for edit in taken.accepted] == ["r0"]
    assert [taken.rejected[f"r{i}"].split()[0] for i in (1, 2, 3)] == ["contradicts", "says", "contradicts"]


def test_other_questions_about_the_same_subject_are_no_contradiction(ledger):
    submit(ledger, EDIT, changed(EDIT, id="money", prompt="The money of {} is the", target_new="franc"))
    assert len(take(ledger.queued(LINE), Line()).accepted) == 2


def test_a_limit_takes_the_oldest_and_leaves_the_others_alone(ledger):
    edits = [changed(EDIT, id=f"r{i}", subject=f"land {i // 2}", target_new=f"t{i}") for i in range(8)]
    submit(ledger, *edits)
    taken = take(ledger.queued(LINE), Line(), limit=2)
    assert [edit.id for edit in taken.accepted] == ["r0", "r2"] and list(taken.rejected) == ["r1"]
    assert take(ledger.queued(LINE), Line(), limit=0) == Intake((), {})


QUESTIONS = st.tuples(st.sampled_from(["Ada", "ADA", " ada", "Bo"]), st.sampled_from("xyz"))


@given(st.lists(QUESTIONS, max_size=12), st.lists(QUESTIONS, max_size=2, unique_by=lambda q: q[0].strip().casefold()))
def test_no_two_accepted_requests_ask_the_same(asked, standing):
    def edit(number: int, question: tuple[str, str], name: str) -> Edit:
        return Edit(id=f"{name}{number}", subject=question[0], prompt="{} lives in", target_new=question[1])

    live = [edit(i, question, "live") for i, question in enumerate(standing)]
    queued = [as_queued(edit(i, question, "r")) for i, question in enumerate(asked)]
    taken = take(queued, Line(live), on_conflict="reject")
    subjects = [one.subject.casefold() for one in [*live, *taken.accepted]]
    assert len(subjects) == len(set(subjects))
    assert {one.id for one in taken.accepted} | taken.rejected.keys() == {state.request_id for state in queued}


def as_queued(edit: Edit) -> RequestState:
    empty = dict.fromkeys(RequestState.model_fields)
    about = {"request_id": edit.id, "line": LINE, "state": "queued", "time": "2026-11-22T00:00:00Z"}
    return RequestState.model_validate(empty | about | {"actor": "ann", "payload": edit.model_dump()})


def test_a_payload_that_is_no_request_is_rejected_not_raised():
    broken = as_queued(EDIT).model_copy(update={"payload": {"subject": "x"}})
    empty = as_queued(EDIT).model_copy(update={"payload": None, "request_id": "nothing"})
    taken = take([broken, empty], Line())
    assert taken.accepted == () and "prompt is missing" in taken.rejected["geo-1"] and "nothing" in taken.rejected
