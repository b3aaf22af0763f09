"""Laws of the forms: each is told, read and documented, from the one table that lists them."""

import json
import re
from pathlib import Path

import pytest

from editing.edit import Edit
from editing.readers import BadRecord, Told, records_from
from editing.readers.forms import COMMON, FORMS, Form, Names, form_of
from editing.request import Request

PAGE = Path(__file__).parents[2] / "docs/requests.md"
TABLE = re.compile(r"<!-- forms: begin -->\n(.*?)<!-- forms: end -->", re.DOTALL)
FACT = {"subject": "Zed", "prompt": "Zed lives in", "target_new": "Rome"}
ASKED = {"paraphrases": ["Where is Zed?"], "neighborhood": [("Amy lives in", "Lima")]}
ZSRE = {"subject": "Zed", "src": "Where does Zed live?", "alt": "Rome", "answers": ["Oslo"], "loc": "a", "loc_ans": "b"}
SAMPLES: dict[str, tuple[dict, dict]] = {
    "RippleEdits": ({"example_type": "popular", "edit": {"subject_id": "Q1", "prompt": "Zed is in Rome."}}, {}),
    "MQuAKE": (
        {"requested_rewrite": [FACT, FACT | {"target_new": {"str": "Bonn"}}], "questions": ["Who?"], "new_answer": "X"},
        {"target_new": "Bonn", "portability": [("Who?", "X")]},
    ),
    "EasyEdit's result logs": (
        {"case_id": 0, "pre": {}, "post": {}, "time": 1.5, "requested_rewrite": FACT | {
            "rephrase_prompt": "Where is Zed?",
            "locality": {"near": {"prompt": ["Amy lives in"], "ground_truth": ["Lima"]}},
        }},
        ASKED,
    ),
    "CounterFact": (
        {"requested_rewrite": FACT | {"target_true": {"str": "Oslo"}}, "paraphrase_prompts": ["Where is Zed?"],
         "neighborhood_prompts": ["Bo lives in"], "generation_prompts": ["x"]},
        {"target_true": "Oslo", "paraphrases": ["Where is Zed?"], "neighborhood": [("Bo lives in", "Oslo")]},
    ),
    "multilingual zsRE": (
        {"en": ZSRE, "zh": ZSRE | {"subject": "法国", "src": "法国的首都是哪里？", "alt": "里昂"}},
        {"subject": "法国", "target_new": "里昂", "neighborhood": [("a", "b")]},
    ),
    "zsRE (MEND)": (ZSRE | {"rephrase": "Where is Zed?"}, {"target_true": "Oslo", "neighborhood": [("a", "b")]}),
    "WikiBigEdit": (
        {"tag": "new", "subject": "Zed", "update": "Where does Zed live?", "ans": "Rome", "rephrase": "Where is Zed?",
         "personas": "Ahoy, where be Zed?", "loc": "Amy lives in", "loc_ans": "Lima", "mhop": "And?",
         "mhop_ans": "Italy"},
        ASKED | {"paraphrases": ["Where is Zed?", "Ahoy, where be Zed?"], "portability": [("And?", "Italy")]},
    ),
    "UltraEditBench": (
        {"case_id": 1, "subject": "Zed", "prompt": "Where does Zed live?", "rephrase_prompt": "Where is Zed?",
         "ans": "Rome", "loc": "Amy lives in", "loc_ans": "Lima"},
        ASKED,
    ),
    "FastEdit, QAEdit": (
        {"id": 3, "subject": "Zed", "prompt": "{} lives in", "target": "Rome", "queries": ["Where is Zed?"],
         "locality": [{"loc": "Amy lives in", "loc_ans": "Lima"}]},
        ASKED | {"id": "3"},
    ),
    "HalluEditBench": (
        {"topic": "x", "subject": "Zed", "relation": "home", "object": "Rome", "question": "Where does Zed live?",
         "paraphrased_question": "Where is Zed?", "locality_question": "What does Zed do?", "no_question": "Is it?",
         "yes_questions": "Is it?", "question_2hop": "In which country is Zed?", "answer_2hop": "Italy"},
        {"paraphrases": ["Where is Zed?"], "neighborhood": [("What does Zed do?", None)], "question": None,
         "portability": [("In which country is Zed?", "Italy")]},
    ),
    "CKnowEdit": (
        {"subject": "Zed", "prompt": "{} lives in", "answer": "Rome", "target_old": "Oslo", "rephrase": "Where is Zed?",
         "locality": [{"prompt": "Amy lives in", "answer": "Lima"}]},
        ASKED | {"target_true": "Oslo"},
    ),
    "EasyEdit, KnowEdit": (
        FACT | {"target_old": "<|endoftext|>", "rephrase": ["Where is Zed?"], "target_new": ["Rome", "Roma"],
         "locality": [{"prompt": "Amy lives in", "answer": "Lima"}], "portability_prompt": ["a", "b"],
         "portability_ground_truth": ["c", "d"]},
        ASKED | {"target_true": None, "aliases": ["Roma"], "portability": [("a", "c"), ("b", "d")]},
    ),
    "Errata's own": (
        FACT | {"id": 4711, "join": "none", "target_true": 1970,
         "neighborhood": ["Bo is in", {"prompt": "Cy", "answer": "d"}]},
        {"id": "4711", "join": "", "target_true": "1970", "neighborhood": [("Bo is in", None), ("Cy", "d")]},
    ),
}  # fmt: skip


