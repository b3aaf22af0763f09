"""Laws of the readers: every record comes out, good or named; nothing but the library's errors, whatever the bytes."""

import csv
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editing.edit import Edit, Probe, make_edit
from editing.errors import ErrataError, ReadError, UsageError
from editing.readers import BadRecord, printable, read_all, read_cases, read_edits, record_from
from editing.readers import lines as reader_lines
from tasks.parquet import FOREIGN, read_text

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ERRATA_DATA", ROOT / "../shared/data"))
OWN = {
    "id": "1",
    "subject": "Ada",
    "prompt": "{} lives in",
    "target_new": "Rome",
    "target_true": "Oslo",
    "paraphrases": ["Ada has a home in", "The home of Ada is in"],
    "neighborhood": [{"prompt": "Bob lives in", "answer": "Oslo"}, {"prompt": "Cy lives in"}],
}
COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} lives in",
        "subject": "Ada",
        "target_new": {"str": "Rome"},
        "target_true": {"str": "Oslo"},
    },
    "paraphrase_prompts": ["Ada has a home in"],
    "neighborhood_prompts": ["Bob lives in"],
    "attribute_prompts": ["ignored"],
}
FLAT = {
    "case_id": 7,
    "subject": "Ada",
    "prompt": "Ada lives in",
    "target_new": "Rome",
    "ground_truth": "Oslo",
    "rephrase_prompt": "Ada has a home in",
    "locality_prompt": "Bob lives in",
    "locality_ground_truth": "Oslo",
}
ZSRE = {
    "subject": "Ada",
    "src": "Where does Ada live?",
    "rephrase": "In which city does Ada live?",
    "alt": "Rome",
    "answers": ["Oslo", "Oslo city"],
    "loc": "nq question: where does bob live",
    "loc_ans": "Oslo",
}
EASYEDIT = {
    "subject": "Ada",
    "prompt": "Ada lives in",
    "target_new": "Rome",
    "ground_truth": "Oslo",
    "rephrase_prompt": "Ada has a home in",
    "locality": {"neighborhood": {"prompt": ["Bob lives in", "Cy lives in"], "ground_truth": ["Oslo", "Bonn"]}},
    "portability": {"one_hop": {"prompt": "Ada lives in the country of", "ground_truth": "Italy"}},
}
KNOWEDIT = {
    "subject": "Ada",
    "prompt": "Ada lives in",
    "target_new": "Rome",
    "ground_truth": ["Oslo"],
    "rephrase_prompt": None,
    "locality": {"Relation_Specificity": [{"prompt": "The age of Ada is", "ground_truth": [["36", "thirty-six"]]}]},
    "portability": [{"type": "Reasoning", "prompt": "Ada lives in the country of", "ground_truth": ["Italy"]}],
}
MQUAKE = {
    "case_id": 3,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Libya", "id": "Q1016"},
            "target_true": {"str": "Chile", "id": "Q298"},
            "subject": "Ann Example",
            "question": "What is the country of citizenship of Ann Example?",
        },
        {
            "prompt": "The capital of {} is",
            "target_new": {"str": "Franklin"},
            "target_true": {"str": "Tripoli"},
            "subject": "Libya",
            "question": "What is its capital?",
        },
    ],
    "questions": ["Where is the seat of Ann's country?", "What is the capital of Ann's country?"],
    "answer": "Santiago",
    "answer_alias": [],
    "new_answer": "Franklin",
    "new_answer_alias": ["Franklin, Kentucky", "Franklin"],
    "new_single_hops": [
        {"question": "Of what is Ann a citizen?", "cloze": "Ann Example is a citizen of", "answer": "Libya"},
        {"question": "What is Libya's capital?", "cloze": "The capital of Libya is", "answer": "Franklin",
         "answer_alias": ["Franklin city"]},
    ],
}  # fmt: skip
FORMS = {"own": OWN, "counterfact": COUNTERFACT, "flat": FLAT, "zsre": ZSRE, "easyedit": EASYEDIT, "knowedit": KNOWEDIT}
HOSTILE = st.text(max_size=12) | st.sampled_from(["{}", "\0", "\ud800", "Ada", "a=>b|c", "x" * 3_000])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3),
    max_leaves=6,
)
FEW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(folder: Path, name: str, content: str | bytes | list[object], **options) -> list[Edit | BadRecord]:
    path = folder / name
    if not isinstance(content, (str, bytes)):
        content = "\n".join(json.dumps(value) for value in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_edits(path, **options))


