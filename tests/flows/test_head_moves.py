"""Decisions while a job runs: the job goes on, or stops and says so; HEAD, ledger and aliases agree at its end."""

import pytest

from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.ledger.view import look
from tasks.review import decisions as review
from tasks.review import standing
from tasks.stores.errors import HeadMoved
from tasks.update import stages
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