def found(edit: Edit, name: str) -> object:
    value = getattr(edit, name)
    if name in ("neighborhood", "portability"):
        return [(probe.prompt, probe.answer) for probe in value]
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_form_is_told_by_its_fields_and_read(form):
    record, wanted = SAMPLES[form.name]
    assert form_of(record) is form
    read = records_from(record, 1)
    if not wanted:
        assert isinstance(read[0], BadRecord) and form.name in read[0].reason
        return
    wanted = {"subject": "Zed", "target_new": "Rome"} | wanted
    assert {name: found(read[-1], name) for name in wanted} == wanted and read[-1].prompt.count("{}") == 1


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_what_was_read_is_the_same_when_it_is_written_in_errata_s_own_form_and_read_again(form):
    for edit in records_from(SAMPLES[form.name][0], 1):
        assert isinstance(edit, BadRecord) or records_from(json.loads(edit.model_dump_json()), 1) == [edit]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_field_of_a_sample_is_used_or_told(form):
    """A field that is taken away from the sample changes what is read, or was told as not used."""
    record, wanted = SAMPLES[form.name]
    if not wanted:
        return
    told = Told()
    whole = records_from(record, 1, told=told)
    for name in record:
        without = records_from({key: value for key, value in record.items() if key != name}, 1)
        assert name in told.unused or without != whole or name == "target_old", name
    assert set(told.unused) <= form.left | {f"requested_rewrite.{name}" for name in form.left}


def cells(form: Form) -> list[str]:
    """A row of the table in docs/requests.md."""
    used = [*form.inside, *names_in(form.names)]
    if form.name.startswith("EasyEdit, "):
        used = [name for name in names_in(COMMON) if name not in Request.model_fields]
    others = {"RippleEdits": "none: it is refused", "multilingual zsRE": "those of zsRE"}
    return [
        f"{form.name} ({form.source})" if form is not FORMS[-1] else form.name,
        form.told_by,
        ", ".join(f"`{name}`" for name in used) or others.get(form.name, "the fields above"),
        ", ".join(f"`{name}`" for name in form.unused),
    ]


def names_in(names: Names) -> list[str]:
    both = [(name,) if isinstance(name, str) else name for some in names.values() for name in some]
    return [part for name in both for part in name]


def table() -> str:
    rows = [["form", "told by", "its own fields", "not used"], ["---"] * 4, *map(cells, FORMS)]
    return "".join("| " + " | ".join(row).rstrip() + " |\n" for row in rows)


def test_the_page_of_requests_lists_every_form_with_its_fields():
    assert TABLE.search(PAGE.read_text())[1] == table()


def test_samples_are_json():
    assert json.loads(json.dumps(SAMPLES)).keys() == {form.name for form in FORMS}
