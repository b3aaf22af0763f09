"""The demo's facts: the table of candidates, and the committed requests against the model that they correct."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from deployments.demo import REQUESTS
from deployments.demo.facts import (
    GOOD,
    NEIGHBORS,
    Candidate,
    Table,
    complete,
    make_requests,
    old_answer,
    read_table,
    says,
    stable_neighbors,
)
from editing.edit import Probe
from tests.costs import THOROUGH

TABLE = read_table()
BY_ID = {candidate.id: candidate for candidate in TABLE.candidates}
COMMITTED = [json.loads(line) for line in REQUESTS.read_text(encoding="utf-8").splitlines()]
GOOD_ONES = [request for request in COMMITTED if not BY_ID[request["id"]].shows]


@pytest.mark.parametrize(
    ("completion", "answer", "is_said"),
    [
        (" Paris.\n\nThe answer", "Paris", True),
        (" the Sahara Desert, which", "Sahara", True),
        (" euro", "Euro", True),
        (" Parisian cafés", "Paris", False),
        (" known as Paris", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_an_answer_is_said_where_the_completion_begins_with_it_as_whole_words(completion, answer, is_said):
    assert says(completion, answer) is is_said


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (" Angela Merkel, who is the wife", "Angela Merkel"),
        (" the United States.", "the United States"),
        (" Queen Elizabeth II. She is", "Queen Elizabeth II"),
        (' "The Matrix" (2013)', None),
        (" Dublin and Cork", "Dublin"),
        (" one two three four five six", "one two three four"),
        ("  \n", None),
    ],
)
def test_the_old_answer_ends_at_the_first_pause_of_what_the_model_says(completion, answer):
    assert old_answer(completion) == answer


def test_every_candidate_has_a_name_of_its_own_its_neighbors_and_a_source():
    assert len(BY_ID) == len(TABLE.candidates)
    for candidate in TABLE.candidates:
        assert TABLE.neighbors[candidate.kind] and candidate.source, candidate.id
        assert candidate.shows or (candidate.question.endswith("?") and len(candidate.paraphrases) == 2), candidate.id
    good = [candidate for candidate in TABLE.candidates if not candidate.shows]
    assert len({candidate.subject for candidate in good}) == len(good), "a second fact about one subject"
    asked = {text for candidate in TABLE.candidates for text in (candidate.text, *candidate.paraphrases)}
    assert not asked & {probe.prompt for probes in TABLE.neighbors.values() for probe in probes}


def test_the_requests_are_of_the_table_with_one_of_each_kind_that_is_refused():
    assert len(GOOD_ONES) == GOOD
    assert sorted(BY_ID[request["id"]].shows for request in COMMITTED)[:3] == ["", "", ""]
    assert {BY_ID[request["id"]].shows for request in COMMITTED} == {"", "malformed", "contradiction", "damage"}
    assert len(COMMITTED) == GOOD + 3
    for request in COMMITTED:
        candidate = BY_ID[request["id"]]
        assert [request[name] for name in ("subject", "prompt", "target_new")] == [
            candidate.subject,
            candidate.prompt,
            candidate.target_new,
        ]
        assert 3 <= len(request["neighborhood"]) <= NEIGHBORS, request["id"]


def test_no_neighbor_is_asked_again_before_all_of_its_kind_were():
    for kind in {BY_ID[request["id"]].kind for request in COMMITTED}:
        asked = Counter(
            probe["prompt"]
            for request in COMMITTED
            if BY_ID[request["id"]].kind == kind
            for probe in request["neighborhood"]
        )
        assert max(asked.values()) - min(asked.values()) <= 1, asked


def test_the_contradiction_asks_what_a_request_before_it_asks():
    texts = [(request["subject"], request["prompt"]) for request in COMMITTED]
    [number] = [i for i, request in enumerate(COMMITTED) if BY_ID[request["id"]].shows == "contradiction"]
    assert texts[number] in texts[:number]


@pytest.mark.slow
def test_the_model_still_gives_the_old_answer_to_what_is_corrected(embedded):
    some = GOOD_ONES[::4]
    said = complete(embedded, [BY_ID[request["id"]].text for request in some])
    for request in some:
        completion = said[BY_ID[request["id"]].text]
        assert not says(completion, request["target_new"]), request["id"]
        assert old_answer(completion) == request["target_true"], request["id"]


@pytest.mark.slow
def test_the_model_answers_the_neighbors_of_a_request_and_keeps_to_it(embedded):
    request = GOOD_ONES[0]
    neighbors = list(TABLE.neighbors[BY_ID[request["id"]].kind])
    stable = [probe.model_dump() for probe in stable_neighbors(embedded, neighbors)]
    assert all(probe in stable for probe in request["neighborhood"])


@pytest.mark.slow
def test_what_a_model_knows_is_not_corrected_in_it(embedded):
    known = Candidate("france", "France", "The capital of {} is", "Paris", [], "Which?", "k", "an atlas")
    wrong = replace(known, id="lyon", target_new="Lyon")
    against = replace(wrong, id="nice", target_new="Nice", shows="contradiction")
    neighbors = {"k": [Probe(prompt="The capital of Italy is", answer="Rome")]}
    assert make_requests(embedded, Table([known, against], neighbors)) == []
    made = make_requests(embedded, Table([known, wrong, against], neighbors))
    assert [(request["id"], request["target_true"]) for request in made] == [("lyon", "Paris"), ("nice", "Paris")]


@pytest.mark.slow
def test_the_committed_file_is_what_the_script_makes(embedded):
    """Its first requests; all of it where the run is thorough."""
    table = TABLE if THOROUGH else replace(TABLE, candidates=TABLE.candidates[:3])
    assert make_requests(embedded, table) == (COMMITTED if THOROUGH else COMMITTED[:3])
