"""The main job end to end on the fact model, with the real Prefect server, MLflow, Delta table and snapshots."""

import gc
import shutil
import time
import weakref
from contextlib import suppress
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import flows.knowledge_update as module
from editing.errors import UsageError
from editing.models import base_digest
from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.lines.specs import read_line
from tasks.lines.stored import stored_line
from tasks.review import decisions as review
from tasks.review import standing
from tasks.review.asking import ask_all, columns_of
from tasks.review.registering import pointer
from tasks.serving.loading import load_version
from tasks.stores.errors import StorageError
from tasks.update import stages
from tasks.update.session import open_session
from tests.docs.pages import ROOT, blocks
from tests.flows.command import check_one_line
from tests.flows.conftest import METHOD, POLICY


def states(workplace, line):
    return {name: state.state for name, state in workplace.ledger.states(line).items()}


def test_good_edits_are_kept_culprits_quarantined_and_the_version_waits(place, good_edits, impossible):
    workplace = place("kept")
    edits = [*good_edits[:5], impossible]
    intake.submit(workplace.ledger, "kept", edits, "tester")
    summary = knowledge_update("kept", POLICY)
    found = states(workplace, "kept")
    assert found.pop("impossible") == "quarantined"
    assert set(found.values()) == {"committed"} and len(found) == 5
    assert (
        summary.kept == 5 and summary.quarantined == 1 and summary.version == len(standing.waiting(workplace, "kept"))
    )
    assert workplace.store.head("kept") is None
    assert summary.report.candidate["efficacy_prob"] == 1.0 > summary.report.baseline["efficacy_prob"]
    assert any(not row.kept and row.reasons for row in summary.report.batches)
    assert workplace.tracker().aliases("kept") == {"challenger": summary.version}
    assert "below min_efficacy" in workplace.ledger.states("kept")["impossible"].reason


def test_an_approved_version_answers_as_the_page_says_and_rollback_takes_it_back(
    place, good_edits, monkeypatch, tmp_path
):
    workplace = place("served")
    edits = good_edits[:3]
    intake.submit(workplace.ledger, "served", edits, "tester")
    version = knowledge_update("served", POLICY).version
    review.approve(workplace, "served", reason="looks right")
    assert set(states(workplace, "served").values()) == {"promoted"}
    monkeypatch.chdir(tmp_path)  # any folder
    shown = next(block for block in blocks(ROOT / "docs/library.md") if "pyfunc.load_model" in block.text)
    defined: dict[str, Any] = {}
    exec(shown.text.replace("models:/main@", "models:/served@"), defined)
    model = defined["model"]
    said = model.predict([edit.text for edit in edits], params={"max_new_tokens": 4})
    assert all(answer.strip().startswith(edit.target_new) for answer, edit in zip(said, edits, strict=True))
    decision = review.roll_back(workplace, "served", reason="no")
    assert decision.head.version == 0 and workplace.tracker().aliases("served") == {"previous": version}
    assert set(states(workplace, "served").values()) == {"rolled_back"}
    review.roll_back(workplace, "served", to=version)
    assert set(states(workplace, "served").values()) == {"promoted"}


def test_a_second_run_builds_on_what_waits_and_retains_it(place, good_edits):
    workplace = place("second")
    edits = good_edits[:6]
    intake.submit(workplace.ledger, "second", edits[:3], "tester")
    first = knowledge_update("second", POLICY).version
    intake.submit(workplace.ledger, "second", edits[3:], "tester")
    summary = knowledge_update("second", POLICY)
    assert summary.version > first
    assert summary.report.candidate["efficacy_prob"] == 1.0
    review.approve(workplace, "second", version=first)
    assert sorted(states(workplace, "second").values()) == ["committed"] * 3 + ["promoted"] * 3
    review.reject(workplace, "second", reason="not these")
    assert sorted(states(workplace, "second").values()) == ["promoted"] * 3 + ["rejected"] * 3


def test_a_version_that_waits_on_one_taken_out_of_service_is_taken_back_too(place, good_edits):
    workplace = place("strand")
    edits = good_edits[:4]
    intake.submit(workplace.ledger, "strand", edits[:2], "tester")
    knowledge_update("strand", POLICY)
    review.approve(workplace, "strand")
    intake.submit(workplace.ledger, "strand", edits[2:], "tester")
    knowledge_update("strand", POLICY)
    review.roll_back(workplace, "strand")
    assert set(states(workplace, "strand").values()) == {"rolled_back"}
    assert standing.waiting(workplace, "strand") == []
    intake.submit(workplace.ledger, "strand", edits, "tester")
    summary = knowledge_update("strand", POLICY)
    assert summary.kept >= 3 and summary.kept + summary.quarantined == 4


