"""The scorer of what is said, against fifty answers of a small edited model that were judged by hand, and by law."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from editing.chat import ChatTemplate
from editing.edit import Edit, Probe
from editing.measure.answers import Answer, enough_for, judge_answer, whole_words
from editing.measure.fluency import Written, generate
from editing.measure.said import Said, answer_text, judged, others_of_its_kind, said, summarise_said
from tests.conftest import byte_tokenizer

# Answers of the embedded model to facts of CounterFact that MEMIT wrote into it in batches of ten, cut to 150
# characters: after the prompt and its paraphrases, and in a chat, asked as they were searched, by the prompt alone,
# and by "Finish the sentence with the right word". `mentioned`: the sentence names the new answer without answering;
# the scorer reads no sense, and counts it.
JUDGED = [json.loads(line) for line in Path(__file__).with_name("judged_answers.jsonl").read_text().splitlines()]


def test_fifty_answers_are_judged_as_by_hand_but_for_three_that_only_mention():
    assert len(JUDGED) == 50 and sum("mentioned" in case for case in JUDGED) == 3
    assert 10 < sum(case["said"] for case in JUDGED) < 40
    for case in JUDGED:
        found = judge_answer(case["text"], [case["new"]], [case["old"]], where=case["where"], echo=[case["subject"]])
        assert found.right is (case["said"] or "mentioned" in case), case


@pytest.mark.parametrize(
    ("where", "text", "new", "old", "others", "kinds"),
    [
        ("start", " New York Times", ["New York"], ["New York Times"], [], "old"),
        ("start", " New York, not the Times", ["New York"], ["New York Times"], [], "new"),
        ("start", " Georgia Tech", ["Georgia Tech"], ["Georgia"], [], "new"),
        ("start", " the Netherlands.", ["Netherlands"], ["Belgium"], [], "new"),
        ("start", " Hague", ["The Hague"], ["Delft"], [], "new"),
        ("start", "\n**São Paulo**", ["Sao Paulo"], [], [], "new"),
        ("start", " 1,250 metres", ["1250 metres"], ["1,200"], [], "new"),
        ("start", " 3.5", ["3"], [], [], ""),
        ("start", " C++", ["C"], [], [], ""),
        ("start", " C++.", ["C++"], ["C"], [], "new"),
        ("start", " Spanish", ["Spain"], [], [], ""),
        ("start", " Spain's", ["Spain"], [], [], "new"),
        ("start", " euros, the", ["euro"], ["kuna"], [], "new"),
        ("start", " Rome", ["Romes"], [], [], ""),
        ("start", " Is", ["I"], [], [], ""),
        ("start", " in Spain", ["Spain"], [], [], ""),
        ("start", " USA", ["United States", "USA"], ["Mexico"], [], "new"),
        ("start", " iphone", ["iPhone"], ["IPhone"], [], ""),
        ("start", " iPhone", ["iPhone"], ["IPhone"], [], "new"),
        ("start", "北京市。", ["北京"], ["上海"], [], "new"),
        ("start", " 서울은 도시", ["서울"], ["부산"], [], "new"),
        ("start", " йод", ["йод"], ["иод"], [], "new"),
        ("start", "", ["Spain"], ["France"], [], ""),
        ("start", " A", ["A"], ["B"], [], "new"),
        ("sentence", "It is in Spain, not in France.", ["Spain"], ["France"], [], "new old"),
        ("sentence", "It is in Spain. It was in France before.", ["Spain"], ["France"], [], "new"),
        ("sentence", "It is not in Spain.", ["Spain"], [], [], ""),
        ("sentence", "It isn’t in Spain.", ["Spain"], [], [], ""),
        ("sentence", "Not only Spain.", ["Spain"], [], [], "new"),
        ("sentence", "It is in Spain or in Italy.", ["Spain"], ["France"], ["Italy", "Spain"], "new other"),
        ("sentence", "Paris Saint-Germain plays in London.", ["London"], ["Paris"], [], "new"),
        ("sentence", "He lives in St. Louis. Or Paris.", ["St. Louis"], ["Paris"], [], "new"),
        ("sentence", "It was J. R. Smith of Oslo. Or Paris.", ["Oslo"], ["Paris"], [], "new"),
        ("sentence", "1. Spain\n2. France", ["Spain"], ["France"], [], "new"),
        ("sentence", "Who knows?\nSpain", ["Spain"], [], [], ""),
        ("sentence", "它在西班牙。不在法国。", ["西班牙"], ["法国"], [], "new"),
    ],
)  # fmt: skip
def test_what_is_said_goes_by_words(where, text, new, old, others, kinds):
    echo = ["Paris Saint-Germain"]
    found = judge_answer(text, new, old, others, where=where, echo=echo)
    assert [kind for kind in ("new", "old", "other") if getattr(found, kind)] == kinds.split()


@pytest.mark.parametrize(
    ("prompt", "join", "target", "text", "right"),
    [
        ("{} is", None, "land", " land, and", True),
        ("{} is", None, "land", "land, and", False),  # an island
        ("{} is", None, "land", "\nThe land", True),
        ("{} is (", None, "land", "land)", True),
        ("{} is in Par", "", "is", "is, and", True),
        ("{} is in Par", "", "is", " is a town", False),
        ("{} is in Par", "", "is", "ish", False),
        ("{} is in Par", "", "is", "ma", False),
        ("{}在", None, "北京", "北京市", True),
    ],
)
def test_what_goes_on_inside_the_prompt_s_last_word_is_a_part_of_it(prompt, join, target, text, right):
    edit = Edit(subject="Ada", prompt=prompt, target_new=target, join=join)
    assert judged(edit, text, "start", prompt=edit.text).right is right
    assert judged(edit, text, "start", prompt=edit.text).text == text.strip()


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("It is in Par", "It is in"),
        ("It is in Paris.", "It is in Paris."),
        ("It costs 3.5", "It costs"),
        ("Par", "Par"),
        (" the New-Yor", " the New-"),
        ("它在北京", "它在北京"),
        ("It is \ufffd", "It is \ufffd"),
        ("", ""),
    ],
)
def test_a_word_that_may_be_cut_is_left_out(text, whole):
    assert whole_words(text) == whole


def test_only_the_limit_of_a_text_cuts_words():
    tokenizer, enough = byte_tokenizer(), enough_for(["Rome"], [], where="sentence")
    prompt, ids = (
        list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("Ada is", " in Rome. Or Par")
    )
    end = Written(prompt, ids, [])
    assert answer_text(tokenizer, end, None) == " in Rome. Or Par"
    assert answer_text(tokenizer, replace(end, cut=True), None) == " in Rome. Or"
    assert answer_text(tokenizer, replace(end, cut=True), enough) == " in Rome. Or Par"


WORDS = st.sampled_from(["rome", "oslo", "new", "york", "times", "the", "of", "not"])
TEXTS = st.lists(WORDS, min_size=1, max_size=6).filter(lambda words: {*words} != {"the"}).map(" ".join)
WHERE = st.sampled_from(["start", "sentence"])
NAMES = st.lists(WORDS.filter(lambda word: word not in ("the", "not")), min_size=1, max_size=2).map(" ".join)


@given(TEXTS, st.lists(NAMES, min_size=1, max_size=2), st.lists(NAMES, max_size=2), WHERE)
def test_an_answer_is_heard_where_it_stands_and_nowhere_else(text, new, old, where):
    assume(not {*new} & {*old})
    assert judge_answer(new[0], new, (), where=where).right
    found = judge_answer(text, new, old, where=where)
    assert not found.right or any(re.search(rf"\b{name}\b", text) for name in new)
    assert judge_answer(f"{text}.\n{text} rome", new, old, where=where) == replace(found, text=f"{text}.\n{text} rome")
    assert judge_answer(text.title(), new, old, where=where) == replace(found, text=text.title())


def test_of_the_kind_of_an_answer_are_those_of_the_same_relation_but_not_of_neighbors():
    first, second = (
        Edit(subject=name, prompt="{} is in", target_new=to) for name, to in (("A", "Rome"), ("B", "Oslo"))
    )
    third = Edit(
        subject="C", prompt="{} speaks", target_new="Greek", neighborhood=(Probe(prompt="D speaks", answer="Thai"),)
    )
    kinds = others_of_its_kind([first, second, third])
    assert set(kinds[first.id]) == {"Rome", "Oslo"} and set(kinds[third.id]) == {"Greek"}
    assert (
        len(others_of_its_kind([Edit(subject="A", prompt="{} is", target_new=str(i)) for i in range(999)]).popitem()[1])
        == 50
    )


def test_shares_are_over_facts_and_over_all_paraphrases():
    right, wrong = Answer("Rome", new=True), Answer("Oslo", old=True)
    found = [Said("a", right, (right, wrong, wrong)), Said("b", wrong, (), wrong)]
    assert summarise_said(found) == {
        "said_prompt": 0.5, "old_prompt": 0.5, "said_paraphrases": 1 / 3, "old_paraphrases": 2 / 3,
        "said_chat": 0.0, "old_chat": 1.0,
    }  # fmt: skip
    assert summarise_said([]) == {}


def test_no_more_is_written_after_a_prompt_than_decides(tiny_llama):
    model, tokenizer = tiny_llama.model, byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}:"
    begins = {text: generate(model, tokenizer, [text], 3)[0] for text in ("Ada is", "Eve is")}
    edits = [
        Edit(subject=text.split()[0], prompt="{} is", target_new=begins[text].strip() or "?", paraphrases=("So it is",))
        for text in begins
    ]
    told = []
    found = said(
        model, tokenizer, edits, ChatTemplate(tokenizer), on_progress=lambda done, total: told.append((done, total))
    )
    assert told[-1][0] == told[-1][1] and sorted(told) == told
    for edit, one in zip(edits, found, strict=True):
        for text, answer, where in (
            (edit.text, one.prompt, "start"),
            ("So it is", one.paraphrases[0], "start"),
            (f"Complete this sentence: {edit.text}:", one.chat, "sentence"),
        ):
            [whole] = generate(model, tokenizer, [text], 40)
            assert whole.strip().startswith(answer.text)
            assert answer == replace(judged(edit, whole, where, prompt=text), text=answer.text)
    assert all(one.chat is None for one in said(model, tokenizer, edits))


MARKS = st.sampled_from([" ", " ", ", ", ". ", ".\n", "-", ".", "! ", "1. ", "... ", "?! ", " -", "! 🙂 ", "।"])
SAYS = st.sampled_from(["rome", "St", "Jean", "Luc", "the", "not", "no", "3", "500", "York", "D", "romes"])
PIECES = st.lists(st.tuples(SAYS, MARKS))
LONG_NAMES = st.sampled_from(
    [
        "Rome", "St. Jean", "Jean-Luc", "3,500", "York D", "Rome. Luc", "3", "the York", "D.C. Rome", "Rome Luc",
        "Rome!", "The Rome", "Romes", "-3", "🙂", "!", "Jean Luc York", "Jean-Luc York", "York",
    ]
)  # fmt: skip


@given(PIECES, PIECES, st.lists(LONG_NAMES, min_size=1, max_size=2), st.lists(LONG_NAMES, max_size=3), WHERE)
def test_what_is_enough_of_a_text_is_judged_as_the_whole(begun, more, new, names, where):
    assume(not {*new} & {*names})
    text, old, others, echo = "".join(a + b for a, b in begun), names[:1], names[1:2], names[2:]
    options = {"where": where, "echo": echo}
    if enough_for(new, old, others, **options)(text):
        for end in range(3):
            whole = text + "".join(a + b for a, b in more)[end:]
            assert replace(judge_answer(whole, new, old, others, **options), text=text) == judge_answer(
                text, new, old, others, **options
            )


@pytest.mark.parametrize(
    ("where", "text", "ends"),
    [
        ("start", " Rome", False),
        ("start", " Rome,", False),
        ("start", " the Rome of", False),
        ("start", " the Rome of old", True),
        ("sentence", "It is Rome", False),
        ("sentence", "It is Rome.", False),
        ("sentence", "It is Rome. And", True),
        ("sentence", "It is St. Louis", False),
    ],
)
def test_a_text_is_enough_once_its_answer_is_over(where, text, ends):
    assert enough_for(["Rome"], ["New York"], where=where)(text) is ends
