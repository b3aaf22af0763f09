"""Laws of what people bring: no part of a record is lost or taken for another without a word."""

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editing.edit import Edit
from editing.readers import BadRecord, Told, read_all, read_edits, records_from
from flows.cli.given import records
from tasks.ledger.reading import Read
from tasks.parquet import FOREIGN
from tests.editing.test_brought import FACT, read, refused, table, written

REWRITE = {"subject": "Zed", "prompt": "{} lives in", "target_new": {"str": "Rome"}, "target_true": {"str": "Oslo"}}
ZSRE = {"subject": "Zed", "src": "Where does Zed live?", "alt": "Rome", "answers": ["Oslo"]}


def unused(record: dict[str, Any]) -> list[str]:
    told = Told()
    assert not any(isinstance(one, BadRecord) for one in records_from(record, 1, told=told))
    return list(told.unused)


def from_parquet(folder: Path, columns: dict[str, Any]) -> list[Edit]:
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return read_all(folder / "a.parquet", foreign=FOREIGN)


@pytest.mark.parametrize(
    ("record", "names"),
    [
        ({"id": 9, "case_id": 7, "relation": "home", "en": ZSRE, "de": ZSRE}, ["id", "case_id", "relation"]),
        (FACT | {"target_new": {"str": "Rome", "id": "Q220", "aliases": ["Roma"]}}, ["target_new.aliases"]),
        (FACT | {"locality": [{"prompt": "a", "question": "b", "answer": "c"}]}, ["locality.question"]),
    ],
)
def test_what_stands_beside_or_within_and_is_not_read_is_named(record, names):
    assert unused(record) == names


def test_a_misspelling_beside_languages_is_one():
    assert "did you mean 'ticket'?" in refused({"tickets": 7, "en": ZSRE}).reason


@pytest.mark.parametrize(
    "record",
    [
        {"requested_rewrite": REWRITE},
        {"requested_rewrite": [REWRITE], "questions": ["Who?"], "new_answer": "X"},
        {"requested_rewrite": REWRITE | {"target_new": "Rome"}, "post": {}},
        {"en": ZSRE | {"src": "Zed lives in"}},
    ],
)
def test_what_joins_may_be_said_beside_a_fact_in_every_form(record):
    assert read(record | {"join": "none"}).taught == "Zed lives inRome" and "join" not in unused(record | {"join": " "})


def test_white_space_in_the_cell_of_a_join_is_what_joins(tmp_path):
    rows = [["subject", "prompt", "target_new", "join"], ["法国", "{}的首都是", "Lyon", " "], ["Zed", "{} is", "b", ""]]
    first, second = read_all(written(tmp_path, "a.csv", table(rows)))
    assert (first.taught, second.taught) == ("法国的首都是 Lyon", "Zed is b")


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (
            {"requested_rewrite": REWRITE, "subject": "Amy"},
            "'subject' and 'requested_rewrite.subject' are not the same",
        ),
        (FACT | {"locality": [{"prompt": "a", "answer": "b", "ground_truth": "c"}]}, "'ground_truth' and 'answer' say"),
        (FACT | {"locality": {"Amy lives in": "Lima"}}, "whether 'Amy lives in' is asked and 'Lima' the answer"),
        (FACT | {"locality": {"Amy lives in": ["Lima"]}}, "whether 'Amy lives in' is asked and 'Lima' the answer"),
    ],
)
def test_what_can_be_meant_in_two_ways_is_refused(record, says):
    assert says in refused(record).reason


@pytest.mark.parametrize(("case", "says"), [("7\0", "control character"), ("\ud800", "surrogate"), ("7" * 200, "200")])
def test_a_number_within_a_file_that_no_store_takes_is_refused(case, says):
    bad = refused(FACT | {"case_id": case})
    assert bad.field == "case_id" and says in bad.reason


@pytest.mark.parametrize("carried", [{"tags": [None]}, {"tags": [[" "]]}, {"priority": "normal"}, {"ticket": " "}])
def test_a_record_that_carries_nothing_is_a_fact(carried):
    assert read(FACT | carried) == read(FACT)


def test_two_that_say_the_same_are_one():
    same = {"prompt": "a", "answer": "b", "ground_truth": ["b"]}
    assert read(FACT | {"locality": [same]}).neighborhood[0].answer == "b"
    assert read({"requested_rewrite": REWRITE, "subject": "Zed"}).subject == "Zed"


