"""The page of policies: its example is one, and every gate, threshold and default stands there."""

import re

from tasks.update.gates import THRESHOLDS, Levels, Tripwires
from tasks.update.policy import NEIGHBORS, Policy
from tasks.update.policy_file import given_policy
from tests.docs.pages import ROOT, blocks
from tests.docs.test_names import first_column, section

PAGE = "policies.md"


def test_the_example_is_a_policy_and_says_what_it_claims_to(tmp_path):
    [example] = [block for block in blocks(ROOT / "docs" / PAGE) if block.language == "toml"]
    (tmp_path / "policy.toml").write_text(example.text)
    found = given_policy(tmp_path / "policy.toml", {})
    assert found.tripwires.old_chat is None and found.tripwires.neighbors.most == 2
    assert found.levels.perplexity.worse_than_base == 0.05 and found.levels.perplexity.when == "both"


def test_every_gate_and_every_threshold_is_told():
    page = section(PAGE, "Two kinds of gates")
    assert first_column(page) - {"then"} == {*Tripwires.model_fields, *Levels.model_fields, "undo", "stop", "warn"}
    assert all(f"`{name}`" in page for name in THRESHOLDS)


def test_the_defaults_are_those_of_the_page():
    page = section(PAGE, "Two kinds of gates")
    on = {name for name in Tripwires.model_fields if getattr(Policy().tripwires, name)}
    assert on == set(re.findall(r"^\| `(\w+)` \| on \|", page, re.MULTILINE))
    on = {name: level.worse_than_base for name in Levels.model_fields if (level := getattr(Policy().levels, name))}
    assert on == {name: level.worse_than_base for name, level in NEIGHBORS.items()}
    told = dict(re.findall(r"^\| `(\w+)` \|[^|]*\(default ([\d.]+)\)", page, re.MULTILINE))
    assert {name: f"{limit:g}" for name, limit in on.items()} == told
