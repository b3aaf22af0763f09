"""Ability against a plain second derivation: one text at a time through the whole model, formats spelled out."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import stdev
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.errors import EditingError, ReadError
from editing.measure.ability import Answer, answer, compare, encode_pairs, stderr, values_of
from editing.measure.ability_sets import FORMS, Question, read_ability
from editing.models import LoadedModel
from tasks.parquet import parquet_rows
from tests.families import tiny_family

ROWS: dict[str, list[dict[str, Any]]] = {
    "lambada": [
        {"context": "Ada went to the city and she saw", "continuation": "London"},
        {"context": "The river ran to the ", "continuation": "sea"},
        {"context": "“Nobody knew why.”\n\nShe said ÿ語 to", "continuation": "Ada"},
    ],
    "piqa": [
        {"goal": "How do I see the moon?", "sol1": "Look at the sky, then wait.", "sol2": "Look down", "label": 0},
        {"goal": "canyon", "sol1": "it is deep", "sol2": "it is a very long way to the sea", "label": 1},
    ],
    "prepared": [
        {"query": "Question: Where does Ada live?", "choices": ["Rome", "the moon", "x", "London town"], "gold": 3},
        {"query": "Question: canyon\n", "choices": ["it is deep", "it is a very long way to the sea"], "gold": 1},
    ],
    "arc": [
        {
            "question": "Which is the river?",
            "choices": {"text": ["Nile", "moon", "Ada of Rome"], "label": ["1", "2", "3"]},
            "answerKey": "1",
        },
    ],
    "hellaswag": [
        {
            "activity_label": "Baking cookies",
            "ctx_a": "[header] How to bake [title] Find an oven.   Then wait.",
            "ctx_b": "the OLD man",
            "endings": ["said that [substeps] it is hot.", "never did", "ran to the sea and the moon", "x  y"],
            "label": "2",
        },
    ],
}
"""Rows in each form."""
ASKED: dict[str, list[tuple[str, list[str], int]]] = {
    "lambada": [(row["context"], [row["continuation"]], 0) for row in ROWS["lambada"]],
    "piqa": [(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], row["label"]) for row in ROWS["piqa"]],
    "prepared": [
        ("Question: Where does Ada live?\nAnswer:", ROWS["prepared"][0]["choices"], 3),
        ("Question: canyon\nAnswer:", ROWS["prepared"][1]["choices"], 1),
    ],
    "arc": [("Question: Which is the river?\nAnswer:", ["Nile", "moon", "Ada of Rome"], 0)],
    "hellaswag": [
        (
            "Baking cookies: How to bake. Find an oven.  Then wait. The old man",
            ["said that it is hot.", "never did", "ran to the sea and the moon", "x y"],
            2,
        )
    ],
}
"""What they ask, written by hand."""


@pytest.mark.parametrize("name", ROWS)
def test_each_form_is_told_by_its_columns_and_asked_as_written_by_hand(name):
    found = read_ability([{**row, "more": None} for row in ROWS[name]], "file")
    assert [(one.context, list(one.choices), one.gold) for one in found.questions] == ASKED[name]
    assert found.rows == len(ROWS[name])


def test_published_lambada_is_the_prepared_one():
    texts = [{"text": f"{row['context'].strip()} {row['continuation']}"} for row in ROWS["lambada"]]
    rows = [{**row, "context": row["context"].strip()} for row in ROWS["lambada"]]
    assert read_ability(texts, "file").questions == read_ability(rows, "file").questions


def test_a_limit_takes_the_first_of_a_seeded_shuffle():
    rows = [{"context": "She saw", "continuation": str(number)} for number in range(30)]
    order = list(range(30))
    random.Random(5).shuffle(order)
    found = read_ability(rows, "file", limit=7, seed=5)
    assert [question.choices[0] for question in found.questions] == [str(number) for number in order[:7]]
    assert found.rows == 30 and len(read_ability(rows, "file").questions) == 30


BAD: list[tuple[str, list[dict[str, Any]], str]] = [
    (
        "columns",
        [{"prompt": "x", "answer": "y"}],
        r"columns are prompt, answer; give LAMBADA \(context, continuation\)",
    ),
    ("nothing", [], "'file' has no rows; give LAMBADA"),
    ("a text", [{"text": "She ran to the sea."}], "row 1 .*no question of LAMBADA: the text does not end with a word"),
    ("one word", [{"text": "sea"}], "does not end with a word"),
    ("no label", [{**ROWS["hellaswag"][0], "label": ""}], "row 1 .*its answer is '', not a number from 0 to 3"),
    ("hidden", [*ROWS["piqa"], {**ROWS["piqa"][0], "label": -1}], "row 3 .*its answer is -1, not a number from 0 to 1"),
    ("too far", [{**ROWS["prepared"][0], "gold": 4}], "its answer is 4, not a number from 0 to 3"),
    ("key", [{**ROWS["arc"][0], "answerKey": "E"}], "row 1 of 'file' is no question of ARC"),
    ("null", [{**ROWS["piqa"][0], "goal": None}], "'goal' is None, no text"),
    ("one choice", [{**ROWS["prepared"][0], "choices": ["Rome"]}], r"\('Rome',\), not two texts or more"),
    ("empty choice", [{**ROWS["prepared"][0], "choices": ["Rome", " "], "gold": 0}], "an answer is empty"),
    ("bare", [{"context": " ", "continuation": "sea"}], "there is nothing before the answer"),
    ("no choices", [{**ROWS["arc"][0], "choices": {"text": ["a", "b"]}}], "there is no 'label'"),
    ("a list", [{**ROWS["prepared"][0], "choices": None}], "no question of multiple choice"),
]


@pytest.mark.parametrize(("rows", "says"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_what_is_no_set_is_refused_in_one_line(rows, says):
    with pytest.raises(ReadError, match=says) as error:
        read_ability(rows, "file")
    assert "\n" not in str(error.value)


def test_every_form_is_named_where_a_file_is_refused():
    with pytest.raises(ReadError) as error:
        read_ability([{"x": 1}], "file")
    assert all(form.name in str(error.value) and all(one in str(error.value) for one in form.columns) for form in FORMS)


@torch.inference_mode()
def plain_answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: str, choice: str
) -> tuple[float, bool]:
    """One text alone, through the whole model."""
    spaces = len(context) - len(context.rstrip())
    before, after = context[: len(context) - spaces], context[len(context) - spaces :] + " " + choice
    whole, count = tokenizer.encode(before + after), len(tokenizer.encode(before))
    rows = model(input_ids=torch.tensor([whole])).logits[0, count - 1 : -1].double().log_softmax(-1)
    goal = torch.tensor(whole[count:])
    return float(rows.gather(1, goal[:, None]).sum()), bool((rows.argmax(1) == goal).all())


def confident(loaded: LoadedModel) -> LoadedModel:
    """Its matrices enlarged, so that tokens differ in probability."""
    for parameter in loaded.model.parameters():
        if parameter.dim() == 2:
            parameter.mul_(6)
    return loaded


@pytest.fixture(params=["llama", "gpt2", "bos"])
def loaded(request) -> LoadedModel:
    """One tokenizer puts nothing before a text, one a token."""
    if request.param == "bos":
        return confident(tiny_family("llama", bos=True))
    return confident(request.getfixturevalue(f"tiny_{request.param}"))


@pytest.mark.parametrize("batch_tokens", [1, 60, None])
def test_log_probabilities_are_those_of_each_text_alone(loaded, batch_tokens):
    asked = [question for name in ASKED for question in ASKED[name]]
    questions = [Question(context, tuple(choices), gold) for context, choices, gold in asked]
    found = answer(loaded.model, loaded.tokenizer, questions, batch_tokens=batch_tokens)
    for (context, choices, _), one in zip(asked, found, strict=True):
        plain = [plain_answer(loaded.model, loaded.tokenizer, context, choice) for choice in choices]
        assert one.logprobs == pytest.approx([logprob for logprob, _ in plain], abs=1e-3)
        assert one.greedy == tuple(greedy for _, greedy in plain)


def test_the_most_probable_continuation_is_greedy(tiny_llama):
    tokenizer, context = tiny_llama.tokenizer, "The river Nile flows"
    words = [" sea", " moon", " the", " to", " a", " of", " man"]
    said = [answer(tiny_llama.model, tokenizer, [Question(context, (word.strip(),))])[0] for word in words]
    logits = tiny_llama.model(torch.tensor([tokenizer.encode(context)])).logits[0, -1]
    firsts = [tokenizer.encode(f"{context}{word}")[len(tokenizer.encode(context))] for word in words]
    expected = [int(logits.argmax()) == first for first in firsts]
    assert [one.greedy[0] for one in said] <= expected  # a word of several tokens has more to fulfil


def test_a_row_that_is_too_long_loses_its_beginning(tiny_llama):
    model, tokenizer = tiny_llama.model, tiny_llama.tokenizer
    context = "The old man said so. " * 40 + "She saw the"
    [found] = answer(model, tokenizer, [Question(context, ("sea",))])
    ids, count = tokenizer.encode(f"{context} sea"), len(tokenizer.encode(context))
    assert count > model.config.max_position_embeddings == 256
    goal = ids[count:]
    kept = torch.tensor([ids[-257:][:-1]])
    rows = model(input_ids=kept).logits[0, -len(goal) :].double().log_softmax(-1)
    assert found.logprobs[0] == pytest.approx(
        sum(float(row[token]) for row, token in zip(rows, goal, strict=True)), abs=1e-3
    )


def test_a_choice_longer_than_the_model_reads_is_refused(tiny_llama):
    with pytest.raises(EditingError, match=r"tokens after 'She', the model takes 1 to 256; leave the question out"):
        encode_pairs(tiny_llama.model, tiny_llama.tokenizer, [("She", "ÿ語 " * 200)])


CHOICES = ("a long answer", "short", "ÿ語")
QUESTION = Question("Q", CHOICES, 1)


def test_norming_is_by_characters_not_bytes():
    given = Answer((-13.0, -7.5, -2.5), (False,) * 3)  # a character: -1, -1.5, -1.25; a byte: -1, -1.5, -0.5
    assert values_of(replace(QUESTION, gold=0), given) == {"acc": 0.0, "acc_norm": 1.0}
    assert values_of(replace(QUESTION, gold=2), given) == {"acc": 1.0, "acc_norm": 0.0}


def test_where_two_are_equal_the_first_counts_and_nan_never():
    assert values_of(replace(QUESTION, gold=0), Answer((-3.0, -3.0, -4.0), (False,) * 3))["acc"] == 1.0
    assert values_of(QUESTION, Answer((-3.0, -3.0, -4.0), (False,) * 3))["acc"] == 0.0
    for gold in range(3):
        given = Answer((math.nan, -3.0, -4.0), (False,) * 3)
        assert values_of(replace(QUESTION, gold=gold), given) == {"acc": 0.0, "acc_norm": 0.0}
    assert values_of(Question("Q", ("a",)), Answer((math.nan,), (True,)))["acc"] == 0.0


def told(rights: Sequence[int]) -> list[Answer]:
    return [Answer((0.0, -1.0) if right else (-1.0, 0.0), (False, False)) for right in rights]


def test_standard_errors_are_of_means_and_of_paired_differences():
    questions = [Question("Q", ("a", "b"))] * 6
    before, after = [1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 0, 1]
    found = compare(questions, told(before), told(after))["acc"]
    assert (found.before, found.after, found.difference) == pytest.approx((4 / 6, 3 / 6, -1 / 6))
    p = 4 / 6
    assert found.stderr_before == pytest.approx(math.sqrt(p * (1 - p) / 5))  # lm-evaluation-harness: n - 1
    assert found.stderr_difference == pytest.approx(stdev([0, -1, 0, 1, -1, 0]) / math.sqrt(6))
    assert compare(questions, told(before), told(before))["acc"].stderr_difference == 0.0
    assert stderr([1.0]) is None


def test_perplexity_of_texts_and_its_error_by_resampling():
    rng = random.Random(3)
    logprobs = [-rng.expovariate(0.5) for _ in range(400)]
    later = [one - rng.random() * 0.1 for one in logprobs]
    questions = [Question("Q", ("a",))] * 400
    states = [[Answer((one,), (one > -1,)) for one in state] for state in (logprobs, later)]
    found = compare(questions, *states)["perplexity"]
    assert found.before == pytest.approx(math.exp(-sum(logprobs) / 400))
    drawn: list[tuple[float, float]] = []
    for _ in range(1500):
        picks = rng.choices(range(400), k=400)
        a, b = (math.exp(-sum(state[i] for i in picks) / 400) for state in (logprobs, later))
        drawn.append((a, b - a))
    assert found.stderr_before == pytest.approx(stdev(a for a, _ in drawn), rel=0.1)
    assert found.stderr_difference == pytest.approx(stdev(change for _, change in drawn), rel=0.1)
    assert found.stderr_difference < found.stderr_before / 5


def test_a_broken_model_has_no_perplexity():
    found = compare([Question("Q", ("a",))] * 2, [Answer((-1.0,), (True,))] * 2, [Answer((math.nan,), (True,))] * 2)
    assert found["perplexity"].after == math.inf and found["perplexity"].stderr_after is None
    assert found["acc"].after == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lambada_openai", "piqa", "hellaswag", "arc_easy"])
def test_the_embedded_model_on_real_questions_is_as_each_text_alone(embedded, data_dir, name):
    path = data_dir / f"ability_{name}_dev.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    questions = read_ability(parquet_rows(path), name, limit=2).questions
    found = answer(embedded.model, embedded.tokenizer, questions)
    for question, one in zip(questions, found, strict=True):
        plain = [plain_answer(embedded.model, embedded.tokenizer, question.context, c) for c in question.choices]
        assert one.logprobs == pytest.approx([logprob for logprob, _ in plain], abs=1e-3)
        assert one.greedy == tuple(greedy for _, greedy in plain)