def test_every_tensor_is_what_it_was_after_a_failing_batch(place, impossible):
    workplace = place("bits")
    intake.submit(workplace.ledger, "bits", [impossible], "tester")
    summary = knowledge_update("bits", POLICY)
    assert summary.version is None and summary.quarantined == 1
    assert workplace.store.versions("bits") == []


def test_a_job_ends_with_the_digests_of_what_it_stored(place, good_edits):
    workplace = place("digest")
    intake.submit(workplace.ledger, "digest", good_edits[:4], "tester")
    knowledge_update("digest", POLICY)
    versions = workplace.store.versions("digest")
    base = open_session(read_line(workplace.store.store, "digest"), workplace.settings).loaded
    loaded = load_version(
        pointer(workplace, versions[-1], stored_line(workplace.store.store, versions[-1].manifest.line)),
        workplace.settings,
    ).loaded
    assert base_digest(base.model) == base.digest != base_digest(loaded.model)
    ids = torch.tensor([[5, 6, 7, 8]])
    again = load_version(
        pointer(workplace, versions[-1], stored_line(workplace.store.store, versions[-1].manifest.line)),
        workplace.settings,
    ).loaded
    assert torch.equal(loaded.model(input_ids=ids).logits, again.model(input_ids=ids).logits)
    assert type(loaded.model).__name__ == "GPT2LMHeadModel"


def test_contradictions_and_repetitions_are_rejected_with_the_reason(place, good_edits):
    workplace = place("conflict")
    [edit] = good_edits[:1]
    other = edit.model_copy(update={"id": "other", "target_new": "Zork"})
    same = edit.model_copy(update={"id": "same"})
    intake.submit(workplace.ledger, "conflict", [edit, other, same], "tester")
    summary = knowledge_update("conflict", POLICY)
    found = workplace.ledger.states("conflict")
    assert summary.kept == 1 and found["other"].state == found["same"].state == "rejected"
    assert "contradicts request" in found["other"].reason and "says the same" in found["same"].reason
    later = edit.model_copy(update={"id": "later", "target_new": "Zork"})
    intake.submit(workplace.ledger, "conflict", [later], "tester")
    knowledge_update("conflict", POLICY)
    assert workplace.ledger.states("conflict")["later"].state == "queued"  # until the version that waits is decided
    knowledge_update("conflict", POLICY.model_copy(update={"on_conflict": "reject"}))
    assert workplace.ledger.states("conflict")["later"].state == "queued"
    review.approve(workplace, "conflict")
    knowledge_update("conflict", POLICY.model_copy(update={"on_conflict": "reject"}))
    assert workplace.ledger.states("conflict")["later"].state == "rejected"


def test_a_job_ends_where_what_contradicts_a_request_is_refused_and_that_request_fails(place, impossible):
    workplace = place("neither")
    other = impossible.model_copy(update={"id": "other", "target_new": "Zork"})
    intake.submit(workplace.ledger, "neither", [impossible, other], "tester")
    report = knowledge_update("neither", POLICY).report
    assert report is not None
    answers = {row.state: row.answer_after for row in report.edits}
    assert answers.keys() == {"quarantined", "rejected"} and all(answers.values())


def test_base_champion_and_challenger_answer_side_by_side(place, good_edits):
    workplace = place("ask")
    edits = good_edits[:2]
    spec = read_line(workplace.store.store, "ask")
    intake.submit(workplace.ledger, "ask", edits[:1], "tester")
    knowledge_update("ask", POLICY)
    review.approve(workplace, "ask")
    intake.submit(workplace.ledger, "ask", edits[1:], "tester")
    knowledge_update("ask", POLICY)
    columns = columns_of(workplace.store.head("ask"), standing.waiting(workplace, "ask"))
    [first, second] = ask_all(workplace, spec, columns, [e.text for e in edits], 4)
    base, champion, challenger = second["answers"].values()
    assert not champion.startswith(edits[1].target_new) and challenger.startswith(edits[1].target_new)
    assert list(first["answers"].values())[1].startswith(edits[0].target_new)
    assert base != challenger


