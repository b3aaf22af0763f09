"""The page of a version in MLflow: whole tables whatever users write, and never longer than MLflow's column."""

import html
import re

import pytest

from tasks.markdown import literal
from tasks.names import shown_version
from tasks.report.data import GoneRow
from tasks.report.description import LENGTH, Described, Fact, render_description, render_form, render_note
from tasks.text import visible
from tests.tasks.test_report import HOSTILE, make_edit, make_report

GONE = GoneRow(request_id="old", prompt="Ada was born in", target="Rome", what="retracted")
NASTY = [
    HOSTILE,
    "**b** _i_ ~~s~~",
    "www.evil.example",
    "http://evil.example",
    "a@evil.example",
    "&lt;b&gt;",
    "{{ 7*7 }} {% raw %} =HYPERLINK(1)",
    "a\n\n# b",
]


def described(facts: list[Fact], **changes) -> Described:
    fields = {"line": "facts", "number": 4, "mlflow_number": 1, "facts": facts, "own": len(facts)}
    return Described(**{**fields, "report": make_report(mlflow_versions={3: 7, 4: 1}, champion={}), **changes})


def test_a_version_is_shown_by_both_numbers():
    assert (shown_version(3, 1), shown_version(3)) == ("v3 (MLflow 1)", "v3")
    text = render_description(described([], below=["v3 (MLflow 7)"]))
    assert text.startswith("facts v4 (MLflow 1): 0 corrections. Approving it puts v3 (MLflow 7) in service, too.")
    assert "Champion v3 (MLflow 7)" in text and "errata approve facts --version 4" in text


def test_where_two_people_have_to_approve_no_page_says_that_one_could():
    one, two = (render_description(described([], reviewers=number)) for number in (1, 2))
    assert "to `approved` or `rejected`" in one and "errata reject facts --version 4" in one
    assert "Two different people approve it in MLflow's review queue" in two and "errata approve" not in two
    assert "set the tag `review` to `rejected`" in two and "errata reject facts --version 4" in two


@pytest.mark.parametrize("text", NASTY)
def test_what_users_and_models_write_holds_no_markup_and_is_read_as_written(text):
    written = literal(text)
    assert not re.search(r"[<>|*_`\[\](){}!~$\\\"'@:^=+\n]|www\.", re.sub(r"&#\d+;", "", written))
    assert html.unescape(written) == " ".join(visible(text).split())
    page = render_description(described([Fact(text, text, text, text, {"efficacy_prob": 1.0})]))
    [row] = [line for line in page.splitlines() if "prefers" in line]
    assert row.count("|") == 5


@pytest.mark.parametrize("text", NASTY)
def test_above_a_form_a_fact_is_a_line_of_a_list_and_nothing_says_how_to_decide_elsewhere(text):
    shown = render_form(described([Fact(text, text, text, text, {"efficacy_prob": 1.0})], below=["v3 (MLflow 7)"]))
    [item] = [line for line in shown.splitlines() if line.startswith("- ")]
    written = literal(text, 50)
    assert item == f"- {literal(text, 110)} **{written}** (before: {written}) ✓ prefers {written}"
    assert "Approving it puts v3 (MLflow 7) in service, too." in shown and "errata approve" not in shown


@pytest.mark.parametrize("count", [1, 60, 500])
def test_a_page_holds_as_many_facts_as_fit_and_says_how_many_more_there_are(count):
    facts = [
        Fact(f"{number} {HOSTILE}" * 3, "Rome", HOSTILE, HOSTILE, {"efficacy_argmax": 1.0}) for number in range(count)
    ]
    page = render_description(described(facts, page="#/experiments/1/runs/r/artifacts/report.html"))
    shown = page.count("✓ says it")
    assert len(page) <= LENGTH and shown >= 1 and "--reason" in page
    assert f"and {count - shown} more, see [report.html](#/exp" in page or shown == count == 1


def test_a_form_shows_ids_whole_and_says_how_many_facts_it_does_not_list_and_where_they_are():
    facts = [Fact(f"{n}", "Rome", request=f"{n}-" + "i" * 190) for n in range(60)]
    for some, gone in ((facts, ()), (facts[:3], ()), ([], (GONE,)), (facts[:2], (GONE,) * 70), (facts, (GONE,) * 3)):
        report = make_report(gone=gone)
        form = render_form(described(some, report=report))
        items = [line for line in form.splitlines() if line.startswith("- ")]
        assert items and len(form) <= LENGTH
        assert all(re.search(r" · \d+-i{190}$", item) or "retracted" in item for item in items)
        left = len(some) + len(gone) - len(items)
        told = f"and {left} more, see report.html; with their ids by `errata review facts`, too"
        assert (told in form) == (left > 0) and (" more, " in form) == (left > 0)


def test_the_note_of_a_run_lists_what_was_not_written_and_stays_short_enough():
    edits = [make_edit(number, "quarantined", HOSTILE) for number in range(300)]
    note = render_note(make_report(edits=1).model_copy(update={"edits": tuple(edits)}), {"v4 (MLflow 1)": "#/models"})
    rows = [line for line in note.splitlines() if line.startswith("| quarantined")]
    assert rows and {row.count("|") for row in rows} == {5} and len(note) <= LENGTH
    assert f"and {300 - len(rows)} more." in note and "[v4 (MLflow 1)](#/models)" in note
