"""The pages of a job: complete, self-contained, and safe whatever a model writes."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from flows.cli.console import console
from flows.cli.jobs import show_report
from tasks.report import figures
from tasks.report.data import Check, GoneRow, LiveFacts
from tasks.report.description import fact_of
from tasks.report.metrics import metric_lines
from tasks.report.render import BatchRow, EditRow, JobReport, Sample, render_html, render_markdown, table_json
from tasks.report.verdict import check_lines, headline

HOSTILE = "<script>alert(1)</script>|`x`[a](javascript:b)\u202eevil\0"
BASE = {"efficacy_prob": 0.3, "locality_prob": 0.735, "fluency": 6.0, "perplexity_ratio": 1.0}
GOOD = {"efficacy_prob": 0.98, "locality_prob": 0.72, "fluency": 5.9, "perplexity_ratio": 1.02}
CHECKS = (
    Check(measure="efficacy", value=0.98, limit=0.9, field="min_efficacy", sample=50, holds=True),
    Check(measure="neighbors_said", value=2.0, limit=3.0, field="max_locality_drop", sample=20, holds=True),
    Check(measure="perplexity", value=1.02, limit=1.1, field="max_perplexity_ratio", holds=True),
    Check(measure="retained", limit=0.9, field="min_retained", sample=0, holds=True),
)
POLICY = {"min_efficacy": 0.9, "max_locality_drop": 0.05, "min_fluency_ratio": 0.9, "max_perplexity_ratio": 1.1}

HEARD = "<h2>What users will hear"


def make_edit(number: int, state: str = "committed", text: str = "Rome") -> EditRow:
    reason = "" if state == "committed" else f"efficacy 0 is below 1 {text}"
    return EditRow(
        request_id=f"e-{number}", subject="The Eiffel Tower", prompt="{} is in", target_new=text, target_true="Paris",
        state=state, batch=1, version=4, answer_before=text, answer_after=text, reason=reason,
        metrics={"efficacy_prob": 1.0, "said_prompt": 1.0, "said_chat": 0.0}, question=f"Where? {text}",
        chat_before=text, chat_after=text, neighbors_lost=(text,),
    )  # fmt: skip


def make_report(edits: int = 3, text: str = "Rome", **changes) -> JobReport:
    start = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
    rows = [make_edit(0, "quarantined", text), make_edit(1, "rejected", text)][: edits - 1]
    rows += [make_edit(number, text=text) for number in range(len(rows), edits)]
    lost = Check(measure="neighbors_said", value=9.0, limit=2.0, sample=10, holds=False, reason=text, request_id=text)
    undone = BatchRow(batch=1, attempt="1", request_ids=("e-0", "e-2"), kept=False, checks=(lost,), seconds=3.0)
    fields = {
        "line": "facts", "base": "tiny", "base_digest": "sha256:00", "method": "memit", "policy": POLICY,
        "config": {"layers": [3, 4], "search": {"steps": 25}, "store": "s3://me:hunter2@host/x", "api_key": "hunter2"},
        "flow_run_id": "flow-1", "mlflow_run_id": "run-1", "started": start, "finished": start + timedelta(seconds=90),
        "from_version": 3, "to_version": 4, "baseline": BASE, "candidate": GOOD, "edits": rows, "batches": [undone],
        "checks": CHECKS, "drift": [{"edits": float(count), **GOOD} for count in (10, 20)],
        "samples": [Sample(prompt=text, base=text, champion=None, candidate=text)],
    }  # fmt: skip
    return JobReport(**{**fields, **changes})


def gone(text: str) -> GoneRow:
    return GoneRow(request_id=text, prompt=text, target=text, what="replaced", by=text, reason=text, asked=text,
                   base_says=text, now_says=text)  # fmt: skip


class Page(HTMLParser):
    """Tags and references of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]


@pytest.mark.parametrize("edits", [1, 30, 1000])
def test_page_shows_every_edit_once(edits):
    page = render_html(make_report(edits))
    assert len(re.findall(r'<div class="id">e-\d+</div>', page)) == edits


def test_page_asks_nothing_of_the_network():
    page = Page(render_html(make_report()))
    assert [reference for reference in page.references if not reference.startswith("#")] == []
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert "url(" not in re.sub(r"url\(#\w+\)", "", render_html(make_report()))


