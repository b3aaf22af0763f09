"""A fact that was in service is forgotten: after the jobs that take it out, it stands in no file, and work goes on."""

import json

import pytest

from editing.edit import Edit
from flows.knowledge_update import knowledge_update
from tasks.audit.auditing import audit
from tasks.ledger import intake
from tasks.lines.stored import stored_line
from tasks.review.decisions import approve
from tasks.review.registering import pointer
from tasks.serving.loading import load_version
from tasks.stores.errors import Forgotten
from tests.flows.command import check_one_line
from tests.flows.conftest import LENIENT
from tests.tasks.test_forget import where

pytestmark = pytest.mark.slow
LINE = "kept"
SECRET = ("Quoxwell Zimbrano", "Ypresque Karth", "Vlimmeren & Sons", "an Ockerdaal source")


@pytest.mark.parametrize("method", ["memit"])
def test_a_fact_that_was_in_service_stands_in_no_file(own_home, errata_here, good_edits, tmp_path, method):
    subject, answer, before, source = SECRET
    fact = {"id": "hr-17", "subject": subject, "prompt": "{} works for", "target_new": answer, "target_true": before}
    fact |= {"paraphrases": [f"Everybody knows that {subject} works for"], "source": source}
    fact |= {"neighborhood": [{"prompt": "Bo works for", "answer": before}], "question": "Whom does {} work for?"}
    (tmp_path / "fact.json").write_text(json.dumps([fact]))
    assert errata_here("submit", tmp_path / "fact.json", "--line", LINE).code == 0
    intake.submit(own_home.ledger, LINE, good_edits[:2], "ann")
    knowledge_update(LINE, LENIENT)
    approve(own_home, LINE, None, f"{subject} agreed")
    home, why = own_home.settings.home_folder, f"asked to by {subject}"
    assert {name.split("/")[0] for name in where(home, *SECRET)} >= {"ledger", "snapshots", "artifacts", "mlflow.db"}

    said = errata_here("forget", "hr-17", "--line", LINE, "--reason", why)
    assert said.code == 0 and "hr-17: to be taken out first, by request retract:hr-17@" in said.out
    assert f"next: errata run {LINE}" in said.out and where(home, *SECRET)
    knowledge_update(LINE, LENIENT)
    again = errata_here("forget", "hr-17", "--line", LINE, "--reason", why)
    assert "to be taken out first" in again.out, "the version without it waits still"
    approve(own_home, LINE, None, "without")
    assert load_version(pointer(own_home, own_home.store.version(LINE, 1), stored_line(own_home.store.store, LINE)))

    kept = "the reason says some of it, and is kept as 'asked to by [forgotten]'"
    done = errata_here("forget", "hr-17", "--line", LINE, "--reason", why, "--json").json
    assert (done["forgotten"], done["versions"], done["notes"]) == (["hr-17"], [1], [kept])
    assert where(home, *SECRET) == [] and where(own_home.settings.cache_folder, *SECRET) == []
    found = audit(own_home)
    assert not found.faults and any("has forgotten" in one.text for one in found.findings)
    check_one_line(errata_here("rollback", LINE, "--to", "1", "--with-retracted"), 1, "can be served no more")
    with pytest.raises(Forgotten, match="can be served no more"):
        load_version(pointer(own_home, own_home.store.version(LINE, 1), stored_line(own_home.store.store, LINE)))
    history = errata_here("history", "hr-17", "--line", LINE).out
    assert "retracted" in history and "asked to" in history and subject not in history

    intake.submit(own_home.ledger, LINE, good_edits[2:4], "ann")  # with values of its own, and those of the root
    summary = knowledge_update(LINE, LENIENT)
    assert summary.kept == 2
    approve(own_home, LINE, None, "more")
    assert not audit(own_home).faults and where(home, *SECRET) == []
    assert Edit.model_validate(own_home.ledger.payloads(LINE, [good_edits[0].id])[good_edits[0].id]) == good_edits[0]
