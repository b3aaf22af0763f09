"""Laws of the text that is taught: what joins prompt and answer, and where the subject stands."""

import json

import pytest

from editing.edit import Edit, InvalidField, make_edit
from editing.filled import Filled
from editing.groups import content_digest
from editing.measure.in_context import stated
from editing.measure.metrics import edit_pairs
from editing.readers import record_from
from editing.request import make_request, with_join
from editing.taught import join_of, taught
from editing.tokens import target_ids


@pytest.mark.parametrize(
    ("prompt", "target", "joined"),
    [
        ("Ada lives in", "Rome", " "),
        ("Ada lives in ", "Rome", ""),
        ("Ada lives in\n", "Rome", ""),
        ("Where does Ada live?", "Rome", " "),
        ("法国的首都是", "里昂", ""),
        ("西游记的作者是：", "小明", ""),
        ("首都は", "Rome", ""),
        ("エッフェル塔は", "ローマ", ""),
        ("เมืองหลวงคือ", "โรม", ""),
        ("ເມືອງຫຼວງແມ່ນ", "ໂລມ", ""),
        ("프랑스의 수도는", "리옹", " "),
        ("The capital in Chinese is", "里昂", " "),
        ('The motto is "', "Go on", ""),
        ('She said "yes" and', "went", " "),
        ('The song is called "Hey"', "by", " "),
        ("The motto is “", "Go on", ""),
        ("Das Motto ist „", "Los", ""),
        ("Das Buch „Faust“", "ist von", " "),
        ("La devise est «", "Oui", ""),
        ("It is (", "Rome", ""),
        ("It is (so)", "Rome", " "),
        ("The file is src/", "app.py", ""),
        ("the players'", "union", " "),
        ("It rose to 5", "%", ""),
        ("It rose to 5", "% of all", ""),
        ("Acme", ", Inc.", ""),
        ("It is over", ".", ""),
        ("It is over", "!?", ""),
        ("Mono is", ".NET", " "),
        ("The pseudo-class is", ":hover", " "),
        ("他说", "。", ""),
        ("It costs $", "5", " "),
        ("", "Rome", ""),
        ("ꦏꦸꦛꦤꦺ", "ꦫꦺꦴꦩ", ""),
        ("រាជធានីគឺ\u200b", "រ៉ូម", ""),
        ("Ada lives in\u200b", "\u200eRome", " "),
        ("葛\U000e0100", "城", ""),
        ("値段は￥", "500", ""),
        ("法国的首都是:", "里昂", ""),
        ("法国的首都是哪里?", "里昂", ""),
        ("法国的首都是——", "里昂", ""),
        ("他说……", "好", ""),
        ("他生于1957", "年", ""),
        ("法国的首都是:", "Lyon", " "),
        ("제목은 '", "로마", ""),
        ("השם הוא ״", "רומא", ""),
        ('She said "Go on', '"', ""),
        ('She said "Go on', '" and left', ""),
        ('She said "yes" and', '"no"', " "),
        ("It is over", "۔", ""),
        ("It is over", "။", ""),
        ("It is over", "።", ""),
    ],
)
def test_what_joins_prompt_and_answer_is_known_from_both(prompt, target, joined):
    assert join_of(prompt, target) == joined and taught(prompt, target) == prompt + joined + target


def test_an_answer_in_a_chat_begins_as_its_script_does():
    conversation = Filled("<s>[INST] ? [/INST]", rendered=True)
    assert join_of(conversation, "里昂") == "" and join_of(conversation, "Lyon") == " "


FACT = {"subject": "Zed", "prompt": "{} lives in", "target_new": "Rome"}
ASKED = {"paraphrases": ["Where is Zed?"], "neighborhood": [{"prompt": "Bo is in", "answer": "Lima"}]}


@pytest.mark.parametrize(("given", "join"), [("", ""), ("none", ""), (" ", " "), ("Space", " "), ("line", "\n")])
def test_a_request_may_say_what_joins_all_that_is_asked_about_it(tiny_llama, given, join):
    edit = make_edit(FACT | ASKED | {"join": given})
    assert edit.taught == f"Zed lives in{join}Rome" and make_edit(json.loads(edit.model_dump_json())) == edit
    for prompt, target in edit_pairs(edit, edit.neighborhood):
        assert taught(prompt, target) == prompt + join + target
        alone = target_ids(tiny_llama.tokenizer, "\n", f"{join}{target}" if join != "\n" else target)
        assert target_ids(tiny_llama.tokenizer, prompt, target) == alone or join == "\n"
    assert stated(edit).taught.count(f"Zed lives in{join}Rome") == 2


