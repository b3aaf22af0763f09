"""What a benchmark asks of a base and of a base in context, on the fact model: the same as plain questions say."""

import re
from pathlib import Path

import pytest

from editing.edit import Probe
from editing.measure.metrics import evaluate
from editing.measure.said import said
from editing.methods import method_config
from editing.tokens import max_positions
from flows.benchmark import warn_of_checkpoints
from flows.benchmark_facts import Facts
from flows.benchmark_states import Asker
from tasks.lines.specs import LineSpec
from tasks.progress import listening
from tasks.settings import Settings
from tasks.update.session import Session, open_session
from tests.fact_model import fact_edits
from tests.flows.conftest import METHOD
from tests.heard import Heard

EDITS = fact_edits(3)


@pytest.fixture(scope="module")
def session(shared_places) -> Session:
    spec = LineSpec(line="ask", model=shared_places["ERRATA_MODEL"], config=method_config("memit", METHOD))
    return open_session(spec, Settings(cache=Path(shared_places["ERRATA_CACHE"])), only_asked=True)


@pytest.mark.slow
def test_of_the_base_metrics_and_answers_are_those_of_the_library(session):
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    base = Asker(session, Facts(EDITS)).base()
    assert base.metrics == evaluate(model, tokenizer, EDITS)
    assert [one.prompt.text for one in base.said] == [one.prompt.text for one in said(model, tokenizer, EDITS)]
    assert [one.prompt.old for one in base.said] == [True] * len(EDITS)


def test_a_probe_that_cannot_be_asked_is_named_with_the_reason(session):
    texts, heard = ["A text that goes on and on. " * 200], Heard()
    unknown = [edit.model_copy(update={"target_true": None}) for edit in EDITS]
    with listening(heard):
        Asker(session, Facts(unknown), probes=("prefix50", "prefix200", "choice", "drift"), texts=texts)
    (_, long), (_, choice) = [one for one in heard.notes if one[0] == "warning"]
    assert re.match(r"the probe prefix200 asks nothing and is left out: .* \d+ tokens", long), long
    assert re.match(r"the probe choice asks nothing .*an old answer \(target_true\)", choice), choice


def test_checkpoints_beyond_the_edits_are_named():
    with listening(heard := Heard()):
        warn_of_checkpoints((1, 10, 50), 10)
        warn_of_checkpoints((1, 50, 100), 10)
    assert heard.notes == [
        ("warning", "--checkpoints 50: there are only 10 edits, so nothing is asked there"),
        ("warning", "--checkpoints 50,100: there are only 10 edits, so nothing is asked there"),
    ]


def test_in_context_the_base_is_asked_after_all_facts_of_a_record_without_what_gets_too_long(session):
    first, second, third = EDITS
    words = "so " * 200
    while len(session.loaded.tokenizer(words)["input_ids"]) > max_positions(session.loaded.model) - 8:
        words = words[3:]
    long = Probe(prompt=words, answer="Norvale", group="far")  # what the model can just read
    first = first.model_copy(update={"portability": (Probe(prompt=second.text, answer=second.target_new, group="2"),)})
    third = third.model_copy(update={"portability": (long,)})
    asker = Asker(session, Facts([first, second, third], {first.id: (second,)}))
    base = asker.base()
    assert base.portability[2]["far"]["probes"] == 1
    found = asker.in_context(base)
    statement = f"{second.taught}. {first.taught}."
    assert [edit.id for edit in found.edits] == [first.id, second.id]
    assert found.edits[0].text == f"{statement} {first.text}"
    assert (f"{statement} {second.text}", second.target_new) in found.scores[0]
    assert found.metrics[0].locality_kept is not None  # compared with what it says without the statement
    [plain] = evaluate(session.loaded.model, session.loaded.tokenizer, [found.edits[0]])
    assert found.metrics[0].efficacy_prob == plain.efficacy_prob