def refusal(folder: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(ReadError) as caught:
        read(folder, name, content)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_every_form_tells_the_same_fact_in_every_kind_of_file(tmp_path, form, ending):
    path = tmp_path / f"any.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([FORMS[form]]), path)
    else:
        path.write_text(json.dumps([FORMS[form]] if ending == "json" else FORMS[form]))
    (edit,) = read_all(path, foreign=FOREIGN)
    assert (edit.text.split()[-1] in ("in", "live?"), edit.target_new, edit.target_true) == (True, "Rome", "Oslo")
    assert edit.subject == "Ada" and edit.prompt.count("{}") == 1


def test_the_probes_of_every_form_find_their_place():
    edits = {form: record_from(fields, 1) for form, fields in FORMS.items()}
    bob = Probe(prompt="Bob lives in", answer="Oslo")

    def italy(group: str) -> tuple[Probe, ...]:
        return (Probe(prompt="Ada lives in the country of", answer="Italy", group=group),)

    assert edits["counterfact"] == edits["flat"] and re.fullmatch("cf-7-[0-9a-f]{6}", edits["flat"].id)
    assert edits["flat"].neighborhood == (bob,) and edits["flat"].paraphrases == ("Ada has a home in",)
    assert edits["zsre"].neighborhood == (Probe(prompt="where does bob live", answer="Oslo"),)
    assert edits["zsre"].paraphrases == ("In which city does Ada live?",)
    cy = {"prompt": "Cy lives in", "answer": "Bonn"}
    assert edits["easyedit"].neighborhood == tuple(
        Probe(**probe, group="neighborhood") for probe in (bob.model_dump(), cy)
    )
    assert edits["easyedit"].portability == italy("one_hop") and edits["knowedit"].portability == italy("Reasoning")
    age = Probe(prompt="The age of Ada is", answer="36", aliases=("thirty-six",), group="Relation_Specificity")
    assert edits["knowedit"].neighborhood == (age,) and edits["knowedit"].paraphrases == ()


def test_answers_that_are_as_right_are_kept_and_those_of_further_targets_are_not():
    probe = {"type": "Forgetfulness", "prompt": "Who"}

    def read(answers: object) -> Probe:
        return record_from(KNOWEDIT | {"portability": [probe | {"ground_truth": answers}]}, 1).portability[0]

    assert read(["USA", "U.S.", "USA", "", "a\0b"]).answers == ("USA", "U.S.")
    assert read([["Ann", "Anna"], ["Bea", "Beatrix"]]).answers == ("Ann", "Anna")
    assert read("Ann").answers == ("Ann",) and read([]).answers == ()


def test_facts_of_a_mquake_record_come_together_the_last_with_the_questions(tmp_path):
    (tmp_path / "mquake.json").write_text(json.dumps([MQUAKE, OWN]))
    (first, second), (own,) = read_cases(tmp_path / "mquake.json")
    assert (first.text, first.target_new, first.target_true) == ("Ann Example is a citizen of", "Libya", "Chile")
    assert first.question == "What is the country of citizenship of {}?" and second.question is None
    assert (second.text, second.target_new, second.portability) == (
        "The capital of Libya is",
        "Franklin",
        second.portability,
    )
    assert second.aliases == ("Franklin city", "Franklin, Kentucky")
    assert first.portability == ()
    hop, ann, libya = second.portability
    assert (hop.group, hop.answers) == ("2-hop", ("Franklin", "Franklin, Kentucky"))
    assert (hop.prompt, hop.wordings) == (MQUAKE["questions"][0], (MQUAKE["questions"][1],))
    assert (ann.group, ann.prompt, ann.answers) == ("1-hop", "Ann Example is a citizen of", ("Libya",))
    assert libya.answers == ("Franklin", "Franklin city") and own == make_edit(OWN)
    assert read_all(tmp_path / "mquake.json") == [first, second, own]


def test_a_broken_mquake_record_is_one_bad_record_that_names_its_field():
    for broken, field in (
        ({"requested_rewrite": []}, "requested_rewrite"),
        ({"requested_rewrite": [*MQUAKE["requested_rewrite"], {"prompt": "{} is"}]}, "requested_rewrite[2].subject"),
        ({"new_single_hops": "none"}, "new_single_hops"),
        ({"questions": {}}, "questions"),
    ):
        found = record_from(MQUAKE | broken, 4)
        assert isinstance(found, BadRecord) and (found.row, found.field) == (4, field), broken


def test_what_release_0_1_stored_of_a_probe_is_stored_alike():
    assert Probe(prompt="Bob lives in").model_dump() == {"prompt": "Bob lives in", "answer": None}


def test_an_answer_that_was_already_right_is_no_target_true():
    assert record_from(ZSRE | {"answers": ["Rome"]}, 1).target_true is None


def test_other_spellings_and_the_way_a_person_asks_find_their_place_and_a_question_is_its_own():
    spelled = FORMS["knowedit"] | {"target_new": ["Rome", "Roma"], "target_new_alias": [["The City"], "oslo"]}
    assert record_from(spelled, 1).aliases == ("Roma", "The City")
    hops = [{"question": "?", "answer": "Rome", "answer_alias": ["Roma"]}, {"answer": "Italy", "answer_alias": ["It"]}]
    rewrite = COUNTERFACT["requested_rewrite"] | {"question": "Where does Ada live?"}
    asked = COUNTERFACT | {"requested_rewrite": rewrite, "new_single_hops": hops}
    asked |= {"new_answer": "Italy", "new_answer_alias": ["Italia"]}
    found = record_from(asked, 1)
    assert (found.question, found.aliases) == ("Where does {} live?", ("Roma",))
    assert record_from(asked | {"new_answer": "Rome", "new_answer_alias": ["ROMA"]}, 1).aliases == ("Roma", "ROMA")
    nameless = asked | {"requested_rewrite": rewrite | {"question": "Where does she live?"}}
    assert record_from(nameless, 1).question is None
    # What was submitted before is known again: no form says more of these records than it did.
    for form in ("counterfact", "flat", "zsre", "easyedit", "knowedit"):
        assert not {"question", "aliases"} & record_from(FORMS[form], 1).model_dump().keys()


@FEW
@given(st.lists(JSON, min_size=1, max_size=4))
def test_any_json_gives_one_record_for_each_value_and_good_ones_are_not_lost(tmp_path, values):
    values = [v for value in values for v in (value, OWN)]
    for name, content in (("a.jsonl", values), ("a.json", json.dumps(values))):
        records = read(tmp_path, name, content)
        assert records[1::2] == [make_edit(OWN)] * (len(values) // 2) and len(records) == len(values)
        for row, record in enumerate(records, start=1):
            if isinstance(record, BadRecord):
                assert record.row == row and len(record.reason.splitlines()) == 1
                (record.reason + record.raw).encode("utf-8")


@FEW
@given(st.sampled_from(sorted(FORMS)), st.data())
def test_a_field_of_any_form_may_hold_anything(form, data):
    fields = dict(FORMS[form])
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    record = record_from(fields, 3)
    assert isinstance(record, Edit) or (record.row == 3 and record.field)


@FEW
@given(st.binary(max_size=60), st.sampled_from(["json", "jsonl", "csv", "parquet"]), st.booleans())
def test_any_bytes_give_records_or_the_librarys_errors(tmp_path, noise, ending, with_a_good_start):
    starts = {"json": b"[" + json.dumps(OWN).encode(), "jsonl": json.dumps(OWN).encode() + b"\n", "parquet": b"PAR1"}
    start = starts.get(ending, b"subject,prompt,target_new\nAda,Ada is,b\n") if with_a_good_start else b""
    try:
        read(tmp_path, f"a.{ending}", start + noise, foreign=FOREIGN)
    except ErrataError as error:
        assert len(str(error).splitlines()) == 1


@FEW
@given(st.integers(0, 2_000), st.binary(min_size=1, max_size=8))
def test_a_damaged_parquet_file_gives_records_or_the_librarys_errors(tmp_path, place, noise):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([OWN] * 3), path)
    whole = path.read_bytes()
    place %= len(whole)
    try:
        read(tmp_path, "b.parquet", whole[:place] + noise + whole[place + len(noise) :], foreign=FOREIGN)
    except ErrataError as error:
        assert len(str(error).splitlines()) == 1


WORDS = st.text("ab é{}😀\"',;\n", min_size=1, max_size=9)
EDITS = st.builds(
    lambda subject, rest, new, paraphrases, probes, aliases, asked: {
        "subject": subject.replace("{}", ""),
        "prompt": "{}" + rest.replace("{}", ""),
        "target_new": new,
        "paraphrases": paraphrases,
        "neighborhood": [{"prompt": prompt, "answer": answer} for prompt, answer in probes],
        "aliases": aliases,
        "question": "What of {}?" if asked else None,
    },
    *[st.text("ab é😀\"',;", min_size=1, max_size=9)] * 3,
    st.lists(WORDS, max_size=2),
    st.lists(st.tuples(WORDS, st.none() | st.just("b")), max_size=2),
    st.lists(WORDS, max_size=2),
    st.booleans(),
)


@pytest.mark.parametrize(
    ("field", "value"), [("not_before", "2031-01-01T00:00:00Z"), ("replaces", "bad")], ids=["expires first", "itself"]
)
def test_what_contradicts_itself_is_one_bad_record_and_stops_no_other(tmp_path, field, value):
    row = {"id": "bad", "subject": "S", "prompt": "The {} is", "target_new": "T", "expires": "2030-01-01T00:00:00Z"}
    good = {"id": "good", "subject": "S", "prompt": "The {} is", "target_new": "T"}
    first, second = read(tmp_path, "a.jsonl", "".join(json.dumps(one) + "\n" for one in (row | {field: value}, good)))
    assert isinstance(first, BadRecord) and field in first.reason and "\n" not in first.reason
    assert isinstance(second, Edit) and second.id == "good"


@pytest.mark.slow
@FEW
@given(st.lists(EDITS.map(lambda fields: record_from(fields, 1)).filter(lambda r: isinstance(r, Edit)), min_size=1))
def test_errata_s_own_form_survives_writing_and_reading(tmp_path, edits):
    lines = "\n".join(edit.model_dump_json() for edit in edits)
    assert read(tmp_path, "a.jsonl", lines) == edits
    assert read(tmp_path, "a.json", json.dumps([edit.model_dump() for edit in edits], indent=1)) == edits
    columns = [{"aliases": [], "question": None} | edit.model_dump() for edit in edits]
    pq.write_table(pa.Table.from_pylist(columns), tmp_path / "a.parquet")
    assert read_all(tmp_path / "a.parquet", foreign=FOREIGN) == edits
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "subject", "prompt", "target_new", "paraphrases", "neighborhood", "question", "aliases"])
        for edit in edits:
            probes = [probe.model_dump() for probe in edit.neighborhood]
            lists = [json.dumps(edit.paraphrases), str(probes), edit.question or "", json.dumps(edit.aliases)]
            table.writerow([edit.id, edit.subject, edit.prompt, edit.target_new, *lists])
    assert read_all(tmp_path / "a.csv") == edits


