"""Laws of files: the same records, whatever holds them, and one line for what holds none."""

import csv
import gzip
import io
import json
import resource
import sys
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editing.edit import Edit
from editing.errors import ErrataError, ReadError
from editing.readers import BadRecord, read_all, read_cases, read_edits, records_from
from editing.readers import json_tables as tables
from editing.readers.told import Told
from tasks.ledger.reading import Read, judged, read_requests, verdicts
from tasks.parquet import FOREIGN, parquet_rows

RECORDS = [
    {
        "subject": "Zed",
        "prompt": "Zed lives in",
        "target_new": "Rome",
        "ground_truth": "Oslo",
        "rephrase": "Where, Zed?",
    },
    {
        "subject": "Amy",
        "prompt": 'Amy, "A", is in',
        "target_new": "Lima",
        "ground_truth": "Bonn",
        "rephrase": "A; b\tc",
    },
]
WANTED = [("Zed", "Rome", "Oslo", ("Where, Zed?",)), ("Amy", "Lima", "Bonn", ("A; b\tc",))]
COLUMNS = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}
LINES = "\n".join(map(json.dumps, RECORDS)) + "\n"


def table(delimiter: str = ",", quote: str = '"', index: str | None = None, **options: object) -> str:
    written = io.StringIO()
    rows = csv.writer(written, delimiter=delimiter, quotechar=quote, **options)
    rows.writerow([*([] if index is None else [index]), *RECORDS[0]])
    rows.writerows([*([] if index is None else [number]), *record.values()] for number, record in enumerate(RECORDS))
    return written.getvalue()


FILES: dict[str, str | bytes] = {
    "list.json": json.dumps(RECORDS, indent=1),
    "one line.jsonl": json.dumps(RECORDS),
    "lines.json": LINES,
    "lines.ndjson": LINES,
    "lines": LINES,
    "objects.json": "\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "objects.jsonl": "\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "train.json": json.dumps({"train": RECORDS[:1], "test": RECORDS[1:], "version": 2}),
    "data.json": json.dumps({"data": RECORDS}),
    "nested.json": json.dumps({"data": {"train": RECORDS}}),
    "viewer.json": json.dumps({"rows": [{"row_idx": i, "row": record} for i, record in enumerate(RECORDS)]}),
    "viewer with types.json": json.dumps(
        {
            "features": [{"feature_idx": i, "name": name, "type": {}} for i, name in enumerate(COLUMNS)],
            "rows": [{"row_idx": i, "row": record, "truncated_cells": []} for i, record in enumerate(RECORDS)],
        }
    ),
    "columns.json": json.dumps(COLUMNS),
    "pandas.json": json.dumps({name: dict(enumerate(values)) for name, values in COLUMNS.items()}),
    "split.json": json.dumps({"columns": [*COLUMNS], "index": [0, 1], "data": [[*one.values()] for one in RECORDS]}),
    "by name.json": json.dumps({"first": RECORDS[0], "second": RECORDS[1]}),
    "comma.csv": table(),
    "semicolon.csv": table(";"),
    "tab.csv": table("\t"),
    "bar.csv": table("|"),
    "tab.tsv": table("\t"),
    "table": table(),
    "single.csv": table(quote="'"),
    "all quoted.csv": table(";", "'", quoting=csv.QUOTE_ALL),
    "escaped.csv": table(doublequote=False, escapechar="\\"),
    "excel.csv": "sep=;\n" + table(";"),
    "mark.csv": table(";").encode("utf-8-sig"),
    "wide.csv": table("\t").encode("utf-16"),
    "wide.json": json.dumps(RECORDS).encode("utf-16"),
    "index.csv": table(index=""),
    "unnamed.csv": table(index="Unnamed: 0"),
    "returns.csv": table(lineterminator="\r"),
    "returns.jsonl": LINES.replace("\n", "\r"),
    "returns packed.csv.gz": gzip.compress(table(";", lineterminator="\r").encode("utf-8-sig")),
    "packed.jsonl.gz": gzip.compress(LINES.encode()),
    "packed.csv.gz": gzip.compress(table().encode()),
    "packed.json.zst": bytes(pa.compress(json.dumps(RECORDS).encode(), codec="zstd", asbytes=True)),
}


@pytest.mark.parametrize("name", FILES)
def test_the_same_records_come_out_of_every_kind_of_file(tmp_path, name):
    content = FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_all(tmp_path / name, foreign=FOREIGN)
    assert [(edit.subject, edit.target_new, edit.target_true, edit.paraphrases) for edit in found] == WANTED


