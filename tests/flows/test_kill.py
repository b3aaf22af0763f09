"""kill -9 at every boundary of a job, then the job again: nothing is lost, nothing is applied twice."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.ledger.view import chain, look
from tasks.lines.stored import stored_line
from tasks.review import decisions as review
from tasks.review import standing
from tasks.review.registering import pointer
from tasks.serving.loading import load_version
from tasks.stores.manifest import members
from tasks.workplace import Workplace
from tests.flows.conftest import POLICY

ROOT = Path(__file__).parents[2]
FINAL = {"committed", "quarantined"}
MOST_BOUNDARIES = 80


@pytest.fixture
def killed(place) -> Iterator[Callable[..., int]]:
    """Runs a job that kills itself at its n-th boundary, `killed(workplace, line, n, file)`; gives the exit code."""
    place("first")  # sets the environment that the jobs share
    command = [sys.executable, "-m", "tests.flows.killed_job"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as jobs:
        assert jobs.stdin is not None and jobs.stdout is not None

        def run(workplace: Workplace, line: str, kill_at: int, log: Path) -> int:
            print(json.dumps([line, kill_at, str(log), str(workplace.settings.home)]), file=jobs.stdin, flush=True)
            return int(jobs.stdout.readline())

        yield run
        jobs.stdin.close()


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
@pytest.mark.timeout(1800)  # some fifty jobs
def test_a_job_killed_at_any_boundary_is_completed_by_the_next_run(place, killed, tmp_path, good_edits, impossible):
    edits = [*good_edits[:4], impossible]
    boundaries = []
    for kill_at in range(1, MOST_BOUNDARIES):
        line, log = f"kill{kill_at}", tmp_path / f"{kill_at}.txt"
        workplace = place(line)
        intake.submit(workplace.ledger, line, edits, "tester")
        code = killed(workplace, line, kill_at, log)
        if code == 0:
            break
        boundaries.append(log.read_text())
        assert code == -9, boundaries[-1]
        knowledge_update(line, POLICY)
        check_complete(workplace, line, [edit.id for edit in edits], boundaries[-1])
    names = " ".join(boundaries)
    for step in ("intake", "load_model", "apply_batch", "validate", "snapshot", "roll_back", "quarantine", "register"):
        assert f"before {step}" in names, names
    assert "after publish" in names and "after append" in names, names
