"""Decisions while a job runs: the job goes on, or stops and says so; HEAD, ledger and aliases agree at its end."""

import pytest

from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.ledger.errors import LedgerError
from tasks.ledger.table import Ledger
from tasks.ledger.view import look
from tasks.retries import RETRIES
from tasks.review import decisions as review
from tasks.review import standing
from tasks.stores.errors import HeadMoved, LineBusy, StorageError
from tasks.tracking.errors import TrackingError
from tasks.update import footing, stages
from tasks.workplace import Workplace
from tests.flows.conftest import POLICY


def states(workplace, line):
    return {name: standing.state for name, standing in workplace.ledger.look()[line].standings.items()}


@pytest.fixture
def after_publishing(monkeypatch):
    """Lets somebody decide right after the job has published its n-th version."""

    def install(number, decide):
        publish, made = stages.publish, []

        def published(*arguments):
            version = publish(*arguments)
            made.append(version)
            if len(made) == number:
                decide()
            return version

        monkeypatch.setattr(stages, "publish", published)

    return install


def test_a_version_that_is_approved_while_the_next_job_runs_stays_the_champion(place, good_edits, after_publishing):
    workplace = place("during")
    intake.submit(workplace.ledger, "during", good_edits[:2], "tester")
    first = knowledge_update("during", POLICY).version
    intake.submit(workplace.ledger, "during", good_edits[2:4], "tester")
    after_publishing(1, lambda: review.approve(workplace, "during"))
    summary = knowledge_update("during", POLICY)
    champion = workplace.store.head("during").version
    assert champion > first and summary.version is None  # what the job had written was approved with it
    assert workplace.tracker().aliases("during") == {"champion": champion}
    assert set(states(workplace, "during").values()) == {"promoted"}


def test_a_job_goes_on_where_head_moved_up_its_own_chain(place, good_edits, after_publishing):
    workplace = place("up")
    intake.submit(workplace.ledger, "up", good_edits[:6], "tester")
    after_publishing(1, lambda: review.approve(workplace, "up"))
    summary = knowledge_update("up", POLICY)
    view = look(workplace.store, workplace.ledger, "up")
    assert view.waiting and summary.version == view.waiting[-1].number > view.head.version
    assert workplace.tracker().aliases("up") == {"champion": view.head.version, "challenger": summary.version}
    assert set(states(workplace, "up").values()) == {"promoted", "committed"}


def test_a_rollback_under_a_job_stops_it_and_its_requests_are_queued_again(place, good_edits, after_publishing):
    workplace = place("away")
    intake.submit(workplace.ledger, "away", good_edits[:2], "tester")
    first = knowledge_update("away", POLICY).version
    review.approve(workplace, "away")
    later = good_edits[2:8]
    intake.submit(workplace.ledger, "away", later, "tester")
    after_publishing(1, lambda: review.roll_back(workplace, "away", reason="complaints"))
    with pytest.raises(HeadMoved, match=r"moved to version 0 by tester while this job ran.*queued again: errata run"):
        knowledge_update("away", POLICY)
    found = states(workplace, "away")
    assert {found[edit.id] for edit in later} == {"queued"}
    assert {found[edit.id] for edit in good_edits[:2]} == {"rolled_back"}
    assert workplace.tracker().aliases("away") == {"previous": first}
    assert look(workplace.store, workplace.ledger, "away").waiting == []
    summary = knowledge_update("away", POLICY)  # the next run writes them on what is in service now
    assert summary.kept + summary.quarantined == len(later)
    review.approve(workplace, "away")
    live = look(workplace.store, workplace.ledger, "away").live
    assert {edit.id for edit in good_edits[:2]}.isdisjoint(live)


def test_a_rejection_under_a_job_stands_and_what_was_built_on_it_is_queued_again(place, good_edits, after_publishing):
    workplace = place("refused")
    intake.submit(workplace.ledger, "refused", good_edits[:6], "tester")
    after_publishing(1, lambda: review.reject(workplace, "refused", reason="wrong source"))
    with pytest.raises(HeadMoved):
        knowledge_update("refused", POLICY)
    found = states(workplace, "refused")
    assert set(found.values()) == {"rejected", "queued"}
    assert workplace.tracker().aliases("refused") == {}


def test_what_a_job_wrote_that_dies_when_head_has_left_it_is_queued_by_the_next_run(
    place, good_edits, after_publishing, monkeypatch
):
    workplace, edits = place("dies"), good_edits[:4]
    intake.submit(workplace.ledger, "dies", edits[:1], "tester")
    knowledge_update("dies", POLICY)
    review.approve(workplace, "dies")
    intake.submit(workplace.ledger, "dies", edits[1:], "tester")
    after_publishing(1, lambda: review.roll_back(workplace, "dies"))
    with monkeypatch.context() as patched, pytest.raises(LineBusy):
        patched.setattr(footing, "requeue", dies)
        knowledge_update("dies", POLICY)
    found = states(workplace, "dies")
    assert "rolled_back" in {found[edit.id] for edit in edits[1:]}
    summary = knowledge_update("dies", POLICY)
    assert summary.kept + summary.quarantined == len(edits) - 1
    assert states(workplace, "dies")[edits[0].id] == "rolled_back"  # by a person


