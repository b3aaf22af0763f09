"""kill -9 at every boundary of a job, then the job again: nothing is lost, nothing is applied twice."""

import json
import os
import shutil
from pathlib import Path

import pytest

from editing.request import Request
from flows.knowledge_update import knowledge_update
from tasks.audit.auditing import audit
from tasks.ledger import intake
from tasks.ledger.removals import take_out
from tasks.ledger.reserved import REFUSE
from tasks.ledger.view import chain, look
from tasks.lines.stored import stored_line
from tasks.review import decisions as review
from tasks.review import standing
from tasks.review.registering import pointer
from tasks.serving.loading import load_version
from tasks.settings import load_settings
from tasks.stores.manifest import members
from tasks.workplace import Workplace, open_workplace
from tests import warm
from tests.costs import THOROUGH
from tests.databases import mlflow_database
from tests.flows import killed_job
from tests.flows.conftest import POLICY

FINAL = {"committed", "quarantined"}


def killed(line: str, kill_at: int, log: Path, leaves: bool = False) -> list[str]:
    """Run a job that kills itself at its n-th boundary, or with 0 at none; the boundaries that it passed."""
    job = warm.start(killed_job.main, (line, kill_at, log, leaves), os.environ)
    _, said = job.communicate()
    assert job.returncode == (-9 if kill_at else 0), said
    return log.read_text().splitlines()


def telling(passed: list[str], first: int = 1, last: int | None = None) -> list[int]:
    """The boundaries to kill at: of those of the same name the first, and of effects the last, too.

    What is left out comes after another step or has another batch in hand; a thorough run kills at each.
    """
    numbers = range(first, (last or len(passed)) + 1)
    if THOROUGH:
        return list(numbers)
    alike: dict[str, list[int]] = {}
    for number in numbers:
        alike.setdefault(passed[number - 1].partition(" ")[2], []).append(number)
    effects = {found[-1] for name, found in alike.items() if name.startswith("after")}
    return sorted(effects | {found[0] for found in alike.values()})


def check_complete(workplace, line, ids, where):
    """Each request in one final state, each version's requests once, HEAD and ledger at one, weights as recorded."""
    states = {name: state.state for name, state in workplace.ledger.states(line).items()}
    assert states.keys() == set(ids) and set(states.values()) <= FINAL, (where, states)
    assert states["impossible"] == "quarantined", where
    view = look(workplace.store, workplace.ledger, line)
    waiting = view.waiting
    written = members(chain(view, view.tip))
    assert sorted(written) == sorted(name for name, state in states.items() if state == "committed"), where
    assert [v.number for v in workplace.store.versions(line)] == [v.number for v in waiting], where
    assert workplace.tracker().aliases(line) == {"challenger": waiting[-1].number}, where
    assert load_version(
        pointer(workplace, waiting[-1], stored_line(workplace.store.store, line)), workplace.settings
    ), where
    decision = review.approve(workplace, line)
    assert decision.head.version == waiting[-1].number
    assert set(standing.line_status(workplace, line).requests) == {"promoted", "quarantined"}, where


@pytest.mark.slow
@pytest.mark.timeout(1800)  # some fifty jobs where it is thorough
def test_a_job_killed_at_any_boundary_is_completed_by_the_next_run(place, tmp_path, good_edits, impossible):
    edits = [*good_edits[:4], impossible]

    def run(kill_at: int) -> tuple[str, Workplace, list[str]]:
        line = f"kill{kill_at}"
        workplace = place(line)
        intake.submit(workplace.ledger, line, edits, "tester")
        return line, workplace, killed(line, kill_at, tmp_path / f"{kill_at}.txt")

    _, _, passed = run(0)
    names = " ".join(passed)
    for step in ("intake", "load_model", "apply_batch", "validate", "snapshot", "roll_back", "quarantine", "register"):
        assert f"before {step}" in names, names
    assert "after publish" in names and "after append" in names, names
    for kill_at in telling(passed):
        line, workplace, reached = run(kill_at)
        assert reached == passed[:kill_at]
        knowledge_update(line, POLICY)
        check_complete(workplace, line, [edit.id for edit in edits], passed[kill_at - 1])


def changing(workplace, line, edits, impossible) -> None:
    """A line with four facts in service and two that wait, of which a job takes out two and replaces one."""
    for part in (edits[:4], edits[4:6]):
        intake.submit(workplace.ledger, line, part, "tester")
        knowledge_update(line, POLICY)
        if part[0] is edits[0]:
            review.approve(workplace, line)
    told = {"subject": edits[1].subject, "prompt": edits[1].prompt, "target_new": edits[1].target_true}
    intake.submit(workplace.ledger, line, [Request(id="new", **told), impossible], "tester")
    take_out(workplace.store, workplace.ledger, line, [edits[0].id], "tester", "it is wrong")
    take_out(workplace.store, workplace.ledger, line, [edits[4].id], "tester", "no source", prefix=REFUSE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_loses_facts_killed_where_it_makes_the_line_anew_is_completed_by_the_next(
    place, tmp_path, good_edits, impossible, monkeypatch
):
    line = "lost"
    before = place(line).settings.home
    monkeypatch.setenv("ERRATA_TRACKING_URI", f"sqlite:///{mlflow_database(before / 'mlflow.db')}")
    changing(open_workplace(load_settings()), line, good_edits, impossible)

    def run(kill_at: int) -> tuple[Workplace, list[str]]:
        """In a copy of that home."""
        home = tmp_path / f"home{kill_at}"
        shutil.copytree(before, home)
        monkeypatch.setenv("ERRATA_HOME", str(home))
        monkeypatch.setenv("ERRATA_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
        passed = killed(line, kill_at, tmp_path / f"{kill_at}.txt", leaves=True)
        return open_workplace(load_settings()), passed

    _, passed = run(0)
    first = next(n for n, name in enumerate(passed, start=1) if name.endswith("before make_root"))
    last = next(n for n, name in enumerate(passed, start=1) if n > first and name.endswith("before apply_batch"))
    assert {name.partition(" ")[2] for name in passed[first - 1 : last]} >= {"before validate_root", "after publish"}
    digests = set()
    # Beyond the first batch it is as in a job that loses nothing; a thorough run kills there, too.
    for kill_at in telling(passed, first, None if THOROUGH else last):
        workplace, _ = run(kill_at)
        knowledge_update(line, POLICY)
        states = {name: one.state for name, one in workplace.ledger.states(line).items()}
        view = look(workplace.store, workplace.ledger, line)
        where = (passed[kill_at - 1], states)
        assert states["new"] == "committed" and states["impossible"] == "quarantined", where
        review.approve(workplace, line)
        states = {name: one.state for name, one in workplace.ledger.states(line).items()}
        live = look(workplace.store, workplace.ledger, line).live
        assert {*live} == {"new", *(good_edits[i].id for i in (2, 3, 5))}, where
        ends = {good_edits[0].id: "retracted", good_edits[1].id: "superseded", good_edits[4].id: "rejected"}
        assert {name: states[name] for name in ends} == ends, (where, states)
        assert audit(workplace, line, mlflow=False).faults == [], where
        root = next(v for v in view.waiting if v.manifest.live)
        digests.add(json.dumps(root.manifest.tensor_digests, sort_keys=True))
    assert len(digests) == 1