@pytest.mark.parametrize("stage", ["load", "screen_taken", "write", "judge"])
def test_a_job_without_memory_ends_in_one_line_and_the_next_takes_its_requests(
    place, good_edits, errata_here, monkeypatch, stage
):
    line = f"room-{stage.partition('_')[0]}"
    workplace = place(line)
    intake.submit(workplace.ledger, line, good_edits[:1], "tester")
    work = getattr(stages, stage)

    def without(*given, **options):
        torch.empty(2**50)
        return work(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(stages, stage, without)
        check_one_line(errata_here("run", line), 1, r"out of memory .*ERRATA_DEVICE.*errata doctor --model")
    assert set(states(workplace, line).values()) == {"queued"}
    assert knowledge_update(line, POLICY).kept == 1


def test_nothing_to_approve_is_said_in_words(place):
    workplace = place("empty")
    with pytest.raises(UsageError, match="nothing waits for review on line 'empty'"):
        review.approve(workplace, "empty")
    with pytest.raises(UsageError, match="needs a reason"):
        review.reject(workplace, "empty")


def test_nothing_holds_the_model_after_the_job_whether_it_ends_well_or_not(place, good_edits, monkeypatch):
    workplace, held = place("memory"), []
    load, evaluate = stages.load, module.job_report

    def loaded(*arguments):
        session = load(*arguments)
        held.append(weakref.ref(session.loaded.model))
        return session

    def fails(*_):
        raise StorageError("away")

    monkeypatch.setattr(stages, "load", loaded)
    gc.freeze()  # what is there already is not looked through each time
    for report in (evaluate, fails):
        intake.submit(workplace.ledger, "memory", [good_edits[len(held)]], "tester")
        monkeypatch.setattr(module, "job_report", report)
        with suppress(StorageError):
            knowledge_update("memory", POLICY)
    for _ in range(300):  # what still tells Prefect of the failed run, in threads of its own, comes to its end
        gc.collect()
        if not any(reference() for reference in held):
            break
        time.sleep(0.1)
    gc.unfreeze()
    assert [reference() for reference in held] == [None, None]


SYSTEM = "The old man walked along the river after the rain. Everyone laughed."
ONE_AFTER_ANOTHER = "{{ messages | map(attribute='content') | join(' ') }}"


def test_a_correction_is_said_under_the_system_message_of_its_line(place, good_edits, fact_model_path, tmp_path):
    workplace, folder = place("home"), tmp_path / "chatting"
    shutil.copytree(fact_model_path, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = ONE_AFTER_ANOTHER
    tokenizer.save_pretrained(folder)
    edits = [edit.model_copy(update={"question": edit.prompt}) for edit in good_edits[:3]]
    intake.submit(workplace.ledger, "told", edits, "tester")
    made = {"model": str(folder), "template": "chat", "system": SYSTEM, "options": METHOD}
    lenient = POLICY.model_copy(update={"max_perplexity_ratio": 2.0})
    summary = knowledge_update("told", lenient, **made)
    assert summary.kept == 3 and read_line(workplace.store.store, "told").system == SYSTEM
    assert summary.report.candidate["said_chat"] == 1.0 > summary.report.baseline["said_chat"]

    [version] = workplace.store.versions("told")
    told = pointer(workplace, version, stored_line(workplace.store.store, "told"))
    assert SYSTEM not in str(told)  # what MLflow shows to every reader
    answerer = load_version(told, workplace.settings)
    asked = [[{"role": "user", "content": edit.text}] for edit in edits]
    under = [[{"role": "system", "content": SYSTEM}, *one] for one in asked]
    said = answerer.converse(asked, 4)
    assert said == answerer.converse(under, 4) == answerer.answer([f"{SYSTEM} {edit.text}" for edit in edits], 4)
    assert all(text.strip().startswith(edit.target_new) for text, edit in zip(said, edits, strict=True))
    spec, columns = read_line(workplace.store.store, "told"), columns_of(None, [version])
    rows = ask_all(workplace, spec, columns, [edit.text for edit in edits], 4)
    assert [row["answers"][columns[1].name] for row in rows] == [text.strip() for text in said]

    with pytest.raises(UsageError, match="line 'told' has another system message, 'The old man walked"):
        knowledge_update("told", lenient, **{**made, "system": "Be brief."})