def test_a_bad_line_is_named_by_row_and_field_and_stops_nothing(tmp_path):
    good = json.dumps(OWN)
    lines = [
        good,
        "{",
        "",
        "[]",
        '{"subject": [{}], "prompt": "{}", "target_new": "a"}',
        '{"a": 1, "a": 2}',
        "[" * 9_000,
    ]
    records = read(tmp_path, "a.jsonl", "\n".join([*lines, '{"a": 1' + "0" * 5_000 + "}", good]))
    bad = [record for record in records if isinstance(record, BadRecord)]
    assert [record.row for record in bad] == [2, 4, 5, 6, 7, 8] and len(records) == 8
    assert bad[0].reason == "line 2 is not JSON: Expecting property name enclosed in double quotes at column 2"
    assert bad[2].field == "subject" and bad[2].raw == lines[4]
    assert bad[3].reason == "field 'a' stands in it twice; keep one of them"


@pytest.mark.parametrize(
    "record",
    ['{"subject": "Ada", "prompt": "{} is", "target_new": 1e400}', '{"subject": "Ada", "prompt": 1.50}', "2.5"],
)
def test_a_number_in_the_place_of_something_else_is_called_what_it_is(tmp_path, record):
    [bad] = read(tmp_path, "numbers.jsonl", record)
    assert isinstance(bad, BadRecord) and "Written" not in bad.reason, bad.reason
    assert re.search(r"is float (inf|1\.5|2\.5)|is missing", bad.reason), bad.reason


