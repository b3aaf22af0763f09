"""What the model cannot read becomes a finding or a refusal; the job that meets it ends well, and so does the next."""

import pytest

from editing.edit import Edit, Probe
from editing.errors import UsageError
from editing.methods import method_config
from flows.knowledge_update import knowledge_update
from flows.trial import try_each
from tasks.ledger import intake
from tasks.lines.specs import LineSpec
from tasks.settings import load_settings
from tests.flows.conftest import METHOD, POLICY

LONG = "And so it went on and on. " * 40


def poisoned(edit: Edit, name: str) -> Edit:
    """The same fact with questions that no model of 128 positions can be asked."""
    asked = {"paraphrases": (LONG.strip(),), "neighborhood": (Probe(prompt=LONG.strip()), *edit.neighborhood)}
    return edit.model_copy(
        update={"id": name, "portability": (Probe(prompt="Why", answer=LONG[:500].strip()),)} | asked
    )


def unreadable(edit: Edit) -> list[Edit]:
    return [
        edit.model_copy(update={"id": "long-target", "target_new": "very " * 90 + "old"}),
        edit.model_copy(update={"id": "long-prompt", "prompt": LONG + "{} lives in"}),
        Edit(id="first-token", subject="a", prompt="{} speaks", target_new="Elmian"),
    ]


def test_no_request_ends_a_job_nor_the_next_one(place, good_edits):
    workplace = place("poison")
    for round_, edit in enumerate(good_edits[:2]):
        poison = poisoned(edit, f"poison-{round_}")
        intake.submit(workplace.ledger, "poison", [*unreadable(good_edits[2]), poison], "tester")
        summary = knowledge_update("poison", POLICY)
        assert (summary.kept, summary.quarantined, summary.rejected) == (1, 0, 3)
        rows = {row.request_id: row for row in summary.report.edits}
        assert [finding.partition(" was left out")[0] for finding in rows[poison.id].findings] == [
            "a paraphrase", "a neighbor", "a portability prompt",
        ]  # fmt: skip
        assert all(f"edit '{name}'" in rows[name].reason for name in ("long-target", "long-prompt", "first-token"))
        assert summary.report.checks
        assert all(row.kept == all(check.holds for check in row.checks) for row in summary.report.batches)
    states = {name: state.state for name, state in workplace.ledger.states("poison").items()}
    assert states == {"poison-0": "committed", "poison-1": "committed"} | dict.fromkeys(
        ("long-target", "long-prompt", "first-token"), "rejected"
    )


def test_a_trial_leaves_out_what_the_model_cannot_read(place, good_edits):
    place("tried")
    settings = load_settings()
    spec = LineSpec(line="tried", model=settings.model, config=method_config("memit", METHOD))
    rows = try_each(settings, spec, [*unreadable(good_edits[2]), poisoned(good_edits[0], "poison")])
    assert [row.request_id for row in rows] == ["poison"]
    with pytest.raises(UsageError, match=r"can take none of 3 edits; the first: edit 'long-target'"):
        try_each(settings, spec, unreadable(good_edits[2]))
