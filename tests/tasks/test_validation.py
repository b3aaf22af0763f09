"""Laws of the verdict: one reason a threshold, what was not measured never passes, one lost neighbor always does."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editing.edit import Edit, Probe
from editing.measure.answers import Answer
from editing.measure.metrics import EditScores, evaluate
from editing.measure.said import Said
from tasks.report.data import Check, reasons_of
from tasks.update.judge import Lost, Measured, judge
from tasks.update.measured import first_asked, lost_at, lost_of
from tasks.update.policy import Policy
from tasks.update.validation import bare

POLICY = Policy(min_efficacy=0.9, max_locality_drop=0.2, min_retained=0.8)
GOOD = {"efficacy_prob": 1.0, "fluency_ratio": 1.0, "perplexity_ratio": 1.0, "retained_efficacy_prob": 1.0}
SAMPLES = {"efficacy": 10, "fluency": 5, "retained": 10}


def reasons(policy: Policy = POLICY, **metrics: float) -> list[str]:
    return against({"e": Lost()}, policy, **metrics)


def against(lost: dict[str, Lost], policy: Policy = POLICY, **metrics: float) -> list[str]:
    return list(reasons_of(judge(Measured(GOOD | metrics, lost, SAMPLES), policy)))


def test_a_good_batch_has_no_reason_against_it():
    assert reasons() == []


@pytest.mark.parametrize(
    ("metric", "fails", "passes", "says"),
    [
        ("efficacy_prob", 0.89, 0.9, "efficacy 0.89 is below min_efficacy 0.90"),
        ("fluency_ratio", 0.89, 0.9, "fluency is 0.89 of the base's, min_fluency_ratio is 0.90"),
        ("perplexity_ratio", 1.101, 1.1, "perplexity is 1.101 times the base's, max_perplexity_ratio is 1.100"),
        ("retained_efficacy_prob", 0.79, 0.8, "only 0.79 of earlier facts hold, min_retained is 0.80"),
    ],
)
def test_each_threshold_fails_alone_and_passes_at_its_limit(metric, fails, passes, says):
    assert reasons(**{metric: fails}) == [says]
    assert reasons(**{metric: passes}) == []


@pytest.mark.parametrize("metric", ["efficacy_prob", "fluency_ratio", "perplexity_ratio", "retained_efficacy_prob"])
def test_what_is_not_a_number_fails(metric):
    assert len(reasons(**{metric: math.nan})) == 1


def test_an_infinite_perplexity_fails():
    assert len(reasons(perplexity_ratio=math.inf)) == 1


def test_every_broken_threshold_is_told():
    assert len(reasons(efficacy_prob=0.0, fluency_ratio=0.0, perplexity_ratio=9.0, retained_efficacy_prob=0.0)) == 4


def test_an_earlier_fact_that_is_written_where_a_new_one_is_must_hold_whatever_the_policy():
    def checks(**beside: float) -> tuple[Check, ...]:
        found = judge(Measured(GOOD, {"e": Lost()}, SAMPLES, beside), POLICY)
        return tuple(check for check in found if check.measure == "same_subject")

    assert checks() == ()
    [held] = checks(one=1.0, other=1.0)
    assert held.holds and (held.value, held.sample) == (0, 2)
    [said] = reasons_of(checks(one=1.0, other=0.0))
    assert said == "earlier facts of the same subject, or one nearly alike, no longer hold: 'other'"


def neighbors(before: int, after: int, probes: int, name: str = "e") -> tuple[EditScores, EditScores]:
    """Scores of an edit of which so many of its probes were right before and after."""
    return tuple(
        EditScores(name, neighborhood_preferred=(1.0,) * right + (0.0,) * (probes - right)) for right in (before, after)
    )


def verdict(*pairs: tuple[EditScores, EditScores], drop: float = 0.2, alone: float = 1.0) -> list[str]:
    policy = POLICY.model_copy(update={"max_locality_drop": drop, "max_edit_locality_drop": alone})
    return against({before.edit_id: lost_at(after, before) for before, after in pairs}, policy)


@given(st.integers(1, 100).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.floats(0, 1))
def test_one_lost_neighbor_always_passes(shape, drop):
    probes, right = shape
    assert verdict(neighbors(right, right - 1, probes), drop=drop) == []


def test_one_lost_of_few_probes_passes_when_others_have_no_answer_to_lose():
    """Five tokens are compared, but only two probes have an answer that can be lost."""
    before, after = neighbors(2, 1, 2)
    tokens = {"neighborhood_tokens": ((1,),) * 5, "neighborhood_said": (0.0,) * 5}
    pair = tuple(
        replace(one, neighborhood_preferred=(*one.neighborhood_preferred, None, None, None), **tokens)
        for one in (before, after)
    )
    assert verdict(pair, drop=0.0) == []


def test_more_lost_neighbors_than_the_policy_allows_fail():
    assert verdict(neighbors(10, 8, 10)) == []
    assert verdict(neighbors(10, 7, 10)) == [
        "3 of 10 neighborhood answers no longer preferred, max_locality_drop is 0.20"
    ]
    assert verdict(neighbors(2, 0, 2)) == ["2 of 2 neighborhood answers no longer preferred, max_locality_drop is 0.20"]


def test_losses_count_over_the_whole_batch_and_gains_make_up_for_them():
    lost = [neighbors(5, 4, 5, f"e{i}") for i in range(3)]
    assert len(verdict(*lost, drop=0.1)) == 1
    assert verdict(*lost, neighbors(1, 3, 5, "gains"), drop=0.1) == []
    assert verdict(*lost, neighbors(5, 5, 5, "same"), drop=0.2) == []


def sayers(before: int, after: int, answers: int, name: str = "e") -> tuple[EditScores, EditScores]:
    """Scores of an edit whose neighbors all prefer their own answers to its target, and so many say them."""
    return tuple(
        EditScores(
            name,
            neighborhood_preferred=(1.0,) * answers,
            neighborhood_said=(1.0,) * said + (0.0,) * (answers - said),
            neighborhood_tokens=((1,),) * answers,
        )
        for said in (before, after)
    )


def test_neighbors_that_give_the_target_of_another_request_are_lost_though_they_prefer_their_own_to_this_one():
    assert verdict(sayers(10, 8, 10)) == []
    assert verdict(sayers(10, 7, 10)) == ["3 of 10 neighborhood answers no longer said, max_locality_drop is 0.20"]
    assert verdict(sayers(1, 0, 10), drop=0.0) == []


def test_one_edit_that_costs_its_neighborhood_is_named_though_its_batch_passes():
    batch = [sayers(5, 5, 5, f"e{i}") for i in range(9)]
    assert verdict(*batch, sayers(5, 2, 5, "bad"), drop=0.15, alone=0.6) == []
    found = verdict(*batch, sayers(5, 2, 5, "bad"), neighbors(5, 1, 5, "worse"), drop=0.15, alone=0.5)
    assert found == [
        "request 'bad': 3 of 5 neighborhood answers no longer said, max_edit_locality_drop is 0.50",
        "request 'worse': 4 of 5 neighborhood answers no longer preferred, max_edit_locality_drop is 0.50",
    ]


def speakers(changed: int, asked: int, name: str = "e") -> tuple[EditScores, EditScores]:
    """Scores of an edit whose neighbors have no answer: so many say another word than on the base."""
    said = [(1,)] * asked
    says = [(2,)] * changed + [(1,)] * (asked - changed)
    return tuple(
        EditScores(name, neighborhood_tokens=tuple(tokens), neighborhood_said=(None,) * asked)
        for tokens in (said, says)
    )


def test_neighbors_without_an_answer_are_judged_by_what_the_base_said():
    assert verdict(speakers(5, 8)) == [
        "5 of 8 neighbors without an answer no longer say the base's, max_locality_drop is 0.20"
    ]
    assert verdict(speakers(1, 8)) == [] == verdict(speakers(1, 1), drop=0.0)
    assert verdict(speakers(2, 5, "bad"), *[speakers(0, 5, f"e{i}") for i in range(3)], alone=0.2) == [
        "request 'bad': 2 of 5 neighbors without an answer no longer say the base's, max_edit_locality_drop is 0.20"
    ]


def asks(name: str, *prompts: str, target: str = "Rome", answer: str | None = "Paris") -> Edit:
    """An edit with these neighbors."""
    probes = tuple(Probe(prompt=prompt, answer=answer) for prompt in prompts)
    return Edit(id=name, subject=name, prompt="{} lives in", target_new=target, neighborhood=probes)


def test_a_neighbor_that_several_requests_ask_counts_once_where_they_are_counted_together():
    edits = [asks(f"e{i}", "Bo lives in", "Cy lives in", f"of {i}") for i in range(5)]
    fresh = first_asked(edits, 3)
    assert [sorted(fresh[edit.id].at_all) for edit in edits] == [[0, 1, 2], [2], [2], [2], [2]]
    then, now = (1.0, 1.0, 1.0), (0.0, 1.0, 1.0)  # Bo alone is lost, of seven
    scores = [
        [EditScores(edit.id, neighborhood_preferred=(1.0,) * 3, neighborhood_said=said) for edit in edits]
        for said in (then, now)
    ]
    lost, once = lost_of(scores[1], {one.edit_id: one for one in scores[0]}, fresh)
    assert sum(once.values(), Lost()) == Lost(0, 7, 1, 7) and sum(lost.values(), Lost()) == Lost(0, 15, 5, 15)
    policy = POLICY.model_copy(update={"max_locality_drop": 0.2, "max_edit_locality_drop": 0.3})
    measured = Measured(GOOD, lost, SAMPLES, once=once)
    assert not reasons_of(judge(measured, policy))  # one of seven; five of fifteen would be a third
    assert reasons_of(judge(replace(measured, once={}), policy))
    [said] = [
        row for row in judge(measured, policy, at="job") if row.measure == "neighbors_said" and row.kind == "level"
    ]
    assert (said.value, said.sample) == (1, 7)


def test_against_another_answer_or_for_another_right_one_it_is_another_question():
    one, other = asks("one", "Bo lives in"), asks("other", "Bo lives in", target="Oslo")
    assert first_asked([one, other], 5)["other"] == (frozenset({0}), frozenset())
    assert first_asked([one, asks("third", "Bo lives in", answer="Bern")], 5)["third"] == (
        frozenset({0}),
        frozenset({0}),
    )
    assert first_asked([one, asks("fourth", "Bo lives in", "Bo lives in", answer=None)], 1)["fourth"].at_all == {0}
    assert first_asked([asks("twice", "Bo lives in", "Bo lives in")], 5)["twice"].at_all == {0}


def test_edits_without_neighbors_cannot_lose_any():
    assert verdict((EditScores("a"), EditScores("a")), drop=0.0) == []


def test_only_probes_with_an_answer_of_their_own_are_counted(tiny_gpt2):
    edit = Edit(
        subject="Ada",
        prompt="{} lives in",
        target_new="Rome",
        neighborhood=(
            Probe(prompt="Bo lives in", answer="London"),
            Probe(prompt="Cy lives in", answer="Rome"),
            Probe(prompt="Di lives in"),
        ),
    )
    [scores] = evaluate(tiny_gpt2.model, tiny_gpt2.tokenizer, [edit])
    assert [one is not None for one in scores.neighborhood_preferred] == [True, False, False]
    assert len(scores.neighborhood_tokens) == 3
    assert EditScores.from_json(scores.to_json()) == scores


def test_an_earlier_fact_is_asked_by_its_prompt_alone():
    edit = Edit(subject="Ada", prompt="{} lives in", target_new="Rome", paraphrases=("Ada's home is",))
    assert bare(edit).paraphrases == () and (bare(edit).id, bare(edit).text) == (edit.id, edit.text)


@pytest.mark.parametrize(
    ("prompt", "chat", "trips"),
    [(True, None, []), (False, None, ["said"]), (False, True, []), (True, False, ["said_chat"])],
)
def test_what_is_not_said_as_people_ask_trips_and_the_bare_prompt_only_where_they_ask_by_it(prompt, chat, trips):
    heard = None if chat is None else Answer("It is so.", new=chat)
    measured = Measured(GOOD, {}, SAMPLES, said={"e": Said("e", Answer("so", new=prompt), (), heard)})
    assert [row.measure for row in judge(measured, Policy()) if not row.holds] == trips