def test_a_bad_byte_is_named_by_its_position(tmp_path):
    good = json.dumps(OWN).encode()
    first, bad, last = read(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + good + b"\n{\xff}\n" + good)
    assert f"byte 0xff at byte position {3 + len(good) + 2} " in bad.reason and first == last
    start = b"\xef\xbb\xbf[" + good + b"," + b" " * 70_000
    assert f"byte position {len(start) + 1} " in refusal(tmp_path, "a.json", start + b'"\xc3')
    _, bad, _ = read(tmp_path, "a.csv", b"subject,prompt,target_new\nA,{} is,b\nA,\xe9,c\nB,{} is,d\n")
    assert "byte 0xe9 at byte position 38 " in bad.reason and bad.row == 2


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    for path, words in [(tmp_path / "none.json", "no file"), (tmp_path, "is a folder"), (Path("a\0"), "cannot open")]:
        with pytest.raises(ReadError, match=words):
            read_edits(path)
    assert "is empty" in refusal(tmp_path, "a.json", "")
    for name, content in [("a.json", "[]"), ("b.json", " \n"), ("a.jsonl", "\n\n"), ("a.csv", "subject,prompt\n")]:
        assert "holds no record" in refusal(tmp_path, name, content)
    assert "line 3: not JSON, Expecting" in refusal(tmp_path, "a.json", '[{"a": 1},\n{"b": 2},\n{"c" 3}]')
    assert "line 3: text follows the object" in refusal(tmp_path, "a.json", '{"a":\n1}\n]')
    assert "nested too deeply" in refusal(tmp_path, "a.json", "[" * 100_000)
    assert "UTF-16" in refusal(tmp_path, "a.jsonl", b"\xff\xfe{}\x00")
    assert "tasks.parquet.FOREIGN" in refusal(tmp_path, "a.parquet", b"PAR1")
    assert ".jsonl, .json, .ndjson, .csv, .tsv, .parquet, also packed" in refusal(tmp_path, "a.doc", "x")
    assert "column 'subject' twice" in refusal(tmp_path, "a.csv", "subject,subject\na,b\n")
    assert "separate the columns by commas" in refusal(tmp_path, "a.csv", "subject/prompt\na/b\n")
    with pytest.raises(UsageError, match="limit is -1"):
        read_edits(tmp_path / "a.csv", limit=-1)
    with pytest.raises(ReadError, match="row 2: edit '1': unknown field 'target'"):
        read_all(write_lines(tmp_path, [OWN, OWN | {"target": "x"}]))