def dies(*_):
    raise LineBusy("the machine was asleep")


def test_what_a_person_took_out_of_service_while_a_job_ran_stays_out(place, good_edits, after_publishing):
    workplace, edits = place("out"), good_edits[:4]

    def in_and_out():
        review.approve(workplace, "out")
        review.roll_back(workplace, "out", to=0, reason="complaints")

    intake.submit(workplace.ledger, "out", edits, "tester")
    after_publishing(1, in_and_out)
    with pytest.raises(HeadMoved):
        knowledge_update("out", POLICY)
    written = set(workplace.store.version("out", 1).manifest.request_ids)
    found = states(workplace, "out")
    assert {name for name, state in found.items() if state == "rolled_back"} == written
    assert set(found.values()) == {"rolled_back", "queued"}
    assert workplace.ledger.states("out")[min(written)].reason == "complaints"


def test_a_request_that_came_back_into_service_while_a_job_wrote_it_ends_no_job(place, good_edits, monkeypatch):
    workplace, edits = place("back"), good_edits[:3]
    intake.submit(workplace.ledger, "back", edits[:1], "tester")
    first = knowledge_update("back", POLICY).version
    review.approve(workplace, "back")
    review.roll_back(workplace, "back")
    intake.submit(workplace.ledger, "back", edits, "tester")
    publish, decided = workplace.store.publish, []

    def published(store, manifest, tensors):
        if not decided:
            decided.append(review.roll_back(workplace, "back", to=first))
        return publish(manifest, tensors)

    monkeypatch.setattr(type(workplace.store), "publish", published)
    with pytest.raises(HeadMoved):
        knowledge_update("back", POLICY)
    found = states(workplace, "back")
    assert found == {edits[0].id: "promoted", edits[1].id: "queued", edits[2].id: "queued"}


def test_a_look_writes_nothing(place, good_edits, monkeypatch):
    workplace = place("looking")
    intake.submit(workplace.ledger, "looking", good_edits[:2], "tester")
    knowledge_update("looking", POLICY)
    head = look(workplace.store, workplace.ledger, "looking")
    workplace.store.move_head("looking", head.waiting[-1], None, "promote", "killed", "")  # its events were left out
    before = workplace.ledger.history()
    assert standing.line_status(workplace, "looking").requests == {"promoted": 2}
    assert standing.waiting(workplace, "looking") == []
    assert workplace.ledger.history() == before


def refuses(error):
    def refuse(*_):
        raise error("away")

    return refuse


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [(Ledger, "write", LedgerError), (Workplace, "tracker", TrackingError)],
    ids=["ledger", "mlflow"],
)
def test_what_a_decision_could_not_say_it_warns_of_and_the_next_run_says(
    place, good_edits, monkeypatch, owner, name, error
):
    line = f"later-{name}"
    workplace = place(line)
    intake.submit(workplace.ledger, line, good_edits[:1], "tester")
    version = knowledge_update(line, POLICY).version
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, refuses(error))
        decision = review.approve(workplace, line)
    assert decision.head.version == version and f"`errata run {line}`" in decision.warning
    assert workplace.tracker().aliases(line) == {"challenger": version}
    assert knowledge_update(line, POLICY).report is None  # nothing is queued
    assert workplace.tracker().aliases(line) == {"champion": version}
    assert set(states(workplace, line).values()) == {"promoted"}


def test_storage_that_fails_once_anywhere_ends_no_job_and_nothing_is_lost_or_told_twice(place, good_edits, monkeypatch):
    workplace, edits = place("hiccup"), good_edits[:2]
    twice = edits[0].model_copy(update={"id": "twice"})
    intake.submit(workplace.ledger, "hiccup", [*edits, twice], "tester")
    monkeypatch.setitem(RETRIES, "retry_delay_seconds", 0)
    failed = set()

    def once(owner, name, error, *, after=False):
        real = getattr(owner, name)

        def failing(*arguments, **options):
            made = real(*arguments, **options) if after else None
            if name not in failed:
                failed.add(name)
                raise error("away")
            return made if after else real(*arguments, **options)

        monkeypatch.setattr(owner, name, failing)

    once(stages, "write_rejections", LedgerError, after=True)
    once(footing, "stand_still", StorageError)
    once(stages, "manifest_of", StorageError)
    once(stages, "publish", LedgerError, after=True)
    once(Ledger, "compact", LedgerError)
    summary = knowledge_update("hiccup", POLICY)
    assert failed == {"write_rejections", "stand_still", "manifest_of", "publish", "compact"}
    assert (summary.kept + summary.quarantined, summary.rejected) == (2, 1)
    assert [row.request_id for row in summary.report.edits if row.state == "rejected"] == ["twice"]
    assert len(workplace.store.versions("hiccup")) == len({row.version for row in summary.report.edits} - {None})
