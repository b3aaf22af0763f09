"""Several corrections of one subject, in one job and over several: all of them are said, and none costs another."""

import re

import pytest

from editing.edit import Edit
from editing.methods import alike
from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.lines.specs import read_line
from tasks.update.saying import shown
from tasks.update.session import open_session
from tests.fact_model import FACTS, PERSON_RELATIONS, PERSONS
from tests.flows.conftest import POLICY

pytestmark = pytest.mark.slow

POLICY_OF_ONE = POLICY.model_copy(update={"retained_sample": 0})


def corrections(person: str) -> list[Edit]:
    """New answers about one person in two relations, whose prompts all begin with the name."""
    known = {fact.relation.name: fact for fact in FACTS if fact.subject == person}
    return [
        Edit(
            subject=person,
            prompt=relation.templates[0],
            target_new=next(answer for answer in relation.answers[3:] if answer != known[relation.name].answer),
            target_true=known[relation.name].answer,
        )
        for relation in PERSON_RELATIONS[:2]
    ]


def elsewhere(person: str) -> Edit:
    """A new answer about a person whose name does not begin the prompt."""
    relation = PERSON_RELATIONS[2]
    [known] = [fact for fact in FACTS if (fact.subject, fact.relation) == (person, relation)]
    new = next(answer for answer in relation.answers[3:] if answer != known.answer)
    return Edit(subject=person, prompt=relation.templates[1], target_new=new, target_true=known.answer)


def said(workplace, line: str, edits: list[Edit]) -> list[str]:
    """The first word that the newest version says to each."""
    store = workplace.store
    session = open_session(read_line(store.store, line), workplace.settings, only_asked=True)
    newest = max(store.versions(line), key=lambda version: version.number)
    session.restore((one, store.tensors(one)) for one in store.chain(newest.snapshot))
    return [answer.split()[0].rstrip(".") for answer in shown(session, [edit.text for edit in edits])]


def test_facts_that_are_hard_to_tell_apart_are_named_before_they_are_written(place, monkeypatch):
    # How alike keys are in so small a model differs from machine to machine.
    monkeypatch.setattr(alike, "NEAR_COSINE", 0.0)
    workplace, line = place("alike"), "alike"
    first, second = corrections(PERSONS[3])[0], elsewhere(PERSONS[3])
    for edit, names in ((first, []), (second, [first.id])):
        intake.submit(workplace.ledger, line, [edit], "tester")
        [row] = knowledge_update(line, POLICY_OF_ONE).report.edits
        events = workplace.ledger.history(edit.id, None, line, 20)
        [written] = [event for event in events if event.event == "applied"]
        assert row.findings == () and written.reason == ("; ".join(row.alike) or None)
        told = [re.search(r"after another beginning in request .(\S+). \(0\.", one) for one in row.alike]
        assert [one[1] for one in told] == names


def test_all_facts_of_a_subject_are_said_however_they_come(place):
    workplace, line = place("same-subject"), "same-subject"
    together, spread = corrections(PERSONS[3]), corrections(PERSONS[8])
    for edits in ([*together, spread[0]], spread[1:]):
        intake.submit(workplace.ledger, line, edits, "tester")
        summary = knowledge_update(line, POLICY_OF_ONE)
        assert (summary.kept, summary.quarantined) == (len(edits), 0), summary.report.batches
    # The second fact of a subject has the first one's key: a group, of which nothing is to be told.
    assert not any(edit.alike for edit in summary.report.edits)
    [row] = [check for check in summary.report.batches[0].checks if check.measure == "same_subject"]
    assert (row.sample, row.value, row.holds) == (1, 0, True)
    everything = [*together, *spread]
    assert said(workplace, line, everything) == [edit.target_new for edit in everything]