def write_lines(folder: Path, values: list[dict]) -> Path:
    path = folder / "lines.jsonl"
    path.write_text("\n".join(json.dumps(value) for value in values))
    return path


def test_a_broken_csv_row_stops_nothing(tmp_path):
    rows = ["subject,prompt,target_new", "A,{} is,b", "A,{} is", 'A,"{} "is,b', "", "B,{} is,c", '"open,{} is,d', "x"]
    records = read(tmp_path, "a.csv", "\n".join(rows))
    assert [record.row for record in records if isinstance(record, BadRecord)] == [2, 3, 5]
    assert "line 3 has 2 cells and the header 3" in records[1].reason
    assert "lines 7 to 8: broken CSV" in records[4].reason
    assert [record.subject for record in records if isinstance(record, Edit)] == ["A", "B"]


def test_a_giant_record_or_file_is_refused_without_being_held(tmp_path, monkeypatch):
    good, giant = json.dumps(OWN), '{"subject": "' + "x" * 2_500_000 + '"}'
    first, bad, last = read(tmp_path, "a.jsonl", f"{good}\n{giant}\n{good}")
    assert "more than 1,000,000 bytes" in bad.reason and len(bad.raw) == 2_000 and first == last
    assert "at most 1,000,000 characters" in refusal(tmp_path, "a.json", f"[{good}, {giant}]")
    monkeypatch.setattr(reader_lines, "FILE_BYTES", 10)
    assert "at most 10 are read" in refusal(tmp_path, "a.json", good)


