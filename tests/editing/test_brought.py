"""Laws of what people bring beside the published cases: each misreading that was found, as its kind."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editing.edit import Edit
from editing.errors import ReadError
from editing.readers import BadRecord, Told, read_all, records_from
from tasks.parquet import FOREIGN

FACT = {"subject": "Zed", "prompt": "Zed lives in", "target_new": "Rome"}


def read(record: dict[str, Any], told: Told | None = None) -> Edit:
    (edit,) = records_from(record, 1, told=told)
    assert isinstance(edit, Edit), edit.reason
    return edit


def refused(record: dict[str, Any]) -> BadRecord:
    *_, bad = records_from(record, 1)
    assert isinstance(bad, BadRecord)
    return bad


def written(folder: Path, name: str, content: str | bytes) -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def table(rows: Sequence[Sequence[object]], **options: Any) -> str:
    made = io.StringIO()
    csv.writer(made, **options).writerows(rows)
    return made.getvalue()


TOKENS = [
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_turn>",
    "</s>",
    "[UNK]",
    "[SEP]",
    "<pad>\n",
]


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_that_stands_for_an_answer_nobody_knows_is_none_wherever_it_stands(token):
    near = {"near": {"prompt": ["Bo is in"], "ground_truth": [token]}}
    edit = read(FACT | {"ground_truth": [token], "locality": near, "target_new": ["Rome", token]})
    assert edit.target_true is None and edit.neighborhood[0].answer is None and edit.aliases == ()
    assert (
        f"target_new {token!r} stands for an answer that nobody knows" in refused(FACT | {"target_new": token}).reason
    )


def test_what_only_looks_like_such_a_token_is_an_answer():
    for answer in ("[Rome]", "<b>", "< Rome >", "|x|", "[unknown]"):
        assert read(FACT | {"target_new": answer}).target_new == answer


@pytest.mark.parametrize("form", ["locality_prompt", "loc", "locality"])
def test_the_tag_of_a_training_mixture_is_no_part_of_a_question(form):
    asked = "nq question: who wrote emma"
    given = {
        "locality_prompt": {"locality_prompt": asked, "locality_ground_truth": "Jane Austen"},
        "loc": {"loc": asked, "loc_ans": "Jane Austen"},
        "locality": {"locality": {"nq": {"prompt": asked, "ground_truth": "Jane Austen"}}},
    }[form]
    assert read(FACT | given).neighborhood[0].prompt == "who wrote emma"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("new_target", "target_new"),
        ("true_target", "target_true"),
        ("query", "queries"),
        ("prompts_paraphrase", "paraphrase_prompts"),
        ("Target New", "target_new"),
        ("annotator", None),
    ],
)
def test_words_of_a_name_in_another_order_or_number_are_a_misspelling(name, near):
    fact = {"subject": "Zed", "prompt": "Zed lives in", "target": "Rome"} if near == "queries" else FACT
    told = Told()
    record = {field: value for field, value in fact.items() if field != near} | {name: "x"}
    (read,) = records_from(record, 1, told=told)
    if near is None:
        assert isinstance(read, Edit) and list(told.unused) == [name]
    else:
        assert isinstance(read, BadRecord) and f"did you mean '{near}'?" in read.reason


def test_a_note_of_a_probe_is_named_as_not_used():
    told = Told()
    probes = [{"prompt": "The capital of Italy is", "answer": "Rome", "note": "checked by Ann"}]
    (read,) = records_from(FACT | {"portability": probes}, 1, told=told)
    assert isinstance(read, Edit) and [one.answer for one in read.portability] == ["Rome"]
    assert list(told.unused) == ["portability.note"]


def test_findings_of_a_record_that_comes_twice_are_all_told():
    told = Told()
    for letter in "QR":
        probe = {"prompt": letter * 3000, "answer": "Rome"}
        made = read(FACT | {"portability": [probe]}, told)
    assert len(told.findings[made.id]) == 2


def test_a_bad_fact_of_one_language_is_named_once():
    bad = refused({"en": {"subject": "Zed", "src": "Where is Zed?", "alt": "Rome"}, "xx": {"src": "a", "alt": "b"}})
    assert bad.field == "xx.subject"


@pytest.mark.parametrize(
    ("given", "finding"),
    [
        ({"subject": "art", "prompt": "What is drunk at a party?"}, "its subject 'art' stands inside the word 'party'"),
        ({"subject": "서울", "prompt": "서울은 어느 나라의 수도인가?"}, None),
        ({"subject": "Wien", "prompt": "Die Wiener wohnen in"}, None),
        ({"subject": "法国", "prompt": "在法国的首都是"}, None),
        ({"prompt": "The Chinese name of Zed is", "target_new": "罗马", "join": "none"}, None),
        ({"prompt": "Zed lives in R", "target_new": "ome", "join": "none"}, "its prompt ends in the middle of a word"),
        ({"target_new": "Zedland"}, None),
        ({"target_new": "the house of ZED"}, "its answer 'the house of ZED' holds its subject"),
        (
            {"subject": "法国", "prompt": "法国的首都是", "target_new": "法国里昂"},
            "its answer '法国里昂' holds its subject",
        ),
    ],
)
def test_what_is_cut_out_of_a_word_is_worth_a_look(given, finding):
    told = Told()
    edit = read(FACT | given, told)
    found = told.findings.get(edit.id, ())
    assert [one.startswith(finding) for one in found] == [True] if finding else found == ()


HEADER = ["subject", "prompt", "target_new", "ground_truth", "rephrase_prompt"]
ROW = ["Zed", "Zed, who sings, lives in", "Rome", "Oslo", "Where, Zed?"]
TABLES = {
    "spaces after commas": "subject, prompt, target_new, ground_truth, rephrase_prompt\n"
    'Zed, "Zed, who sings, lives in", Rome, Oslo, "Where, Zed?"\n',
    "a comma at the end of every line": table([HEADER, ROW], lineterminator=",\n"),
    "commas at the end of some lines": table([HEADER, [*ROW, "", ""]]),
    "rows of nothing": table([HEADER, ["", "", "", "", ""], ROW, ["", " ", "", "", ""]]),
    "UTF-16 without a mark": table([HEADER, ROW]).encode("utf-16-le"),
    "UTF-16, the other way round": table([HEADER, ROW]).encode("utf-16-be"),
    "UTF-32": table([HEADER, ROW]).encode("utf-32"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_read_as_programs_write_it(tmp_path, kind):
    (edit,) = read_all(written(tmp_path, "a.csv", TABLES[kind]))
    assert (edit.text, edit.target_new, edit.target_true) == (ROW[1], "Rome", "Oslo")
    assert edit.paraphrases == ("Where, Zed?",)


def test_a_cell_under_no_name_that_holds_something_is_no_row(tmp_path):
    with pytest.raises(ReadError, match="row 1: line 2 has 6 cells and the header 5"):
        read_all(written(tmp_path, "a.csv", table([[*HEADER, ""], [*ROW, "x"]])))


@pytest.mark.parametrize(
    ("cell", "paraphrases"),
    [
        ("['a', nan]", ("a",)),
        ("[nan, 'a']", ("a",)),
        ('["a", NaN]', ("a",)),
        ("[None, 'a', null]", ("a",)),
        ("('a', 'b')", ("a", "b")),
        ("array(['a', 'b'], dtype=object)", ("a", "b")),
        ("[np.str_('a'), np.str_('b')]", ("a", "b")),
        ("[array(['a'], dtype=object), array(['b'], dtype=object)]", ("a", "b")),
        ("nan", ()),
        ("NaN", ()),
        ("<NA>", ()),
        ("None", ()),
        ("null", ()),
        ("('a' or 'b')", ("('a' or 'b')",)),
        ("(a, b)", ("(a, b)",)),
        ("print('a')", ("print('a')",)),
    ],
)
def test_a_cell_is_what_the_program_meant_that_wrote_it(tmp_path, cell, paraphrases):
    rows = [["subject", "prompt", "target_new", "rephrase_prompt"], ["Zed", "{} is in", "Rome", cell]]
    assert read_all(written(tmp_path, "a.csv", table(rows)))[0].paraphrases == paraphrases


def test_none_is_an_answer_and_nan_is_not(tmp_path):
    rows = [["subject", "prompt", "target_new"], ["Zed", "How many moons has {}?", "None"]]
    assert read_all(written(tmp_path, "a.csv", table(rows)))[0].target_new == "None"
    rows[1][2] = "nan"
    with pytest.raises(ReadError, match=r"row 1: .*target_new"):
        read_all(written(tmp_path, "b.csv", table(rows)))


def test_columns_and_splits_are_read_under_any_name(tmp_path):
    columns = {name: [value, value.replace("Zed", "Amy")] for name, value in FACT.items()}
    for content in (columns, {"train": [FACT, FACT | {"subject": "Amy", "prompt": "Amy lives in"}]}):
        found = read_all(written(tmp_path, "a.jsonl", json.dumps(content) + "\n"))
        assert [edit.subject for edit in found] == ["Zed", "Amy"]


def test_texts_of_a_parquet_file_that_are_stored_as_bytes_are_texts(tmp_path):
    columns = {name: pa.array([value.encode(), b"\xff"]) for name, value in FACT.items()}
    lists = {"rephrase": pa.array([[b"Where is Zed?"], None])}
    pq.write_table(pa.table(columns | lists), tmp_path / "a.parquet")
    with pytest.raises(ReadError, match=r"row 2: .*bytes"):
        read_all(tmp_path / "a.parquet", foreign=FOREIGN)
    (edit,) = read_all(tmp_path / "a.parquet", foreign=FOREIGN, limit=1)
    assert (edit.text, edit.target_new, edit.paraphrases) == ("Zed lives in", "Rome", ("Where is Zed?",))
