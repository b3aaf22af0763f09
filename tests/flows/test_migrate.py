"""A line moved to another base and back: the same facts, both reports whole, and no mistake that costs a search."""

import pytest

from editing.models import load_model
from flows.knowledge_update import knowledge_update
from flows.migrate import migrate
from tasks.ledger import intake
from tasks.ledger.removals import take_out
from tasks.ledger.view import look
from tasks.lines.calibrations import save_calibration
from tasks.lines.specs import read_line, resolve_line
from tasks.report.render import render_html, render_markdown
from tasks.review import decisions
from tasks.review.registering import pointer
from tasks.serving.loading import load_version
from tasks.update import moving
from tests.flows.command import check_one_line
from tests.flows.conftest import METHOD, POLICY
from tests.tasks.carried import CarriedLine
from tests.tasks.test_calibrating import a_calibration

LOOSE = POLICY.model_copy(update={"min_efficacy": 0.0})


def live(workplace, line) -> set[str]:
    return {*look(workplace.store, workplace.ledger, line).live}


def written(workplace, line, edits) -> None:
    intake.submit(workplace.ledger, line, edits, "ann")
    knowledge_update(line, LOOSE)
    decisions.approve(workplace, line)


@pytest.fixture
def release(place, good_edits, tmp_path):
    """The next release of the fact model, which knows the first of the good edits."""
    workplace = place("trainer")
    written(workplace, "trainer", good_edits[:1])
    [version] = workplace.store.versions("trainer")
    spec = read_line(workplace.store.store, "trainer")
    loaded = load_version(pointer(workplace, version, spec), workplace.settings).loaded
    loaded.model.save_pretrained(tmp_path / "release")
    loaded.tokenizer.save_pretrained(tmp_path / "release")
    return tmp_path / "release"


@pytest.mark.parametrize(
    ("template", "system", "expected"),
    [(None, None, "Be brief."), ("chat", None, "Be brief."), ("raw", None, None), (None, "Be kind.", "Be kind.")],
)
def test_a_line_is_moved_with_its_system_message(tmp_path, template, system, expected):
    made = CarriedLine(tmp_path, template="chat", system="Be brief.")
    made.serve(made.make())
    source = moving.source_of(made.workplace, made.spec.line, "to")
    asked = moving.definition(source, "other", None, template, system, None, None)
    assert resolve_line(made.workplace.store.store, made.settings, "to", **asked).system == expected


@pytest.mark.slow
def test_facts_move_to_another_base_and_back(place, release, good_edits, tmp_path):
    workplace = place("here")
    first, *_ = facts = good_edits[:3]
    written(workplace, "here", facts)
    found = a_calibration(load_model(str(release), cache=tmp_path).digest, layers=[2], ridge=0.001)
    save_calibration(workplace.store.store, found)
    summary = migrate("here", str(release), "there", LOOSE, options=METHOD)
    rows = {row.request_id: (became, now) for row, now, became in summary.report.move}
    assert {name: became for name, (became, _) in rows.items()} == {
        first.id: "known to the base",
        **{edit.id: "moved" for edit in facts[1:]},
    }
    assert all(rows[edit.id][1].startswith(edit.target_new) for edit in facts)
    assert all(row.line_says.startswith(row.target) for row in summary.report.moved.rows)
    for page in (render_html(summary.report), render_markdown(summary.report)):
        assert "Moved from line here" in page and "known to the base" in page
    ended = workplace.ledger.states("there")[first.id]
    assert (ended.state, ended.metrics) == ("rejected", {moving.KNOWN: 1.0}) and ended.reason.startswith("known: ")
    again = migrate("here", str(release), "there", LOOSE, options=METHOD)
    assert again.version == summary.version and again.kept == 0
    # A new line took of a calibration of its base what its definition left open, and its versions say so.
    config = workplace.store.versions("there")[-1].manifest.config
    assert read_line(workplace.store.store, "there").calibrated == {"ridge": 0.001}
    assert (config["ridge"], config["layers"]) == (0.001, METHOD["layers"])
    assert read_line(workplace.store.store, "here").config.ridge == 0.0
    decisions.approve(workplace, "there")
    assert live(workplace, "there") == {edit.id for edit in facts[1:]} and live(workplace, "here") == {*rows}

    back = migrate("there", workplace.settings.model, "back", LOOSE, options=METHOD)
    assert [row.known for row in back.report.moved.rows] == [False] * 3
    decisions.approve(workplace, "back")
    assert live(workplace, "back") == live(workplace, "here")
    there, back_again = (moving.source_of(workplace, line, "x").requests for line in ("here", "back"))
    assert there == back_again


@pytest.mark.slow
def test_a_fact_that_the_base_knew_and_that_changed_since_is_not_moved_as_it_was(place, release, good_edits):
    workplace = place("from")
    first = good_edits[0]
    written(workplace, "from", good_edits[:2])
    migrate("from", str(release), "to", LOOSE, options=METHOD)
    decisions.approve(workplace, "to")
    assert {*moving.source_of(workplace, "to", "x").requests} == {edit.id for edit in good_edits[:2]}
    changed = first.model_copy(update={"id": "changed", "target_new": first.target_true, "target_true": None})
    written(workplace, "to", [changed])
    assert {*moving.source_of(workplace, "to", "x").requests} == {good_edits[1].id, "changed"}


@pytest.mark.slow
def test_a_mistake_is_one_line_and_nothing_is_changed(place, errata, good_edits, tmp_path):
    workplace = place("moving")
    check_one_line(errata("migrate", "nowhere", "--model", "embedded"), 2, "there is no line 'nowhere'")
    check_one_line(errata("migrate", "moving", "--model", "embedded"), 2, "nothing of line 'moving' is in service")
    written(workplace, "moving", good_edits[:1])
    model = workplace.settings.model
    check_one_line(errata("migrate", "moving", "--model", model, "--to", "x"), 2, "stands on .* already")
    check_one_line(errata("migrate", "moving", "--model", "x", "--to", "moving"), 2, "onto itself")
    intake.submit(workplace.ledger, "other", good_edits[1:2], "ann")
    says = f"line 'other' has requests that are no facts of line 'moving', such as '{good_edits[1].id}'"
    check_one_line(errata("migrate", "moving", "--model", "x", "--to", "other"), 2, says)
    copy = tmp_path / "copy"
    loaded = load_model(model, cache=workplace.settings.cache_folder)
    loaded.model.save_pretrained(copy)
    loaded.tokenizer.save_pretrained(copy)
    check_one_line(errata("migrate", "moving", "--model", str(copy), "--to", "x"), 2, "has the very weights")
    assert workplace.ledger.states("x") == {} and live(workplace, "moving") == {good_edits[0].id}
    take_out(workplace.store, workplace.ledger, "moving", [good_edits[0].id], "ann", "it is wrong")
    knowledge_update("moving", LOOSE)
    decisions.approve(workplace, "moving")
    check_one_line(errata("migrate", "moving", "--model", str(copy)), 2, "nothing of line 'moving' is in service")
