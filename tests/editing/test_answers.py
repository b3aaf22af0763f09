"""What tells answers apart in a text: signs, articles, marks and plurals, the ends of sentences, and negations."""

import pytest

from editing.edit import Edit
from editing.measure.answers import enough_for, judge_answer
from editing.measure.said import judged


def kinds_said(text, new, old=(), others=(), where="sentence"):
    found = judge_answer(text, new, old, others, where=where)
    return [kind for kind in ("new", "old", "other") if getattr(found, kind)]


@pytest.mark.parametrize(
    "text",
    [
        "According to example.com, it is in Lyon.",
        "On the site (e.g example.com) it is Lyon. Paris",
        "Lyon... Before that it was Paris.",
        "It is… Lyon… Before that it was Paris.",
        "Lyon!! Before that it was Paris.",
        "It is Lyon?! Paris was earlier.",
        "« Lyon. » Avant, Paris",
        "Il dit «Lyon». Avant, Paris",
        "„Lyon.“ Davor Paris",
        "(It is ‘Lyon’.) Before it was Paris.",
        "「Lyon」。Paris",
        "वह Lyon। Paris",
        "Lyon؟ Paris",
        "وہ Lyon۔ Paris",
    ],
)
def test_a_sentence_ends_at_its_marks_and_not_inside_a_word(text):
    assert kinds_said(text, ["Lyon"], ["Paris"]) == ["new"]
    assert not enough_for(["Lyon"], ["Paris"], where="sentence")("According to example.com, it is")


def test_letters_of_devanagari_end_where_the_danda_stands():
    assert kinds_said("वह ल्योन। पेरिस", ["ल्योन"], ["पेरिस"]) == ["new"]


@pytest.mark.parametrize(
    ("text", "new", "old", "kinds"),
    [
        ("-5 degrees", "5", "-5", "old"),
        ("5 degrees", "-5", "5", "old"),
        (" **\u22125** degrees", "-5", "5", "new"),
        ("-$5", "$5", "-$5", "old"),
        ("1990-1995", "1990", "1995", "new"),
        ("1990 -1995", "1990 1995", "1990 1996", "new"),
        ("COVID-19", "COVID 19", "COVID 20", "new"),
        ("The Band", "The Band", "Band", "new"),
        ("Band", "The Band", "Band", "old"),
        ("the band of", "Band", "The Band", "old"),
        ("A Band", "Band", "The Band", "new"),
        ("Jay-Z's", "Jay-Z", "Jay Z", "new"),
        ("JAY  Z", "Jay-Z", "Jay Z", "old"),
        ("Yahoo", "Yahoo!", "Yahoo", "old"),
        ("Cats", "Cats", "Cat", "new"),
        ("Cats", "Cat", "Cats", "old"),
        ("Cat", "Cats", "Cat", "old"),
        ("Cat", "Cat", "Cats", "new"),
    ],
)
def test_what_tells_the_new_answer_from_the_old_one_counts(text, new, old, kinds):
    assert kinds_said(text, [new], [old], where="start") == [kinds]


def test_what_tells_them_apart_counts_in_a_sentence_too():
    assert kinds_said("They were the Band. A band", ["The Band"], ["Band"]) == ["new"]
    assert kinds_said("It was Jay Z.", ["Jay-Z"], ["Jay Z"]) == ["old"]
    assert kinds_said("It is about cats.", ["Cats"], ["Cat"]) == ["new"]
    assert kinds_said("It is at -5 degrees.", ["5"], ["-5"]) == ["old"]


def test_an_answer_that_counts_as_it_is_written_is_waited_for():
    new, old = ["Jean-Luc Picard"], ["Jean Luc Picard"]
    assert not enough_for(new, old, where="start")(" Jean-Luc Pic")
    assert enough_for(new, old, where="start")(" Jean-Luc Picard of the good ship")
    assert not enough_for(["Yahoo! Inc"], ["Yahoo Inc"], where="sentence")("It is Yahoo! In")


def test_a_spelling_of_the_new_answer_is_no_other_one():
    assert kinds_said("Jay Z", ["Jay-Z"], ["Nas"], ["Jay Z"], where="start") == ["new"]


def test_the_number_that_a_prompt_s_number_is_joined_to_has_no_sign():
    edit = Edit(subject="Ada", prompt="{} ruled 1990", target_new="1995")
    assert judged(edit, "-1995 or", "start", prompt=edit.text).right
    assert judged(edit, " 1995 or", "start", prompt=edit.text).right


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("He no longer lives in Lyon.", False),
        ("No, he has no home in Lyon.", False),
        ("He lives anywhere but Lyon.", False),
        ("Everywhere except in Lyon.", False),
        ("It isnt Lyon.", False),
        ("He doesnt live in Lyon.", False),
        ("No, it is Lyon.", True),
        ("No doubt it is Lyon.", True),
        ("It is no other than Lyon.", True),
        ("He has no children and lives in Lyon.", True),
        ("It has no name but Lyon.", True),
        ("It is no. 5, Lyon.", True),
        ("It is bus no 5 of Lyon.", True),
    ],
)
def test_what_is_denied_is_not_said(text, said):
    assert kinds_said(text, ["Lyon"], ["Paris"]) == ["new"] * said


@pytest.mark.parametrize("answer", ["🙂", "+", "!", "->", "🙂 🙂"])
def test_an_answer_without_a_word_is_compared_as_it_is_written(answer):
    assert kinds_said(f" {answer}", [answer], ["Lyon"], where="start") == ["new"]
    assert kinds_said(f" *{answer}*, so", [answer], ["Lyon"], where="start") == ["new"]
    assert kinds_said(f"It is {answer} for them. Or Lyon.", [answer], ["Lyon"]) == ["new"]
    assert kinds_said(f"Lyon. Or {answer}", ["Lyon"], [answer]) == ["new"]
    assert kinds_said("It is in Lyon!", [answer], ["Lyon"]) == ["old"]