@pytest.mark.parametrize("name", ["answers", "target", "target_new", "ans"])
def test_an_answer_of_a_probe_is_read_by_every_name_of_an_answer(name):
    record = FACT | {"locality": [{"prompt": "Amy lives in", name: "Lima"}]}
    assert read(record).neighborhood[0].answer == "Lima" and unused(record) == []


def test_neighbors_of_counterfact_may_have_answers_of_their_own():
    neighbors = ["Bo lives in", {"prompt": "Amy lives in", "target": "Lima"}, {"prompt": "Cy\0"}]
    told = Told()
    edit = read({"requested_rewrite": REWRITE, "neighborhood_prompts": neighbors}, told)
    assert [(one.prompt, one.answer) for one in edit.neighborhood] == [
        ("Bo lives in", "Oslo"),
        ("Amy lives in", "Lima"),
    ]
    assert "it was left out" in told.findings[edit.id][0]


@pytest.mark.parametrize("name", ["paraphrases", "rephrase_prompt", "neighborhood", "portability_prompt"])
def test_a_sentence_with_a_place_for_the_subject_has_it(name):
    edit = read(FACT | {name: ["The home of {} is", "Zed writes {} as"]})
    asked = edit.paraphrases or tuple(one.prompt for one in (*edit.neighborhood, *edit.portability))
    assert asked == ("The home of Zed is", "Zed writes {} as")


def test_a_probe_that_names_a_subject_is_about_it():
    record = FACT | {"locality": [{"prompt": "{} lives in", "subject": "Amy", "answer": "Lima"}]}
    assert read(record).neighborhood[0].prompt == "Amy lives in" and unused(record) == []


def test_a_sentence_of_a_command_has_the_subject_in_its_place():
    single = {**FACT, "paraphrases": ["The home of {} is"], "neighborhood": [{"prompt": "The age of {} is"}]}
    (edit,) = records([], single, None, Read())
    assert isinstance(edit, Edit)
    assert (edit.paraphrases, edit.neighborhood[0].prompt) == (("The home of Zed is",), "The age of Zed is")


def test_an_old_answer_that_is_the_new_one_in_other_bytes_is_none():
    edit = read(FACT | {"target_new": "Zoe\u0308", "ground_truth": "Zo\u00eb", "target_new_alias": ["Zoe\u0308"]})
    assert edit.target_true is None and edit.aliases == ()
    known = FACT | {"ground_truth": "Ame\u0301lie", "target_new_alias": ["Am\u00e9lie", "Roma"]}
    assert read(known).aliases == ("Roma",)


NEAR = {"near": {"prompt": ["Amy lives in"], "ground_truth": ["Lima"]}}


@pytest.mark.parametrize("write", [json.dumps, str])
@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet", "csv"])
def test_a_list_that_is_written_out_is_one_in_every_kind_of_file(tmp_path, ending, write):
    record = {
        "subject": "Zed",
        "prompt": "{} lives in",
        "target_new": write(["Rome", "Roma"]),
        "ground_truth": write(["Oslo"]),
        "rephrase_prompt": write(["Where is Zed?"]),
        "locality": write(NEAR),
    }
    if ending == "parquet":
        (edit,) = from_parquet(tmp_path, {name: [value] for name, value in record.items()})
    elif ending == "csv":
        (edit,) = read_all(written(tmp_path, "a.csv", table([[*record], [*record.values()]])))
    else:
        (edit,) = read_all(written(tmp_path, f"a.{ending}", json.dumps(record)))
    assert (edit.target_new, edit.aliases, edit.target_true) == ("Rome", ("Roma",), "Oslo")
    assert edit.paraphrases == ("Where is Zed?",)
    assert [(one.prompt, one.answer) for one in edit.neighborhood] == [("Amy lives in", "Lima")]


def test_a_fact_that_is_written_out_is_one_and_an_answer_of_errata_s_own_form_is_a_text():
    assert read({"requested_rewrite": str(REWRITE)}).target_true == "Oslo"
    assert read({"requested_rewrite": json.dumps([REWRITE])}).target_true == "Oslo"
    assert read(FACT | {"target_new": "['Rome']"}).target_new == "['Rome']"


