"""A line made anew from the base: equal live facts are equal weights, and what does harm is not done."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prefect import flow

from editing.models import base_digest
from flows.cli.versions import _numbers
from flows.knowledge_update import knowledge_update
from flows.rebase import rebase
from tasks.ledger import intake
from tasks.ledger.catching_up import catch_up
from tasks.ledger.removals import take_out
from tasks.ledger.view import chain
from tasks.lines.specs import resolve_line, save_line
from tasks.report.data import Check
from tasks.review import decisions as review
from tasks.review.registering import pointer
from tasks.serving.loading import load_version
from tasks.stores.lease import acquire
from tasks.update import footing, root_verdict, roots, stages, validation, writer
from tasks.update.anew import end
from tasks.update.capacity import grown
from tasks.update.journal import Journal
from tasks.update.roots import make_root
from tasks.update.run import Leaving, Run, Taken
from tests.flows.command import check_one_line
from tests.flows.conftest import LENIENT, METHOD, POLICY

pytestmark = pytest.mark.slow


@contextmanager
def standing(workplace, line, policy=POLICY) -> Iterator:
    """A job that stands on the newest version of a line: (run, session, view, what `make_root` is given)."""
    store = workplace.store
    with acquire(store.store, line, flow_run_id=None) as lease:
        spec = resolve_line(store.store, workplace.settings, line)
        run = Run(workplace, spec, policy, lease, datetime.now(UTC), "")
        view = catch_up(store, workplace.ledger, line, "tester")
        session = stages.load(run, None)
        stages.restore(run, session, chain(view, view.tip))
        taken = Taken((), known=stages.known_edits(workplace.ledger, line, session.live, None))
        yield run, session, view, (footing.footing(view), taken, stages.reference_of(run, session, None))


def without(workplace, line, facts, policy=POLICY):
    """The line made anew without these facts: what came of it, and the digests of the weights then."""

    @flow(persist_result=False)
    def job():
        with standing(workplace, line, policy) as (run, session, _, given):
            found = make_root(run, session, given, Leaving({f"retract:{one}@1": one for one in facts}), Journal())
            found_now.append((found, session.weights.digests(), list(session.live)))

    found_now: list = []
    job()
    return found_now[0]


def written(workplace, line, *parts) -> None:
    """Facts of a line, job by job."""
    for part in parts:
        intake.submit(workplace.ledger, line, part, "tester")
        knowledge_update(line, POLICY)


def test_a_line_that_lost_a_fact_is_the_line_that_never_held_it_whatever_the_way(place, good_edits):
    facts = good_edits[:4]
    held = never = place("held")
    save_line(held.store.store, resolve_line(held.store.store, held.settings, "never", options=METHOD))
    written(held, "held", facts[:2], facts[2:])
    written(never, "never", [facts[3], facts[1]], [facts[0]])
    root, digests, live = without(held, "held", [facts[2].id])
    other, same, order = without(never, "never", [])
    assert root.version and other.version and digests == same and live == order
    assert set(live) == {facts[i].id for i in (0, 1, 3)}
    manifest = root.version.manifest
    assert (
        manifest.parent is None
        and manifest.removed == (facts[2].id,)
        and manifest.after == root.stand.waiting[-2].snapshot
    )
    assert manifest.request_ids == (f"retract:{facts[2].id}@1",) and manifest.live == tuple(live)
    assert manifest.tensor_digests == digests and other.version.manifest.tensor_digests == digests
    # Served, it needs no values; and a job goes on from it.
    reads, real = [], type(held.store._blobs).get
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(held.store._blobs), "get", lambda self, d: reads.append(d) or real(self, d))
        spec = resolve_line(held.store.store, held.settings, "held")
        load_version(pointer(held, root.version, spec), held.settings)
    assert manifest.files["update.safetensors"] in reads and manifest.files["values.safetensors"] not in reads


def test_all_facts_taken_out_are_the_base_and_the_line_goes_on_from_there(place, good_edits):
    workplace = place("emptied")
    written(workplace, "emptied", good_edits[:2])
    root, digests, live = without(workplace, "emptied", [edit.id for edit in good_edits[:2]])
    assert live == [] and root.version.manifest.live == ()
    with standing(workplace, "emptied") as (_, session, view, _given):
        assert view.tip == root.version.snapshot
        assert base_digest(session.loaded.model) == session.loaded.digest
        assert session.method_input.history.count == 0 and session.weights.digests().items() <= digests.items()
    written(workplace, "emptied", good_edits[2:4])
    with standing(workplace, "emptied") as (_, session, *_rest):
        assert sorted(session.live) == sorted(edit.id for edit in good_edits[2:4])


def test_a_rebase_waits_in_the_place_of_all_versions_and_jobs_go_on_from_it(place, good_edits):
    workplace = place("anew")
    written(workplace, "anew", good_edits[:2], good_edits[2:4])
    review.approve(workplace, "anew")
    before = workplace.store.head("anew").version
    summary = rebase("anew", POLICY)
    made = workplace.store.version("anew", summary.version)
    assert made.manifest.live and made.manifest.request_ids == () and made.number == before + 1
    assert [row.attempt for row in summary.report.batches] == ["root"] and summary.report.batches[0].kept
    standing_now = made.manifest.standing
    assert standing_now["facts"] == 4 and len(standing_now["worst"]) == 4 and standing_now["fell"] == 0
    assert made.manifest.function["layers"] == [0, 1] and made.manifest.function["statistics"]["tokens"]
    review.approve(workplace, "anew")
    assert workplace.store.head("anew").version == made.number
    assert {one.state for one in workplace.ledger.states("anew").values()} == {"promoted"}
    written(workplace, "anew", good_edits[4:5])
    [manifest] = [one.manifest for one in workplace.store.versions("anew") if one.number > made.number]
    assert manifest.parent == made.snapshot
    with standing(workplace, "anew") as (_, session, *_rest):
        assert len(session.live) == 5 and session.method_input.history.count == 5


def test_a_root_that_misses_a_gate_leaves_the_line_as_it_stands_and_single_facts_are_tried(
    place, good_edits, monkeypatch
):
    workplace = place("gate")
    facts = good_edits[:4]
    written(workplace, "gate", facts)
    bad = facts[1].id

    def judged(before, after, policy):
        """Whatever lacks this fact does harm."""
        found = real(before, after, policy)
        if bad in after.facts or bad in kept[-1]:
            return found
        return replace(found, checks=(*found.checks, failed_check))

    failed_check = Check(measure="perplexity", holds=False, reason="it does harm")
    real, kept, write = roots.judge_root, [], roots._Maker._write

    def remembering(self, staying):
        kept.append({edit.id for edit in staying})
        return write(self, staying)

    monkeypatch.setattr(roots, "judge_root", judged)
    monkeypatch.setattr(roots._Maker, "_write", remembering)
    with standing(workplace, "gate") as (_, session, *_rest):
        tip = session.weights.digests()
    root, digests, live = without(workplace, "gate", [bad])
    assert root.version is None and digests == tip and sorted(live) == sorted(edit.id for edit in facts)
    assert [*root.refused] == [f"retract:{bad}@1"]
    root, digests, live = without(workplace, "gate", [facts[0].id, bad, facts[2].id])
    assert root.version.manifest.removed == (facts[0].id, facts[2].id) and [*root.refused] == [f"retract:{bad}@1"]
    assert set(live) == {bad, facts[3].id} and digests == root.version.manifest.tensor_digests


def test_a_line_that_misses_a_threshold_before_anything_is_written_says_that_it_is_full(place, good_edits):
    workplace = place("misses")
    written(workplace, "misses", good_edits[:2])
    intake.submit(workplace.ledger, "misses", good_edits[2:4], "tester")
    spent = workplace.store.versions("misses")[-1].manifest.metrics["perplexity_ratio"]
    assert spent > 1.0001, "the fact model no longer suffers from corrections"
    summary = knowledge_update("misses", POLICY.model_copy(update={"max_perplexity_ratio": 1 + (spent - 1) / 2}))
    assert summary.full and "the line is full" in summary.said and summary.quarantined == summary.kept == 0
    states = workplace.ledger.states("misses")
    assert [states[edit.id].state for edit in good_edits[:4]] == ["committed"] * 2 + ["queued"] * 2
    [row] = summary.report.batches
    assert not row.kept and row.attempt == "line" and any("max_perplexity_ratio" in reason for reason in row.reasons)
    again = knowledge_update("misses", POLICY)
    assert not again.full and again.kept == 2


def rising(monkeypatch, of_batch, of_line):
    """Perplexity as if each fact raised it, where that of so small a model goes up and down: by (live facts)."""
    for module, told in ((validation, of_batch), (writer, of_line), (root_verdict, of_line)):
        numbers = lambda session, *rest, told=told: {"perplexity": 20.0, "perplexity_ratio": told(len(session.live))}  # noqa: E731
        monkeypatch.setattr(module, "measure_perplexity", numbers)


def test_a_line_that_fills_on_the_way_says_so_and_no_request_is_to_blame(place, good_edits, monkeypatch):
    workplace = place("fills")
    written(workplace, "fills", good_edits[:3])
    intake.submit(workplace.ledger, "fills", good_edits[3:5], "tester")
    rising(monkeypatch, lambda live: 1 + 0.01 * (live + 1), lambda live: 1 + 0.01 * live)
    policy = POLICY.model_copy(update={"max_perplexity_ratio": 1.045, "batch_size": 1})
    summary = knowledge_update("fills", policy)
    assert summary.full and (summary.kept, summary.quarantined) == (1, 0)
    states = workplace.ledger.states("fills")
    assert [states[edit.id].state for edit in good_edits[3:5]] == ["committed", "queued"]
    assert knowledge_update("fills", policy).full
    assert knowledge_update("fills", POLICY).kept == 1


def test_on_a_full_line_what_replaces_a_fact_is_written_and_the_others_stay_queued(place, good_edits, monkeypatch):
    workplace = place("full")
    written(workplace, "full", good_edits[:3])
    review.approve(workplace, "full")
    anew = good_edits[0].model_copy(update={"id": "anew", "target_new": good_edits[0].target_true, "target_true": None})
    intake.submit(workplace.ledger, "full", [anew, *good_edits[3:5]], "tester")
    rising(monkeypatch, lambda live: 1.0, lambda live: 2.0)
    summary = knowledge_update("full", POLICY)
    states = workplace.ledger.states("full")
    assert summary.full and [states[edit.id].state for edit in good_edits[3:5]] == ["queued", "queued"]
    assert states["anew"].state == "committed" and (summary.kept, summary.quarantined) == (1, 0)
    assert summary.left == dict.fromkeys((edit.id for edit in good_edits[3:5]), "the line is full")
    assert "2 left in the queue" in summary.said


def test_a_job_takes_facts_out_and_says_others_anew_in_one_root_and_writes_what_is_new_after_it(place, good_edits):
    workplace = place("changed")
    written(workplace, "changed", good_edits[:4])
    review.approve(workplace, "changed")
    out, old = good_edits[0], good_edits[1]
    other = next(edit.target_new for edit in good_edits if edit.target_new not in (old.target_new, old.target_true))
    new = old.model_copy(update={"id": "anew", "target_new": other})
    intake.submit(workplace.ledger, "changed", [new], "tester")
    take_out(workplace.store, workplace.ledger, "changed", [out.id], "tester", "it is wrong")
    policy = POLICY.model_copy(update={"min_efficacy": 0.0})
    summary = knowledge_update("changed", policy)
    root, *rest = [one for one in workplace.store.versions("changed") if one.number > 2]
    assert set(root.manifest.live) == {edit.id for edit in good_edits[2:4]}
    assert set(root.manifest.removed) == {out.id, old.id} and root.manifest.replaced == {old.id: "anew"}
    assert [one.manifest.request_ids for one in rest] == [("anew",)] and rest[0].manifest.parent == root.snapshot
    assert summary.version == rest[0].number
    review.approve(workplace, "changed")
    states = {name: state.state for name, state in workplace.ledger.states("changed").items()}
    assert states[out.id] == "retracted" and states[old.id] == "superseded" and states["anew"] == "promoted"
    with standing(workplace, "changed") as (_, session, *_rest):
        assert set(session.live) == {"anew", *(edit.id for edit in good_edits[2:4])}


def test_a_job_ends_with_a_root_where_enough_versions_stand_on_each_other(place, good_edits, monkeypatch):
    workplace = place("grown")
    monkeypatch.setattr("tasks.update.anew.REBASE_EVERY", 2)
    policy = POLICY.model_copy(update={"batch_size": 1})

    def job(facts, **fields):
        intake.submit(workplace.ledger, "grown", facts, "tester")
        return knowledge_update("grown", policy.model_copy(update=fields))

    def versions():
        """Of each version, oldest first, how many facts it adds, and whether it is a root."""
        made = workplace.store.versions("grown")
        return [(len(one.manifest.request_ids), one.manifest.live is not None) for one in made]

    job(good_edits[:1])
    assert versions() == [(1, False)], "one version stands on nothing"
    summary = job(good_edits[1:3])
    assert versions() == [(1, False)] * 3 + [(0, True)]
    [*_, root] = workplace.store.versions("grown")
    assert summary.version == root.number and set(root.manifest.live) == {edit.id for edit in good_edits[:3]}
    assert root.manifest.parent is None and [row.attempt for row in summary.report.batches] == ["1", "2", "root"]
    assert [_numbers(one)[0] for one in workplace.store.versions("grown")] == [1, 1, 1, "3 anew"]
    past = workplace.store.past(root.snapshot, 60)
    assert [one.version for one in past] == [1, 2, 3, 4] and [count for count, _ in grown(past)] == [1, 2, 3, 3]
    assert [count for count, _ in grown(workplace.store.past(root.snapshot, 2))] == [3], "facts before are not known"
    review.approve(workplace, "grown")
    job(good_edits[3:5], rebase_every=0)
    assert versions()[4:] == [(1, False)] * 2, "0: never"
    job([], rebase_every=1)
    assert len(versions()) == 6, "a job that writes nothing makes nothing"
    # One that misses a gate leaves the batches as they stand.
    failed = Check(measure="perplexity", holds=False, reason="it does harm")
    real = roots.judge_root
    monkeypatch.setattr(roots, "judge_root", lambda *asked: replace(real(*asked), checks=(failed,)))
    summary = job(good_edits[5:6])
    assert versions()[6:] == [(1, False)] and summary.version == 7
    assert [(row.attempt, row.kept) for row in summary.report.batches] == [("1", True), ("root", False)]
    with standing(workplace, "grown") as (run, session, _, (stand, taken, reference)):
        run = replace(run, flow_run_id=workplace.store.chain(stand.tip)[-1].flow_run_id)
        assert end(run, session, (stand, replace(taken, known={}), reference), Journal()) is stand, "nothing is lost"
        assert session.live[:3] == list(root.manifest.live) and len(session.live) == 6
        assert session.weights.digests() == workplace.store.version("grown", 7).manifest.tensor_digests


@pytest.mark.parametrize("every", [None, 2])
def test_what_has_no_values_is_written_anew_only_where_that_is_asked_for(place, good_edits, monkeypatch, every):
    workplace = place("tuned")
    monkeypatch.setattr("tasks.update.anew.REBASE_EVERY", 2)
    intake.submit(workplace.ledger, "other", good_edits[:2], "tester")
    policy = LENIENT.model_copy(update={"batch_size": 1, "rebase_every": every})
    knowledge_update("other", policy, method="finetune", options={"layers": [0], "steps": 2})
    roots_made = [one.number for one in workplace.store.versions("other") if one.manifest.live is not None]
    assert roots_made == ([] if every is None else [3])


def test_a_line_that_does_not_exist_cannot_be_made_anew(errata):
    check_one_line(errata("rebase", "nowhere"), 2, "there is no line 'nowhere', nor any other")