def test_a_table_of_pandas_has_its_index_passed_over(tmp_path):
    values = COLUMNS | {"__index_level_0__": [3, 4]}
    pq.write_table(pa.table(values), tmp_path / "a.parquet")
    read = Read()
    found = [*read_requests([tmp_path / "a.parquet"], read=read)]
    assert [edit.subject for edit in found] == ["Zed", "Amy"] and read.unused == []


@pytest.mark.parametrize(
    ("cell", "truth", "aliases"),
    [
        ('["Oslo", "Oslo city"]', "Oslo", ("Roma",)),
        ("['Oslo', 'Oslo city']", "Oslo", ("Roma",)),
        ("['Oslo' 'Oslo city']", "Oslo", ("Roma",)),
        ("[Oslo]", "[Oslo]", ("Roma",)),
    ],
)
def test_a_cell_may_hold_a_written_out_list(tmp_path, cell, truth, aliases):
    locality = "{'near': {'prompt': ['Bo is in'], 'ground_truth': ['Lima']}}"
    rows = [
        ["subject", "prompt", "target_new", "ground_truth", "locality"],
        ["Zed", "{} is in", "['Rome', 'Roma']", cell, locality],
    ]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (edit,) = read_all(tmp_path / "a.csv")
    assert (edit.target_true, edit.target_new, edit.aliases) == (truth, "Rome", aliases)
    assert [(probe.prompt, probe.answer) for probe in edit.neighborhood] == [("Bo is in", "Lima")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", json.dumps(COLUMNS | {"subject": ["Zed"]}), "columns of unequal length"),
        ("a.json.gz", b"\x1f\x8bno", "cannot unpack"),
        ("a.json.zst", b"\x28\xb5\x2f\xfdno", "cannot unpack"),
        ("a.csv", b"\xff\xfea\x00b", "UTF-16"),
        ("a.json", '{"train": []}', "subject"),
        (
            "a.csv",
            "subject,prompt,target_new,locality\nZed,{} is,b,\"[{'prompt': 'a'\"\n",
            "row 1: column 'locality' begins",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ReadError, match=says) as caught:
        read_all(tmp_path / name, foreign=FOREIGN)
    assert len(str(caught.value).splitlines()) == 1


def test_a_large_object_of_lists_is_read_element_by_element(tmp_path, monkeypatch):
    for module in (tables, sys.modules["editing.readers.json_values"]):
        monkeypatch.setattr(module, "RECORD_BYTES", 1_000)
    many = [
        record | {"subject": f"{record['subject']}{i}", "prompt": "{} is"} for i in range(300) for record in RECORDS
    ]
    for content in (
        {"info": "x", "train": many[:200], "test": many[200:]},
        {name: [one[name] for one in many] for name in many[0]},
    ):
        (tmp_path / "a.json").write_text(json.dumps(content))
        assert [edit.subject for edit in read_all(tmp_path / "a.json")] == [one["subject"] for one in many]


def test_a_quote_that_nobody_closes_is_a_letter_of_a_tsv(tmp_path):
    (tmp_path / "a.tsv").write_text('subject\tprompt\ttarget_new\nZed\t"Zed lives in\tRome\n')
    (edit,) = read_all(tmp_path / "a.tsv")
    assert edit.prompt == '"{} lives in'


def test_several_files_a_folder_and_standard_input_are_read_as_one(tmp_path, monkeypatch):
    for name, record in zip(("a.json", "b.jsonl"), RECORDS, strict=True):
        (tmp_path / name).write_text(json.dumps(record))
    (tmp_path / "notes.md").write_text("none")
    (tmp_path / "._a.json").write_bytes(b"\0\5\x16\7 what macOS writes beside a file")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(table().encode())))
    for paths in ([tmp_path], [tmp_path / "b.jsonl", tmp_path / "a.json"], [Path("-")]):
        assert {edit.subject for edit in read_requests(paths)} == {"Zed", "Amy"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="holds no file of requests"):
        [*read_requests([tmp_path / "empty"])]


def test_one_name_is_one_request_in_a_file_and_in_several(tmp_path):
    named = [record | {"id": 7} for record in RECORDS]
    counted = [record | {"case_id": 7, "annotator": "A"} for record in RECORDS]
    for number, content in enumerate(([named[0], named[0]], named[1:], counted[:1], counted[1:])):
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    read = Read()
    found = verdicts(judged(read_requests([tmp_path], read=read)), read)
    assert (found["good"], found["bad"]) == (4, 1)
    assert found["records"][2]["reason"].startswith("1.json: request '7' was read before with other content")
    assert found["not_used"] == ["2.json: `annotator` not used", "3.json: `annotator` not used"]
    first, second = (record["edit"]["id"] for record in found["records"][3:])
    assert first != second and {first[:5], second[:5]} == {"cf-7-"}


