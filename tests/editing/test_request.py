"""Laws of what a request carries besides its fact, and of names that nobody reads."""

import csv
import json
from datetime import UTC, date, datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editing.edit import Edit, InvalidField, make_edit
from editing.readers import BadRecord, Told, read_edits, record_from
from editing.request import CARRIED, Request, fact_of, make_request
from tasks.parquet import FOREIGN
from tests.editing.test_readers import COUNTERFACT, EASYEDIT, FORMS, KNOWEDIT, MQUAKE, OWN, ZSRE, read

MORE = {
    "source": "the atlas, p. 3",
    "requested_by": "Eve",
    "ticket": "GEO-17",
    "tags": ["maps", "urgent review"],
    "priority": "urgent",
    "not_before": "2026-12-01",
    "expires": "2027-01-01T02:00:00+02:00",
    "replaces": "geo-3",
}
STORED = MORE | {"not_before": "2026-12-01T00:00:00Z", "expires": "2027-01-01T00:00:00Z"}


@pytest.mark.parametrize("form", [*FORMS, "mquake"])
@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_every_form_and_file_brings_what_a_request_carries(tmp_path, form, ending):
    fields, path = (FORMS | {"mquake": MQUAKE})[form] | MORE, tmp_path / f"any.{ending}"
    if ending == "parquet":
        moments = {"not_before": date(2026, 12, 1), "expires": datetime(2027, 1, 1, tzinfo=UTC)}
        pq.write_table(pa.Table.from_pylist([fields | moments]), path)
    else:
        path.write_text(json.dumps([fields]))
    for request in read_edits(path, foreign=FOREIGN):
        assert isinstance(request, Request) and request.carried == STORED
        assert make_request(request.model_dump(mode="json")) == request


def test_a_table_of_texts_brings_it_too(tmp_path):
    own = {
        **{name: text for name, text in OWN.items() if isinstance(text, str)},
        **MORE,
        "tags": "maps | urgent review",
    }
    with (tmp_path / "any.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, [*own])
        rows.writeheader()
        rows.writerows([own, own | dict.fromkeys(MORE, "") | {"id": "2"}])
    full, bare = read_edits(tmp_path / "any.csv")
    assert full.carried == STORED and type(bare) is Edit


def test_what_is_not_told_is_no_part_of_a_request_and_none_of_it_is_of_its_fact():
    plain, full = make_request(OWN), make_request(OWN | MORE)
    assert plain == make_edit(OWN) == fact_of(full) and type(fact_of(full)) is Edit
    assert fact_of(full).model_dump() == plain.model_dump() and not set(CARRIED) & plain.model_dump().keys()
    assert make_request(OWN | {"priority": "normal", "tags": []}) == plain
    assert make_request({**OWN, "id": "", "ticket": "1"}).id == make_edit({**OWN, "id": ""}).id


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("not_before", "tomorrow", "not_before 'tomorrow' is no point in time; write it as 2026-12-01T08:00:00Z"),
        ("expires", "2026-12-01T08:00:00", "has no time zone"),
        ("expires", 1_700_000_000, "expires 1700000000 is no point in time"),
        ("expires", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))), "is no point in time"),
        ("expires", "2026-11-01", "is not later than not_before"),
        ("priority", "asap", "priority must be 'urgent', 'normal' or 'low', and is str 'asap'"),
        ("ticket", 17, "ticket must be a text"),
        ("tags", "maps", "tags must be a list"),
        ("tags", ["a\0"], "control character"),
        ("source", "x" * 501, "at most 500"),
        ("replaces", "1", "replaces '1' names the request itself"),
    ],
)
def test_what_a_request_cannot_carry_is_one_line(field, value, message):
    with pytest.raises(InvalidField) as caught:
        make_request(OWN | {"not_before": "2026-11-30"} | {field: value})
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith("edit '1': ")


def test_what_is_urgent_may_be_written_in_any_case():
    assert make_request(OWN | {"priority": " Urgent "}).priority == "urgent"


@pytest.mark.parametrize(
    ("form", "name", "nearest"),
    [
        (OWN, "target", "target_new"),
        (OWN, "targetNew", "target_new"),
        (OWN, "Subject", "subject"),
        (OWN, "paraphrase", "paraphrases"),
        (OWN, "neighbors", "neighborhood"),
        (OWN, "expire", "expires"),
        (OWN, "rephrase_promt", "rephrase_prompt"),
        (OWN, "tag", "tags"),
        (COUNTERFACT, "paraphrase_prompt", "paraphrase_prompts"),
        (EASYEDIT, "localities", "locality"),
        (ZSRE, "rephrased", "rephrase"),
        (MQUAKE, "question", "questions"),
        (KNOWEDIT, "tickets", "ticket"),
    ],
)
def test_a_misspelled_field_is_an_error_with_the_nearest_name(form, name, nearest):
    bad = record_from(form | {name: "x"}, 1)
    assert isinstance(bad, BadRecord) and bad.field == name
    assert bad.reason.endswith(f"unknown field '{name}'; did you mean '{nearest}'?")


@pytest.mark.parametrize(
    "name", ["comment", "author", "url", "uid", "x", "lang", "created_at", "cond", "pararel_idx", ""]
)
@pytest.mark.parametrize("form", [OWN, COUNTERFACT, ZSRE, EASYEDIT, KNOWEDIT, MQUAKE])
def test_any_other_field_is_left_alone_and_named_once_a_file(tmp_path, form, name):
    told = Told()
    records = read(tmp_path, "a.jsonl", [form | {name: "x"}] * 3, told=told)
    assert not any(isinstance(record, BadRecord) for record in records)
    assert list(told.unused).count(name) == 1 and records[0] == record_from(form, 1)