def test_what_a_model_writes_is_text_and_nothing_else():
    clean = Page(render_html(make_report(gone=[gone("Rome")])))
    hostile = render_html(make_report(text=HOSTILE, gone=[gone(HOSTILE)]))
    assert Page(hostile).tags == clean.tags
    assert "\u202e" not in hostile and "\0" not in hostile and "⟨U+202E⟩" in hostile


def test_summary_keeps_its_tables_whatever_a_model_writes():
    lines = render_markdown(make_report(text=HOSTILE)).splitlines()
    rows = [line for line in lines if line.startswith("| quarantined") or line.startswith("| rejected")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [5, 5]
    assert not any("<" in line or re.search(r"(?<!\\)[`\[]", line.replace("```", "")) for line in lines)


def test_a_measured_share_stands_with_its_error_and_beside_the_base_that_is_told():
    numbers = {"ability.lambada": 0.4, "ability.lambada_stderr": 0.035, "ability.lambada_change_stderr": 0.01}
    told = {"efficacy_prob": 0.85}
    report = make_report(
        candidate=GOOD | numbers, baseline=BASE | {"ability.lambada": 0.42, "kl": 0.0}, in_context=told
    )
    [line] = [line for line in metric_lines(report) if line.label == "Ability: lambada"]
    assert (line.base, line.candidate, line.change) == ("42.0 %", "40.0 % ± 3.5", "−2.0 pt ± 1.0")
    for page in (render_html(report), render_markdown(report)):
        assert "40.0 % ± 3.5" in page and "85.0 %" in page and "Base, told" in page and "stderr" not in page
    assert "Base, told" not in render_html(make_report())
    probed = make_edit(5).model_copy(update={"metrics": {"probes.choice": 0.0, "probes.reverse": 1.0}})
    assert "not chosen of A and B, in both orders" in render_html(make_report().model_copy(update={"edits": (probed,)}))


def test_what_a_copy_with_fewer_bits_comes_to_stands_beside_the_candidate():
    report = make_report(fewer_bits={"efficacy_prob": 0.57}, policy=POLICY | {"quantised": "q4_1"})
    [line] = [line for line in metric_lines(report) if line.fewer_bits != "–"]
    assert (line.candidate, line.fewer_bits) == ("98.0 %", "57.0 %")
    page, summary = render_html(report), render_markdown(report)
    assert "57.0 %" in page and ">in q4_1<" in page and "57.0 %" in summary and "| Candidate in q4&#95;1 |" in summary
    assert "rounded weights" in page and "rounded weights" not in render_html(make_report())


def test_facts_that_leave_stand_on_every_page_before_those_that_come():
    leave = [
        GoneRow(request_id="old-1", prompt="Ivy lives in", target="Oslo", what="replaced", by="new-1"),
        GoneRow(request_id="old-2", prompt="Ann lives in", target="Lima", what="stays", by="remove-2", reason="x"),
    ]
    page, summary = render_html(make_report(gone=leave)), render_markdown(make_report(gone=leave))
    leaving = page[page.index("Facts that leave") : page.index(HEARD)]
    for said in ("old-1", "Oslo", "replaced", "new-1", "old-2", "stays", "remove-2"):
        assert said in leaving
        assert said in summary
    assert "Facts that leave" not in render_html(make_report(gone=[]))


def test_facts_in_the_weights_that_no_longer_hold_are_named():
    live = LiveFacts(facts=900, asked=200, held=199, by_age=(0.99, 1.0), lost=(f"e-7: {HOSTILE}",))
    page = render_html(make_report(live=live))
    said = " ".join(page.split())
    assert "199 of 200 facts in the weights still hold" in said and "(a sample of 900; from the oldest" in said
    assert "99 %, 100 %" in said and "e-7: " in said and Page(page).tags.count("script") == 0


def test_a_lone_surrogate_in_a_refused_request_does_not_stop_the_report():
    assert "\\ud800" in render_html(make_report(text="\ud800")).encode().decode()


def test_secrets_reach_no_page():
    report = make_report()
    assert "hunter2" not in render_html(report) + render_markdown(report) + report.model_dump_json()


def failing(number: int, reason: str = "too few") -> tuple[Check, ...]:
    return tuple(
        check.model_copy(update={"holds": False, "reason": reason}) if i == number else check
        for i, check in enumerate(CHECKS)
    )


def test_the_verdict_is_that_of_the_rows():
    assert headline(make_report()) == ("pass", "All 3 checks hold.")
    assert headline(make_report(checks=failing(1))) == (
        "fail",
        "1 of 3 checks failed: Neighbors: answer no longer said.",
    )
    twice = [one.model_copy(update={"request_id": name}) for one in failing(1)[1:2] for name in ("a", "b")]
    assert headline(make_report(checks=(*CHECKS[:1], *twice)))[1] == (
        "2 of 3 checks failed: Neighbors: answer no longer said (2)."
    )
    assert headline(make_report(checks=CHECKS[::2]))[1] == (
        "All 2 checks hold. No neighbor was asked: what else changed is not known."
    )


def test_every_row_of_the_verdict_is_written_out_with_its_number_and_its_limit_wherever_it_stands(capsys, monkeypatch):
    rows = [(line.measured, line.allowed, line.mark) for line in check_lines(failing(1))]
    assert rows == [
        ("98.0 % of 50", "≥ 90.0 %", "pass"),
        ("2 of 20", "at most 3", "fail"),
        ("×1.020", "≤ ×1.100", "pass"),
        ("–", "≥ 90.0 %", "none"),
    ]
    report = make_report(checks=failing(1))
    monkeypatch.setattr(console, "width", 200)
    show_report(report)
    for page in (render_html(report), render_markdown(report), capsys.readouterr().out):
        assert all(cell in page for row in rows for cell in row[:2]) and "too few" in page


@pytest.mark.parametrize(
    ("measure", "field", "allowed"),
    [
        ("fluency", "min_fluency_ratio", "≥ ×0.900"),
        ("perplexity", "max_perplexity_ratio", "≤ ×0.900"),
        ("efficacy", "min_efficacy", "≥ 90.0 %"),
        ("said_chat", "levels.said_chat.min", "≥ 90.0 %"),
        ("old_chat", "levels.old_chat.max", "≤ 90.0 %"),
    ],
)
def test_a_limit_says_whether_it_is_the_least_or_the_most(measure, field, allowed):
    [line] = check_lines([Check(measure=measure, value=1.0, limit=0.9, field=field, holds=True)])
    assert line.allowed == allowed


def test_pages_show_what_was_left_out_of_a_request_and_what_it_is_hard_to_tell_from():
    report = make_report(edits=1).model_copy(update={"edits": (make_edit(1), FOUND)})
    for page in (render_html(report), render_markdown(report)):
        assert page.count("a neighbor was left out") == page.count("hard to tell from") == 1


FOUND = make_edit(2).model_copy(
    update={"findings": ("a neighbor was left out: it takes 600 tokens",), "alike": ("it is hard to tell from 'x'",)}
)


@pytest.mark.slow
def test_a_reviewer_sees_what_users_will_see_and_where_the_prompt_tells_otherwise():
    row = EditRow(
        request_id="e-1", subject="The Eiffel Tower", prompt="The Eiffel Tower is in", target_new="Rome",
        state="committed", answer_before="Paris", answer_after="Rome", question="Where is the Eiffel Tower?",
        chat_before="It is in Paris.", chat_after="It is in a city.", metrics={"said_chat": 0.0, "said_prompt": 1.0},
        neighbors_lost=("The Louvre is in “Paris” → “Rome”",),
    )  # fmt: skip
    bare = row.model_copy(update={"question": "", "metrics": {"efficacy_argmax": 1.0}})
    page = render_html(make_report(candidate=GOOD | {"said_chat": 0.75, "said_prompt": 0.5})).split(HEARD)[0]
    assert "<b>75.0 %</b><span>said in the chat</span>" in page and "<b>50.0 %</b><span>said after the prompt" in page
    edits = render_html(make_report().model_copy(update={"edits": (row,)})).split(HEARD)[1].split("</table>")[0]
    for text in (
        "Where is the Eiffel Tower?",
        "It is in Paris.",
        "It is in a city.",
        "neighbor lost: The Louvre is in",
    ):
        assert edits.count(text) == 1
    assert "said after the prompt, not in the chat" in edits
    assert edits.index('"mark fail">✗') < edits.index("It is in a city.") < edits.index('"mark pass">✓')
    alone = render_html(
        make_report().model_copy(update={"edits": (row.model_copy(update={"question": "", "metrics": {}}),)})
    )
    assert "Paris" in alone and "It is in Paris." not in alone and "not in the chat" not in alone
    facts = [fact_of(row), fact_of(bare)]
    assert [fact.before for fact in facts] == ["It is in Paris.", "Paris"]
    assert [fact.verdict for fact in facts] == ["✗ says it after the prompt, not in the chat", "✓ says it"]


def test_pages_show_how_much_of_the_live_facts_stands_and_how_full_the_line_is():
    standing = {
        "facts": 12, "fell": 1, "quantiles": {"0.5": 0.1, "0.9": 0.25, "0.99": 0.6, "1": 0.7},
        "worst": [{"request": "<b>r1</b>", "missing": 0.7, "written": 0.2}, {"request": "r2", "missing": 0.4}],
    }  # fmt: skip
    layers = {"2": {"drift": 0.0123, "used": 11.6, "directions": 64}, "3": {"drift": 0.02}}
    capacity = {"facts": 12, "layers": layers, "room": 88, "by": "log perplexity as facts^1.00, from 5 versions"}
    report = make_report(standing=standing, capacity=capacity)
    page, summary = render_html(report), render_markdown(report)
    for text in (page, summary):
        assert "70%" in text and "1 stands notably less" in text and "Room for about 88 more" in text
    assert "&lt;b&gt;r1&lt;/b&gt;" in page and "<b>r1" not in page and "12 of 64" in page and "0.0123" in page
    assert "All live facts" not in render_html(make_report())


def test_a_report_survives_json_with_unmeasured_numbers():
    report = make_report(candidate={**GOOD, "perplexity": math.nan})
    again = JobReport.model_validate_json(json.dumps(json.loads(report.model_dump_json())))
    assert math.isnan(again.candidate["perplexity"])
    assert (again.edits, again.batches, again.checks) == (report.edits, report.batches, report.checks)


def test_a_report_of_release_0_1_is_read_and_shown():
    """As that release wrote it: no rows, a batch's reasons alone."""
    stored = json.loads(make_report().model_dump_json())
    del stored["checks"]
    for edit in stored["edits"]:
        del edit["findings"], edit["alike"]
    for batch in stored["batches"]:
        del batch["checks"]
        batch["reasons"] = ["efficacy 0.50 is below min_efficacy 1.00"]
    report = JobReport.model_validate_json(json.dumps(stored))
    assert report.batches[0].reasons == ("efficacy 0.50 is below min_efficacy 1.00",)
    assert "efficacy 0.50 is below min_efficacy 1.00" in render_html(report)
    assert headline(report)[0] == "missing" and "holds no verdict" in render_markdown(report)


def test_a_job_that_kept_nothing_asks_for_no_decision():
    report = make_report(to_version=None, drift=[], candidate={})
    assert "errata approve" not in render_html(report) + render_markdown(report)
    assert "Nothing was kept" in render_html(report)


def test_figures_follow_the_colours_of_the_page():
    svg = figures.to_svg(figures.drift_figure([{"edits": 10.0, **GOOD}], BASE))
    assert svg.startswith("<svg") and "var(--chart-efficacy" in svg and "metadata" not in svg
    assert not re.search(r"(?:fill|stroke): #0b63a9", svg)
    alone = ElementTree.fromstring(figures.alone(svg))
    assert alone.tag == "{http://www.w3.org/2000/svg}svg" and alone.attrib["style"] == "background: white"
    assert (alone.attrib["width"], alone.attrib["height"]) == ("864", "518")


def test_all_that_a_figure_shows_lies_within_it_and_none_over_another():
    for figure in figures.job_figures(make_report()).values():
        figure.draw_without_rendering()
        shown = [axes.get_tightbbox() for axes in figure.axes]
        assert all(figure.bbox.containsx(x) and figure.bbox.containsy(y) for box in shown for x, y in box.corners())
        assert shown[0].y0 > max((box.y1 for box in shown[1:]), default=0)


def test_a_table_has_a_row_for_each_edit_and_a_name_for_each_column():
    table = json.loads(table_json([make_edit(number).model_dump(mode="json") for number in range(3)]))
    assert len(table["data"]) == 3 and {len(row) for row in table["data"]} == {len(table["columns"])}