def test_a_probe_that_cannot_be_used_is_left_out_with_a_finding(tmp_path):
    record = RECORDS[0] | {
        "rephrase": ["ok", "x" * 3_000],
        "locality": [{"prompt": "a\0"}, {"prompt": "Bo", "answer": "b"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(record))
    read = Read()
    (row,) = verdicts(read_requests([tmp_path / "a.json"], read=read), read)["records"]
    assert row["edit"]["paraphrases"] == ["ok"] and [probe["prompt"] for probe in row["edit"]["neighborhood"]] == ["Bo"]
    long, control = row["findings"]
    assert "rephrase[1] 'xxx" in long and "control character" in control and control.endswith("; it was left out")


def test_a_file_of_something_else_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("editing.readers.HOPELESS", 5)
    for good_at, read in ((3, 9), (None, None)):
        rows = ["Ada,{} is,b" if number == good_at else "x" for number in range(9)]
        (tmp_path / "a.csv").write_text("\n".join(["subject,prompt,target_new", *rows]))
        if read:
            assert len([*read_edits(tmp_path / "a.csv")]) == read
        else:
            with pytest.raises(ReadError, match="none of its first 5 records can be read; look at the file"):
                [*read_edits(tmp_path / "a.csv")]


STARTS = [*(value.encode() if isinstance(value, str) else value for value in FILES.values()), b""]


@pytest.mark.slow
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(STARTS),
    st.data(),
    st.sampled_from(["json", "jsonl", "csv", "tsv", "parquet", "json.gz", "zst", ""]),
)
def test_any_bytes_end_in_records_or_one_line(tmp_path, start, data, ending):
    for _ in range(data.draw(st.integers(0, 3))):
        place, size = data.draw(st.integers(0, len(start))), data.draw(st.integers(0, 9))
        start = start[:place] + data.draw(st.binary(max_size=6)) + start[place + size :]
    ends_in_records_or_one_line(tmp_path, ending, start)


@pytest.mark.parametrize("ending", ["columns", "json", "jsonl", "csv", "parquet"])
def test_how_far_the_reading_is_grows_to_the_end_with_the_records(tmp_path, ending):
    rows = [{"subject": f"Ada {i}", "prompt": "{} was born in", "target_new": "Rome" * 50} for i in range(5000)]
    path = tmp_path / f"a.{'json' if ending == 'columns' else ending}"
    if ending == "csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    elif ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text(
            json.dumps({name: [row[name] for row in rows] for name in rows[0]} if ending == "columns" else rows)
        )
    told, far = Told(), []
    for _ in read_cases(path, foreign=FOREIGN, told=told):
        far.append(told.at / told.size)
    assert len(far) == 5000 and far == sorted(far) and far[-1] > 0.95
    assert far[2499] == pytest.approx(0.5, abs=0.2)  # who foretells the end at half of it is right


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_published_files_end_in_records_or_one_line(tmp_path, data_dir, data):
    name = data.draw(st.sampled_from(["zsre_dev", "knowedit_zsre_dev", "counterfact_dev", "ripple_wiki_recent_dev"]))
    rows = [*islice(parquet_rows(data_dir / f"{name}.parquet"), 3)]
    whole = json.dumps(rows) if data.draw(st.booleans()) else "\n".join(map(json.dumps, rows))
    for _ in range(data.draw(st.integers(1, 4))):
        place, size = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 40))
        put = data.draw(st.sampled_from(['"', "{", "]", ",", "null", "[1]", "\\", "\n", ""]))
        whole = whole[:place] + put + whole[place + size :]
    ends_in_records_or_one_line(tmp_path, "json", whole.encode())


def ends_in_records_or_one_line(folder: Path, ending: str, content: bytes) -> None:
    path = folder / f"a.{ending}"
    path.write_bytes(content)
    try:
        for record in read_edits(path, foreign=FOREIGN):
            if isinstance(record, Edit):
                (again,) = records_from(json.loads(record.model_dump_json()), 1)
                assert again == record
            else:
                assert len(record.reason.splitlines()) == 1
    except ErrataError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_records(tmp_path):
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        path.write_text("\n".join(json.dumps(RECORDS[0] | {"id": str(i)}) for i in range(count)))
        assert not any(isinstance(record, BadRecord) for record in read_edits(path))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    few, many = peak(1_000), peak(10_000)
    assert many - few < 30_000 * (1024 if sys.platform == "darwin" else 1)