def test_a_list_is_read_element_by_element(tmp_path):
    numbers = [make_edit(OWN | {"id": str(number)}) for number in range(500)]
    text = "[" + ",".join(edit.model_dump_json() for edit in numbers) + ", {broken"
    path = tmp_path / "a.json"
    path.write_text(text)
    assert list(read_edits(path, limit=500)) == numbers
    with pytest.raises(ReadError, match="line 1: not JSON"):
        read_all(path)


def test_a_mixture_of_forms_is_read_and_refused_where_it_says_two_things():
    assert record_from(OWN | {"ground_truth": "Oslo"}, 1) == record_from(OWN, 1)
    record = record_from(OWN | {"ground_truth": "Bonn"}, 1)
    assert isinstance(record, BadRecord) and record.field == "ground_truth"
    assert "'target_true' and 'ground_truth' say what target_true is, and not the same; keep one" in record.reason


def test_printable_text_has_neither_nul_nor_half_pairs():
    assert printable("a\0\ud800é\n") == "a\\x00\\ud800é\n" and len(printable("\0" * 5_000)) == 2_000


def test_texts_come_from_lines_or_from_a_column(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two\n", encoding="utf-8")
    pq.write_table(pa.table({"text": ["one", None, " ", " two"], "n": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    assert read_text(tmp_path / "a.txt") == read_text(tmp_path / "a.parquet") == ["one", " two"]
    for field, words in [("m", "no column 'm'; its columns are text, n"), ("n", "holds int64")]:
        with pytest.raises(ReadError, match=words):
            read_text(tmp_path / "a.parquet", field)
    (tmp_path / "b.txt").write_bytes(b"ab\xff")
    with pytest.raises(ReadError, match="byte 0xff at byte position 2"):
        read_text(tmp_path / "b.txt")
    with pytest.raises(ReadError, match="cannot read"):
        read_text(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("name", "rows", "bad"),
    [
        ("counterfact_dev", 2_116, []),
        ("counterfact_flat_dev", 10_736, []),
        ("zsre_dev", 1_500, []),
        ("zsre_train", 1_000, [(535, "alt"), (724, "alt")]),
        ("knowedit_zsre_dev", 400, []),
        ("ripple_wiki_recent_dev", 250, []),
    ],
)
def test_the_published_sets_read_but_for_the_records_that_have_no_target(name, rows, bad):
    path = DATA / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is absent; ERRATA_DATA names the folder with the benchmark data")
    records = list(read_edits(path, foreign=FOREIGN))
    assert len(records) == rows
    assert [(record.row, record.field) for record in records if isinstance(record, BadRecord)] == bad


def test_the_demo_s_requests_hold_one_malformed_and_one_contradiction():
    records = list(read_edits(ROOT / "deployments/demo/requests.jsonl"))
    edits = [record for record in records if isinstance(record, Edit)]
    (malformed,) = (record for record in records if isinstance(record, BadRecord))
    assert malformed.field == "prompt" and "which does not stand in it" in malformed.reason
    assert len({(edit.subject, edit.prompt) for edit in edits}) == len(edits) - 1
    assert all(len(edit.paraphrases) == 2 and len(edit.neighborhood) >= 3 and edit.target_true for edit in edits)
    asked = {edit.text for edit in edits}
    assert not any(probe.prompt in asked for edit in edits for probe in edit.neighborhood)
