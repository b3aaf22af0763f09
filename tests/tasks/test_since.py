"""A batch answers for what earlier facts still say, not only for which answer is the likelier one."""

from dataclasses import replace

import pytest

from editing.edit import Edit
from editing.methods import compute_update, method_config
from tasks.lines.specs import LineSpec
from tasks.settings import Settings
from tasks.update.policy import Policy
from tasks.update.root_verdict import Asked, judge_root
from tasks.update.run import Reference
from tasks.update.session import Session, open_session
from tasks.update.since import still_said
from tasks.update.validation import validate_batch
from tasks.update.verdicts import Verdict
from tests.fact_model import fact_edits

POLICY = Policy(
    fluency_tokens=4, perplexity_tokens=64, max_perplexity_ratio=9, max_locality_drop=1, min_fluency_ratio=0
)


@pytest.fixture(scope="module")
def session(fact_model_path, tmp_path_factory) -> Session:
    search = {"clamp": 4.0, "steps": 30, "weight_decay": 0, "kl_weight": 0}
    fields = {"layers": [0, 1], "contexts": 2, "statistics_tokens": 2048, "statistics_weight": 100, "search": search}
    spec = LineSpec(line="main", model=str(fact_model_path), config=method_config("memit", fields))
    return open_session(spec, Settings(cache=tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def known() -> list[Edit]:
    """What the model says, as earlier batches might have written it: the old answers are far less likely."""
    return [
        Edit(id=f"earlier-{one.id}", subject=one.subject, prompt=one.prompt, target_new=one.target_true,
             target_true="xylophone")
        for one in fact_edits(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def verdicts(session, known) -> dict[str, Verdict]:
    """Of a batch that has one of two known facts say something else, and of one that changes nothing after it."""
    changed, earlier = fact_edits(2)[0], known
    batch, told = [changed.model_copy(update={"neighborhood": (), "paraphrases": ()})], Reference(1e9, session.held_out)
    silent = POLICY.model_copy(update={"tripwires": POLICY.tripwires.model_copy(update={"said": None})})
    undo = session.weights.apply(
        compute_update(session.method_input, batch, session.values(batch), session.config).update
    )
    try:
        nothing = session.weights.put({n: session.loaded.model.get_parameter(n).data for n in session.weights.base})
        return {
            "spared": validate_batch(session, batch, earlier, told, POLICY, earlier, undo=nothing),
            "blamed": validate_batch(session, batch, earlier, told, POLICY, earlier, undo=undo),
            "likelier": validate_batch(session, batch, earlier, told, silent, earlier, undo=undo),
        }
    finally:
        session.weights.revert(undo)


def rows(verdict: Verdict) -> dict[str, tuple[float | None, int | None, bool]]:
    names = ("retained", "retained_said", "same_subject")
    return {row.measure: (row.value, row.sample, row.holds) for row in verdict.checks if row.measure in names}


@pytest.mark.slow
def test_a_fact_that_is_no_longer_said_is_lost_though_its_answer_is_likelier_than_the_old_one(verdicts):
    assert rows(verdicts["blamed"]) == {
        "retained": (1.0, 2, True),
        "retained_said": (0.5, 2, False),
        "same_subject": (1, 2, False),
    }
    assert "only 0.50 of the earlier facts that hold are still said, min_retained is 0.90" in verdicts["blamed"].reasons


@pytest.mark.slow
def test_a_batch_does_not_answer_for_what_was_no_longer_said_before_it(verdicts):
    assert rows(verdicts["spared"]) == {
        "retained": (1.0, 2, True),
        "retained_said": (1.0, 2, True),
        "same_subject": (0, 2, True),
    }


def test_what_is_said_decides_only_where_a_policy_undoes_a_batch_for_it(verdicts):
    assert rows(verdicts["likelier"]) == {"retained": (1.0, 2, True), "same_subject": (0, 2, True)}


def test_a_root_keeps_what_was_said_before_it(session, known):
    scores = {one.edit_id: one for one in session.scores(known)}
    false = known[1].model_copy(update={"id": "false", "target_new": "xylophone"})
    assert still_said(session, [*known, false]) == {one.id for one in known}
    before = Asked(scores, {}, {"perplexity_ratio": 1.0, "fluency_ratio": 1.0}, 1, frozenset(scores))
    assert judge_root(before, before, POLICY).passed
    silent = judge_root(before, replace(before, says=frozenset([known[0].id])), POLICY)
    assert silent.reasons == ("only 0.50 of the earlier facts that hold are still said, min_retained is 0.90",)
    assert judge_root(replace(before, says=None), replace(before, says=None), POLICY).passed
