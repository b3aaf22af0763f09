"""kill -9 at every boundary of a job, then the job again: nothing is lost, nothing is applied twice."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from editing.edit import Edit
from editing.request import Request
from flows.knowledge_update import knowledge_update
from tasks.audit.auditing import audit
from tasks.ledger import intake
from tasks.ledger.removals import take_out
from tasks.ledger.view import chain, look
from tasks.lines.stored import stored_line
from tasks.review import decisions as review
from tasks.review import standing
from tasks.review.decided import By
from tasks.review.registering import pointer
from tasks.review.retracting import leave_out
from tasks.serving.loading import load_version
from tasks.settings import load_settings
from tasks.stores.manifest import members
from tasks.workplace import Workplace, open_workplace
from tests import warm
from tests.costs import THOROUGH
from tests.databases import mlflow_database
from tests.flows import killed_job
from tests.flows.conftest import POLICY, opened, with_line

FINAL = {"committed", "quarantined"}


def killed(line: str, kill_at: int, log: Path, leaves: bool = False, ahead: timedelta = timedelta(0)) -> list[str]:
    """Run a job that kills itself at its n-th boundary, or with 0 at none; the boundaries that it passed."""
    job = warm.start(killed_job.main, (line, kill_at, log, leaves, ahead), os.environ)
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


@dataclass(frozen=True)
class Loss:
    """How facts of a line leave, and what becomes of them; numbers are those of `good_edits`."""

    ends: Mapping[int, str]
    replaced: tuple[int, ...] = ()
    retracted: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    """What a reviewer leaves out of what waits."""
    ahead: timedelta = timedelta(0)
    """How much later the job is."""
    besides: bool = False
    """A request comes with them that cannot be written."""
    at: str = ""
    """The boundary where any run kills; none: those of the root, up to the first batch. A thorough run kills at all."""

    def kills(self, passed: list[str]) -> list[int]:
        if THOROUGH:
            return telling(passed)
        names = [name.partition(" ")[2] for name in passed]
        if self.at:
            return [names.index(self.at) + 1]
        first = names.index("before make_root") + 1
        return telling(passed, first, names.index("before apply_batch", first) + 1)

    def ask(self, workplace: Workplace, line: str, edits: list[Edit], impossible: Edit) -> None:
        told = [
            Request(id=f"new{i}", subject=edits[i].subject, prompt=edits[i].prompt, target_new=edits[i].target_true)
            for i in self.replaced
        ]
        if asked := [*told, *([impossible] if self.besides else [])]:
            intake.submit(workplace.ledger, line, asked, "tester")
        if gone := [edits[i].id for i in self.retracted]:
            take_out(workplace.store, workplace.ledger, line, gone, "tester", "it is wrong")
        if gone := [edits[i].id for i in self.refused]:
            leave_out(workplace, line, gone, "no source", By("tester"))


PASSING, LASTS = 3, timedelta(days=1)
"""The fact that is there for a time only, and how long."""
LOSSES = {
    "several": Loss(
        {0: "retracted", 1: "superseded", 4: "rejected"}, replaced=(1,), retracted=(0,), refused=(4,), besides=True
    ),
    "replaced": Loss({1: "superseded"}, replaced=(1,), at="before apply_batch"),
    "retracted": Loss({0: "retracted"}, retracted=(0,), at="after publish"),
    "left out": Loss({4: "rejected"}, refused=(4,), at="before validate_root"),
    "expired": Loss({PASSING: "retracted"}, ahead=2 * LASTS, at="after append"),
}


@pytest.fixture(scope="module")
def before(tmp_path_factory, shared_places, prefect_server, good_edits) -> Path:
    """A home whose line has four facts in service and two that wait."""
    home = tmp_path_factory.mktemp("before") / "home"
    mlflow_database(home / "mlflow.db")
    passing = Request(**good_edits[PASSING].model_dump(), expires=datetime.now(UTC) + LASTS)
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_server}):
        workplace = with_line(patch, shared_places | own(home), prefect_server, home, "lost")
        for part in ([*good_edits[:PASSING], passing], good_edits[4:6]):
            intake.submit(workplace.ledger, "lost", part, "tester")
            knowledge_update("lost", POLICY)
            if part[-1] is passing:
                review.approve(workplace, "lost")
    return home


def own(home: Path) -> dict[str, str]:
    return {"ERRATA_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}"}


def made(workplace: Workplace, line: str) -> list[tuple[object, ...]]:
    """The versions of a line: what each holds, is made of and says of its weights."""
    told = [version.manifest for version in workplace.store.versions(line)]
    return [
        (one.version, one.request_ids, one.live, dict(one.removals), dict(one.replaced), dict(one.tensor_digests))
        for one in told
    ]


def happened(workplace: Workplace, line: str) -> dict[str, list[str]]:
    """What became of each request, event by event."""
    return {name: [one.event for one in workplace.ledger.history(name, line=line)]
            for name in workplace.ledger.states(line)}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", LOSSES)
def test_a_job_that_loses_facts_killed_at_any_boundary_is_completed_by_the_next(
    before, place, tmp_path, shared_places, prefect_server, good_edits, impossible, monkeypatch, kind
):
    line, loss = "lost", LOSSES[kind]
    monkeypatch.setattr("tasks.ledger.removals.datetime", killed_job.clock(loss.ahead))

    def run(kill_at: int) -> tuple[Workplace, list[str]]:
        """In a copy of that home."""
        home = shutil.copytree(before, tmp_path / f"home{kill_at}")
        workplace = opened(monkeypatch, shared_places | own(home), prefect_server, home)
        loss.ask(workplace, line, good_edits, impossible)
        passed = killed(line, kill_at, tmp_path / f"{kill_at}.txt", leaves=True, ahead=loss.ahead)
        return open_workplace(load_settings()), passed

    whole, passed = run(0)
    undecided = whole.store.head(line), whole.tracker().aliases(line)
    review.approve(whole, line)
    ended = {name: events[-1] for name, events in happened(whole, line).items()}
    assert {i: ended[good_edits[i].id] for i in loss.ends} == loss.ends
    live = {*(good_edits[i].id for i in range(6) if i not in loss.ends), *(f"new{i}" for i in loss.replaced)}
    assert {*look(whole.store, whole.ledger, line).live} == live
    for kill_at in loss.kills(passed):
        workplace, _ = run(kill_at)
        knowledge_update(line, POLICY)
        where = passed[kill_at - 1]
        assert (workplace.store.head(line), workplace.tracker().aliases(line)) == undecided, where
        review.approve(workplace, line)
        assert made(workplace, line) == made(whole, line), where
        assert happened(workplace, line) == happened(whole, line), where
        assert audit(workplace, line, mlflow=False).faults == [], where