def test_a_row_of_other_length_than_the_columns_is_a_bad_record(tmp_path):
    rows = [["Zed", "{} is", "a"], ["Zed", "{} is", "a", "b"], ["Zed", "{} was"], ["Zed", "{} was", "c"]]
    content = json.dumps({"columns": ["subject", "prompt", "target_new"], "data": rows})
    found = [*read_edits(written(tmp_path, "a.json", content))]
    assert [isinstance(one, BadRecord) for one in found] == [False, True, True, False]
    assert isinstance(found[1], BadRecord) and found[1].row == 2
    assert "has 4 values and there are 3 columns" in found[1].reason


@pytest.mark.parametrize(("index", "told"), [([0, 1], False), (["geo-1", "geo-2"], True), ([1.5, 2.5], True)])
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_an_index_that_is_no_number_of_a_row_is_named(tmp_path, ending, index, told):
    name = "__index_level_0__" if ending == "parquet" else ""
    columns = {name: index, "subject": ["Zed", "Amy"], "prompt": ["{} is"] * 2, "target_new": ["a", "b"]}
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        written(tmp_path, path.name, table([[*columns], *zip(*columns.values(), strict=True)]))
    said = Told()
    assert len([*read_edits(path, foreign=FOREIGN, told=said)]) == 2
    assert bool(said.unused) == told


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (pa.array([1970.0, None]), ["1970", None]),
        (pa.array([1970.0, float("nan")]), ["1970", None]),
        (pa.array([1970.5, None]), ["1970.5", None]),
        (pa.array([70.0, 71.0]), ["70.0", "71.0"]),
        (pa.array([70.1, None], pa.float32()), ["70.1", None]),
        (pa.array([70.5, float("inf")], pa.float16()), ["70.5", None]),
        (pa.array([None, None], pa.float64()), [None, None]),
        (pa.array([datetime.date(1970, 1, 2), None]), ["1970-01-02", None]),
    ],
)
def test_a_number_of_a_parquet_file_is_as_it_was_written(tmp_path, values, read):
    columns = {"subject": ["Zed", "Amy"], "prompt": ["{} is of"] * 2, "target_new": ["a", "b"], "target_true": values}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = [one for one in read_edits(tmp_path / "a.parquet", foreign=FOREIGN) if isinstance(one, Edit)]
    assert [one.target_true for one in found] == read[: len(found)] and found


def test_a_map_of_a_parquet_file_is_an_object(tmp_path):
    probe = pa.struct([("prompt", pa.string()), ("ground_truth", pa.string())])
    near = [[("near", [{"prompt": "Amy lives in", "ground_truth": "Lima"}])]]
    columns = {name: [value] for name, value in FACT.items()}
    (edit,) = from_parquet(tmp_path, columns | {"locality": pa.array(near, pa.map_(pa.string(), pa.list_(probe)))})
    assert [(one.prompt, one.answer) for one in edit.neighborhood] == [("Amy lives in", "Lima")]


@pytest.mark.parametrize("number", ["1.10", "1.0", "0.30", "12345678901234567890.5", "-0.50"])
def test_a_number_of_a_json_file_is_as_it_is_written(tmp_path, number):
    listed = f'{{"prompt": "Bo is", "answer": {number}}}'
    record = f'{{"subject": "Zed", "prompt": "{{}} is", "target_new": {number}, "portability": [{listed}]}}'
    for name, content in (("a.json", f"[{record}]"), ("a.jsonl", record)):
        (edit,) = read_all(written(tmp_path, name, content))
        assert (edit.target_new, edit.portability[0].answer) == (number, number)
    (edit,) = read_all(
        written(tmp_path, "a.json", '{"id": 7.0, "subject": "Zed", "prompt": "{} is", "target_new": 1e-999999999}')
    )
    assert (edit.id, edit.target_new) == ("7", "0.0")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("3e2", "300"),
        ("1.50E1", "15.0"),
        ("-25e-3", "-0.025"),
        ("1e21", "1" + 21 * "0"),
        ("0e5", "0"),
        ("1e-99999999999999999999", "0.0"),
    ],
)
def test_a_number_with_an_exponent_is_written_out(tmp_path, number, text):
    record = f'{{"subject": "Zed", "prompt": "{{}} is", "target_new": {number}}}'
    (edit,) = read_all(written(tmp_path, "a.json", f"[{record}]"))
    assert edit.target_new == text


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_an_answer_is_as_long_in_a_table_as_elsewhere(tmp_path, ending):
    record = FACT | {"target_new": "very " * 80_000 + "old"}
    content = table([[*record], [*record.values()]]) if ending == "csv" else json.dumps(record)
    assert len(read_all(written(tmp_path, f"a.{ending}", content))[0].target_new) == 400_003
