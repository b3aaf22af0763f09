"""Laws of Edit: what is accepted is sound, what is refused is refused in words that help."""

import json
import pickle
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from editing.edit import PROBES, Edit, InvalidField, Probe, content_id, make_edit, shown
from editing.errors import InvalidEdit

FACT = {"subject": "LeBron James", "prompt": "{} plays the sport of", "target_new": "golf"}
HOSTILE = st.text(max_size=40) | st.sampled_from(
    ["{}", "{{}}", "{x}", "{0}", "%s", "\0", "\ud800", "\u2028", "a{}b{}", " ", "\ufeff", "e\u0301", "😀", "x" * 2_100]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from([*Edit.model_fields, "target"]) | HOSTILE, HOSTILE | ANYTHING, max_size=9)


def sound(edit: Edit) -> None:
    """The invariants on which the rest of Errata relies."""
    assert edit.prompt.count("{}") == 1 and "{}" not in edit.subject
    assert edit.text == edit.prompt.replace("{}", edit.subject)
    assert edit.target_true != edit.target_new
    probes = [*edit.neighborhood, *edit.portability]
    prompts = [edit.prompt, *edit.paraphrases, *(probe.prompt for probe in probes)]
    answers = [edit.target_new, edit.target_true, *(probe.answer for probe in probes)]
    for text, limit in [(edit.id, 200), (edit.subject, 500)]:
        assert text == text.strip() and 0 < len(text) <= limit and "\n" not in text
    for text in prompts:  # white space at the end of one is a part of it
        assert text == text.lstrip() and text.strip() and len(text) <= 2_000
    for text in filter(None, answers):
        assert text == text.strip() and "\r" not in text
    for text in filter(None, [edit.subject, *prompts, *answers]):
        assert "\0" not in text and unicodedata.is_normalized("NFC", text)
    assert edit.taught == edit.text + edit.joined_by + edit.target_new and not edit.joined_by.strip()
    assert max(len(edit.paraphrases), len(edit.neighborhood), len(edit.portability)) <= PROBES
    edit.model_dump_json().encode("utf-8")


@settings(deadline=None, max_examples=150)
@given(FIELDS, st.booleans())
def test_any_fields_give_a_sound_edit_or_one_line_of_complaint(fields, with_a_good_start):
    try:
        sound(make_edit(FACT | fields if with_a_good_start else fields))
    except InvalidEdit as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 600
        str(error).encode("utf-8")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text("ab{}é 😀", min_size=1, max_size=12), min_size=3, max_size=3), st.lists(HOSTILE, max_size=3))
def test_dumping_an_edit_and_making_it_again_gives_the_same_edit(texts, paraphrases):
    subject, before, target = texts
    try:
        edit = make_edit(
            {"subject": subject, "prompt": before + "{}", "target_new": target, "paraphrases": paraphrases}
        )
    except InvalidEdit:
        return
    assert make_edit(edit.model_dump()) == edit
    assert make_edit(json.loads(edit.model_dump_json())) == edit
    assert pickle.loads(pickle.dumps(edit)) == edit


@settings(deadline=None, max_examples=100)
@given(st.text("ab ", min_size=1, max_size=4), st.text("ab ", max_size=9))
def test_a_filled_prompt_becomes_a_template_that_fills_back_to_it(subject, prompt):
    try:
        edit = make_edit({"subject": subject, "prompt": prompt, "target_new": "x"})
    except InvalidEdit:
        return
    assert edit.text == prompt.lstrip()