def test_a_line_joins_what_does_not_say_itself_how():
    plain, own = make_edit(FACT | ASKED), make_edit(FACT | ASKED | {"join": " "})
    assert with_join(plain, None) is plain and with_join(own, "") is own
    joined = with_join(plain, "")
    assert joined.taught == "Zed lives inRome" and joined.id == plain.id
    assert [taught(*pair) for pair in edit_pairs(joined, joined.neighborhood)][1] == "Where is Zed?Rome"
    carried = with_join(make_request(FACT | {"ticket": "1", "expires": "2099-01-01"}), "")
    assert carried.carried["ticket"] == "1" and carried.taught == "Zed lives inRome"


def test_what_is_joined_by_a_space_is_known_as_before_and_nothing_else():
    plain = make_edit(FACT)
    assert "join" not in plain.model_dump() and plain.id == make_edit(FACT | {"join": ""}).id
    assert content_digest([plain]) == content_digest([make_edit(FACT | {"join": " "})])
    assert content_digest([plain]) != content_digest([make_edit(FACT | {"join": ""})])


@pytest.mark.parametrize(
    ("subject", "prompt", "stored", "template"),
    [
        ("Нефть", "К какому сырью относится нефть?", "нефть", "К какому сырью относится {}?"),
        ("O'Neal", "O’Neal’s sport is", "O’Neal", "{}’s sport is"),
        ("Jean-Paul", "Jean–Paul is in", "Jean–Paul", "{} is in"),
        ("New York", "New\u00a0York is in", "New\u00a0York", "{} is in"),
        ("art", "Art of the party is", "Art", "{} of the party is"),
        ("STRASSE", "Die Straße heißt", "Straße", "Die {} heißt"),
        ("Zoe\u0308", "Zo\u00eb works in", "Zo\u00eb", "{} works in"),
        ("Iran", "Iranians who live in Iran and iran speak", "Iran", "Iranians who live in {} and iran speak"),
        ("istanbul", "İstanbul hangi ülkede?", "İstanbul", "{} hangi ülkede?"),
        ("i\u0307stanbul", "İstanbul hangi ülkede?", "İstanbul", "{} hangi ülkede?"),
        ("IĞDIR", "Iğdır ilinin plakası", "Iğdır", "{} ilinin plakası"),
        ("Lake  Como", "Lake Como is in", "Lake Como", "{} is in"),
        ("Lake Como", "Where is Lake \u00a0Como?", "Lake \u00a0Como", "Where is {}?"),
        ("\u200fירושלים", "העיר ירושלים\u200f נמצאת ב", "ירושלים", "העיר {}\u200f נמצאת ב"),
        ("Zed", "\ufeffZed lives in", "Zed", "\ufeff{} lives in"),
        ('D "The Rock" J', "D “The Rock” J is", "D “The Rock” J", "{} is"),
        ('צה"ל', "צה״ל הוא", "צה״ל", "{} הוא"),
        ("תל-אביב", "תל־אביב היא", "תל־אביב", "{} היא"),
        ("Qur'an", "The Qurʾan is", "Qurʾan", "The {} is"),
        ("O'ahu", "Oʻahu is in", "Oʻahu", "{} is in"),
        ("New York", "New\u2005York is in", "New\u2005York", "{} is in"),
        ("cooperation", "The co\u00adoperation is", "co\u00adoperation", "The {} is"),
        ("میخواهم", "او می\u200cخواهم است", "می\u200cخواهم", "او {} است"),
        ("❤ Co", "❤\ufe0f Co is", "❤\ufe0f Co", "{} is"),
        ("السيد", "\u2067السيد\u2069 هو", "السيد", "\u2067{}\u2069 هو"),
    ],
)
def test_a_subject_is_found_as_its_prompt_writes_it(subject, prompt, stored, template):
    edit = make_edit({"subject": subject, "prompt": prompt, "target_new": "x"})
    assert (edit.subject, edit.prompt) == (stored, template)


def test_white_space_at_the_end_of_a_prompt_is_kept_and_an_answer_may_have_lines():
    edit = make_edit(FACT | {"prompt": " {} lives in \n", "target_new": " Rome\r\nItaly ", "paraphrases": [" So? "]})
    assert (edit.prompt, edit.target_new, edit.paraphrases) == ("{} lives in \n", "Rome\nItaly", ("So? ",))
    assert make_edit(FACT | {"target_new": "very " * 1_000 + "old"}).target_new.endswith("old")


def test_a_correction_without_a_subject_is_refused_with_what_to_do_instead():
    assert "A text or a rule has none: put it into the model's prompt" in record_from({"prompt": "Be kind."}, 1).reason


def test_what_joins_is_refused_where_it_says_something():
    with pytest.raises(InvalidField, match="neither white space nor nothing"):
        make_request(FACT | {"join": "and"})
    assert isinstance(make_request(FACT | {"join": "none"}), Edit)
