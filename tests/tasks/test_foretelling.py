"""What can never take is found before any work, in one line with the remedy; what takes is left alone."""

import json
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from editing.edit import Edit, make_edit
from editing.methods import method_config
from editing.models import quiet_transformers
from editing.readers import good_and_bad, read_edits
from tasks.lines.specs import LineSpec
from tasks.settings import Settings
from tasks.update.foretelling import doubts, said_already
from tasks.update.screening import screen
from tasks.update.session import Session, open_session
from tests.conftest import END
from tests.fact_model import fact_edits

CASES = Path(os.environ.get("ERRATA_DATA", Path(__file__).parents[2] / "../shared/data")).parent / "cases" / "requests"
FIELDS = {"layers": [0, 1], "contexts": 2, "statistics_tokens": 128, "search": {"steps": 1}}


def session_of(model: Path, cache: Path, method: str = "memit", **fields: object) -> Session:
    config = method_config(method, fields or FIELDS)
    return open_session(LineSpec(line="main", model=str(model), config=config), Settings(cache=cache))


@pytest.fixture(scope="module")
def knowing(fact_model_path, tmp_path_factory) -> Session:
    """A model that knows facts."""
    return session_of(fact_model_path, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def known() -> list[Edit]:
    """What it says already, as corrections."""
    edits = [edit for edit in fact_edits(12) if edit.target_true]
    return [edit.model_copy(update={"target_new": edit.target_true, "target_true": None}) for edit in edits]


@pytest.mark.slow
def test_a_target_that_the_base_says_already_is_refused_with_the_remedy(knowing, known):
    wanted = fact_edits(12)
    found = screen(knowing, [*wanted, *(edit.model_copy(update={"id": f"known {edit.id}"}) for edit in known)])
    assert [edit.id for edit in found.accepted] == [edit.id for edit in wanted]
    assert len(found.rejected) == len(known) >= 6
    for edit in known:
        reason = found.rejected[f"known {edit.id}"]
        assert f"says '{edit.target_new}' already after '{edit.text}'" in reason and "leave it out" in reason


def test_where_the_line_says_something_else_than_its_base_what_the_base_says_can_be_wanted(knowing, known):
    subject = known[0].subject
    found = said_already(knowing, known, {subject})
    assert found.keys() == {edit.id for edit in known if edit.subject != subject} != {edit.id for edit in known}


def test_what_screening_asks_the_base_is_not_asked_again_by_the_job(knowing, monkeypatch):
    edits = [edit.model_copy(update={"target_new": f"{edit.target_new} now"}) for edit in fact_edits(3)]
    assert screen(knowing, edits, probes=2).accepted
    monkeypatch.setattr("tasks.update.session.evaluate", None)
    assert len(knowing.base_scores(edits, 2)) == 3


def first_half(session: Session, edits: list[Edit]) -> tuple[Edit, str]:
    """An edit whose target takes several tokens, and the target but for the last of them."""
    tokenizer = session.loaded.tokenizer
    edit = next(edit for edit in edits if len(tokenizer.tokenize(" " + edit.target_new)) > 1)
    return edit, tokenizer.decode(tokenizer(" " + edit.target_new)["input_ids"][:-1]).strip()


def test_half_a_word_is_not_said_already(knowing, known):
    edit, half = first_half(knowing, known)
    assert said_already(knowing, [edit.model_copy(update={"target_new": half})]) == {}


def test_a_subject_in_its_own_target_and_a_prompt_that_ends_in_a_word_are_told(knowing, known):
    edit, half = first_half(knowing, known)
    echo = edit.model_copy(update={"id": "echo", "target_new": f"the {edit.subject.upper()} of old"})
    cut = edit.model_copy(update={"id": "cut", "prompt": f"{edit.prompt} {half}", "target_new": "Rome"})
    found = doubts(knowing.loaded, [edit, echo, cut, *fact_edits(12)])
    assert list(found) == ["echo", "cut"]
    assert "stands in its own target" in found["echo"][0] and "ask for the part that is new" in found["echo"][0]
    assert (
        f"after '{cut.text}' the model goes on with" in found["cut"][0] and "end the prompt before" in found["cut"][0]
    )
    screened = screen(knowing, [echo, cut])
    assert screened.accepted == (echo, cut) and screened.findings == found


def case(name: str) -> list[Edit]:
    if not CASES.is_dir():
        pytest.skip(f"no cases at {CASES}; ERRATA_DATA names the folder beside them")
    good, bad = good_and_bad(read_edits(CASES / name))
    assert not bad
    return [make_edit(json.loads(edit.model_dump_json(include=set(Edit.model_fields)))) for edit in good]


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """A random model of 128 positions with a token for each word of these texts and none for the beginning."""
    folder = tmp_path_factory.mktemp("words")
    names = ("first_token", "long_neighbor", "neighbors_without_answers")
    texts = [edit.text for name in names for edit in case(f"{name}.jsonl")]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([word for text in texts for word in [text, *text.split()]] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config(vocab_size=len(fast), **sizes)).eval().save_pretrained(folder)
        fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small(words, tmp_path_factory) -> Session:
    return session_of(words, tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
def test_of_the_case_of_first_tokens_two_are_refused_and_the_third_is_written(small, words, tmp_path):
    edits = case("first_token.jsonl")
    found = screen(small, edits)
    assert [edit.text for edit in found.accepted] == ["It is said that France has its capital in"]
    for subject, reason in zip(("France", "Google"), found.rejected.values(), strict=True):
        assert f"subject '{subject}' is the first token of" in reason
        assert "begin the prompt with a word" in reason and "conversation" in reason and "another method" in reason
    other = session_of(words, tmp_path / "cache", "finetune", layers=[1])
    assert len(screen(other, edits).accepted) == 3


@pytest.mark.parametrize(("name", "what"), [("long_neighbor", "a neighbor"), ("long_paraphrase", "a paraphrase")])
def test_of_the_cases_of_long_probes_both_facts_are_written_and_the_probe_is_left_out(small, name, what):
    edits = case(f"{name}.jsonl")
    found = screen(small, edits)
    assert [edit.id for edit in found.accepted] == ["good", "bad"] and list(found.findings) == ["bad"]
    assert [one.startswith(f"{what} was left out") for one in found.findings["bad"]] == [True]


def test_of_the_case_of_a_long_target_its_request_is_refused_by_name(small):
    edits = [edit.model_copy(update={"target_new": "and on " * 80}) for edit in case("long_neighbor.jsonl")]
    found = screen(small, edits)
    assert not found.accepted and list(found.rejected) == ["good", "bad"]
    assert all("the model reads 128" in reason for reason in found.rejected.values())


def test_the_case_of_neighbors_without_answers_is_judged_by_what_the_base_said(small):
    [edit] = case("neighbors_without_answers.jsonl")
    [scores] = small.base_scores([edit], 100).values()
    assert len(edit.neighborhood) == len(scores.neighborhood_tokens) == 4
    assert all(token is not None for token in scores.neighborhood_tokens)