@pytest.mark.parametrize(
    ("subject", "prompt", "template"),
    [
        ("LeBron James", "LeBron James plays the sport of", "{} plays the sport of"),
        ("Iran", "Iranians who live in Iran speak", "Iranians who live in {} speak"),
        ("北京", "北京是中国的", "{}是中国的"),
        ("O'Neal", "O'Neal's sport is", "{}'s sport is"),
        ("C", "{} is {not} a {{language}} by", "{} is {not} a {{language}} by"),
    ],
)
def test_the_subject_gives_its_place_to_the_slot(subject, prompt, template):
    assert make_edit({"subject": subject, "prompt": prompt, "target_new": "x"}).prompt == template


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"prompt": "He plays"}, "prompt", "must hold exactly one '{}' for the subject 'LeBron James'"),
        ({"prompt": "{} and {}"}, "prompt", "holds 2"),
        ({"subject": "aa", "prompt": "aaa is"}, "prompt", "stands in it 2 times"),
        ({"subject": "x{}"}, "subject", "must not hold '{}'"),
        ({"target_new": " "}, "target_new", "is empty"),
        ({"target_new": "a\x0cb"}, "target_new", "control character U+000C"),
        ({"join": "and"}, "join", "neither white space nor nothing"),
        ({"target_new": "\ud800"}, "target_new", "half a surrogate pair"),
        ({"target_new": float("nan")}, "target_new", "must be a text, and is float nan"),
        ({"target_new": 10**5_000}, "target_new", "must be a text, and is int <int>"),
        ({"target_true": "golf"}, "target_true", "is the same as target_new"),
        ({"subject": "s" * 501}, "subject", "at most 500"),
        ({"paraphrases": "one text"}, "paraphrases", "must be a list"),
        ({"paraphrases": ["a"] * 101}, "paraphrases", "keep at most 100"),
        ({"aliases": "one text"}, "aliases", "must be a list"),
        ({"aliases": ["a"] * 101}, "aliases", "keep at most 100"),
        ({"aliases": ["Golf", "a\0b"]}, "aliases[1]", "control character U+0000"),
        ({"target_true": "Tennis", "aliases": ["a", "tennis"]}, "aliases", "hold 'tennis', which is target_true"),
        ({"neighborhood": ["text"]}, "neighborhood[0]", "an object with the fields prompt and answer"),
        ({"neighborhood": [{"prompt": "a"}, {"promt": "a"}]}, "neighborhood[1].prompt", "is missing"),
        ({"portability": [{"prompt": "a", "anwser": "b"}]}, "portability[0].anwser", "did you mean 'answer'?"),
        ({"target": "golf"}, "target", "did you mean 'target_new'?"),
        ({"zzz": 1}, "zzz", "the fields are id, subject"),
    ],
)
def test_a_refusal_names_the_edit_the_field_and_the_remedy(change, field, words):
    with pytest.raises(InvalidField) as caught:
        make_edit({"id": "cf-17"} | FACT | change)
    assert str(caught.value).startswith("edit 'cf-17': ") and words in str(caught.value)
    assert caught.value.field == field
    assert pickle.loads(pickle.dumps(caught.value)).field == field


def test_the_id_is_a_digest_of_the_fact_and_of_nothing_else():
    plain = make_edit(FACT)
    assert plain.id == content_id(*FACT.values()) == make_edit(FACT | {"paraphrases": ["a"], "id": " "}).id
    assert len({plain.id, *(make_edit(FACT | {name: FACT[name] + " x"}).id for name in FACT)}) == 4
    assert plain.model_dump(exclude_unset=True)["id"] == plain.id


def test_an_edit_cannot_be_changed():
    edit = make_edit(FACT | {"neighborhood": [{"prompt": "a"}]})
    with pytest.raises(ValidationError):
        edit.subject = "another"
    assert hash(edit) == hash(make_edit(edit.model_dump())) and edit.neighborhood == (Probe(prompt="a"),)


def test_a_value_is_shown_on_one_line_whatever_it_is():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for value in (nested, "a\nb" * 1_000, b"\xff", 10**5_000, {"\u2028": 1}):
        assert len(shown(value).splitlines()) == 1 and len(shown(value)) <= 80


def test_a_question_holds_the_subject_once_and_is_content_only_where_it_is_given():
    edit = make_edit({"subject": "Nile", "prompt": "The {} flows", "target_new": "x", "question": "Where is the Nile?"})
    assert edit.question == "Where is the {}?" and edit.model_dump()["question"] == edit.question
    assert "question" not in make_edit({"subject": "Nile", "prompt": "The {} flows", "target_new": "x"}).model_dump()
    with pytest.raises(InvalidEdit, match=r"question 'Where is it\?' must hold exactly one '\{\}' for"):
        make_edit({"subject": "Nile", "prompt": "The {} flows", "target_new": "x", "question": "Where is it?"})


def test_aliases_are_other_spellings_of_the_new_answer_and_content_only_where_there_are_some():
    edit = make_edit(FACT | {"aliases": [" Golf ", "golf", "the golf", "Golf"]})
    assert edit.aliases == ("Golf", "the golf") and make_edit(edit.model_dump()) == edit
    assert edit.id == make_edit(FACT).id
    for none in ({}, {"aliases": []}, {"aliases": ["golf"]}):
        assert "aliases" not in make_edit(FACT | none).model_dump()
        assert "aliases" not in make_edit(FACT | none).model_dump_json()
