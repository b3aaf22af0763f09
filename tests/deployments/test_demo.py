"""The demo from end to end on the small trained model, killed twice on the way: it goes on where it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.demo.steps import LINE, steps_of
from tasks.settings import Settings
from tasks.workplace import open_workplace
from tests.costs import THOROUGH
from tests.fact_model import fact_edits
from tests.flows.command import environment

ROOT = Path(__file__).parents[2]


def write_candidates(file: Path) -> list[str]:
    """A table of facts that the small model gets wrong; returns the ids of those that are to be kept."""
    candidates, neighbors = [], {}
    for number, edit in enumerate(fact_edits(4)):
        kind = f"kind {number}"
        neighbors[kind] = [[probe.prompt, probe.answer] for probe in edit.neighborhood]
        candidates.append(
            {
                "id": f"fact-{number}",
                "subject": edit.subject,
                "prompt": edit.prompt,
                "target_new": edit.target_new,
                "paraphrases": edit.paraphrases,
                "question": f"{edit.text}?",
                "kind": kind,
                "source": "invented",
            }
        )
    first = candidates[0]
    candidates += [
        first | {"id": "malformed", "prompt": "It was here", "shows": "malformed"},
        first | {"id": "contradiction", "target_new": candidates[1]["target_new"] + "ia", "shows": "contradiction"},
    ]
    changes = {"fact-0": candidates[2]["target_new"]}
    file.write_text(json.dumps({"candidates": candidates, "neighbors": neighbors, "changes": changes}))
    return [candidate["id"] for candidate in candidates[:4]]


def demo(home: Path, candidates: Path, model: Path, *killed: object) -> "subprocess.CompletedProcess[str]":
    arguments = [home, model, candidates, *killed]
    return subprocess.run(
        [sys.executable, "-m", "tests.deployments.small_demo", *map(str, arguments)],
        cwd=ROOT,
        env=environment(home.parent / "elsewhere", PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_while_it_approves_the_demo_ends_as_if_it_had_not_been(tmp_path, fact_model_path):
    home, candidates = tmp_path / "home", tmp_path / "candidates.json"
    ids = write_candidates(candidates)
    if THOROUGH:
        writing = demo(home, candidates, fact_model_path, "ledger", 4)
        assert writing.returncode == -9, writing.stdout
        assert "$ errata run demo" in writing.stdout and "$ errata review demo" not in writing.stdout
    approving = demo(home, candidates, fact_model_path, "head", 1)
    assert approving.returncode == -9, approving.stdout
    assert ("$ errata submit" in approving.stdout) != THOROUGH and "$ errata approve demo" in approving.stdout
    ending = demo(home, candidates, fact_model_path)
    assert ending.returncode == 0, ending.stdout
    assert "$ errata run demo --model" not in ending.stdout and "nothing waits" in ending.stdout
    # The questions of the table, as a person asks them; this model has no chat.
    assert "$ errata ask '" in ending.stdout and "?' --line demo" in ending.stdout
    for words in ("before and after", "what changed", "taken back", "word for word", "next steps", "places to look"):
        assert words in ending.stdout, ending.stdout

    workplace = open_workplace(Settings(home=home))
    states = workplace.ledger.states(LINE)
    changed = {"fact-0": "superseded", ids[-1]: "retracted"}
    assert {name: states[name].state for name in ids} == dict.fromkeys(ids, "rolled_back") | changed
    for name in (*ids, "fact-0-next"):
        events = [event.event for event in workplace.ledger.history(name, None, LINE, 100)]
        assert events.count("committed") == events.count("promoted") == 1, events
    taken_out = f"retract:{ids[-1]}@"
    assert [s.state for n, s in states.items() if not n.startswith(("fact-", taken_out))] == ["rejected", "rejected"]
    head = workplace.store.head(LINE)
    assert head is not None and head.version == 0
    stages = [json.loads(line)["step"] for line in (home / "stages.jsonl").read_text().splitlines()]
    assert [stage for stage in stages if stage != "start"] == [step.name for step in steps_of(changes=True)]
    again = json.loads((home / ".errata-demo").read_text())
    assert again["finished"] is True
