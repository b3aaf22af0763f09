"""A job's values searched and its candidate asked by real workers: the job's own bits, one killed or none there."""

import json
import re
import threading
from contextlib import suppress
from shutil import rmtree
from types import SimpleNamespace

import psutil
import pytest
import torch
from prefect.exceptions import ObjectNotFound

from tasks.ledger import intake
from tasks.lines.specs import existing_line
from tasks.update.ahead import Searchers, planned
from tasks.update.function import stored_function
from tasks.update.session import open_session
from tasks.update.team import DEPLOYMENT
from tests.costs import further
from tests.flows.command import check_one_line, command
from tests.flows.conftest import METHOD, POLICY
from tests.flows.production import Production
from tests.waiting import until

SEARCH = METHOD | {"search": METHOD["search"] | {"edits_at_once": 1}}


@pytest.fixture
def errata(monkeypatch, capsys):
    return command(monkeypatch, capsys)


def policy() -> list[str]:
    return [part for name, value in POLICY.model_dump().items() for part in ("--set", f"{name}={json.dumps(value)}")]


def shards_of(process) -> list[psutil.Process]:
    """The processes of a worker's runs."""
    with suppress(psutil.NoSuchProcess):
        every = psutil.Process(process.pid).children(recursive=True)
        return [one for one in every if any("prefect.engine" in part for part in one.cmdline())]
    return []


def ended(production: Production, line: str) -> list[str]:
    """How the runs of shards ended, or where they are."""
    with production.client() as client:
        runs = [run for run in client.read_flow_runs() if run.parameters.get("line") == line]
    return sorted(run.state_type.value for run in runs if "search" in run.parameters)


def one_of_five_crashed(production: Production, line: str) -> bool:
    """Of those that searched one was killed and begun anew; two asked the candidate.

    Whoever had nothing left to do when the job ended is told so, sooner or later.
    """
    states = ended(production, line)
    return len(states) == 5 and states.count("CRASHED") == 1


def refuse_what_nobody_deployed(production: Production, errata) -> None:
    with production.client() as client, suppress(ObjectNotFound):
        client.delete_deployment(client.read_deployment_by_name(DEPLOYMENT).id)
    said = r"workers = 2: Prefect's server has no deployment 'values-shard/all'; make it with errata deploy"
    check_one_line(errata("run", "two", "--workers", "2"), 2, said)


@pytest.mark.slow
@further  # three processes that each load torch: minutes where others run
@pytest.mark.timeout(1200)
def test_workers_give_the_bits_of_the_job_itself_whether_one_is_killed_or_none_is_there(
    production, errata, good_edits, monkeypatch
):
    edits, workplace = good_edits[:4], production.line("two", SEARCH)
    values = workplace.settings.cache_folder / "values"
    rmtree(values, ignore_errors=True)
    intake.submit(workplace.ledger, "two", edits, "tester")
    refuse_what_nobody_deployed(production, errata)
    errata("deploy", "two")
    killed: list[int] = []

    def kill() -> None:
        [first, *_] = until(lambda: shards_of(worker), 300)
        killed.append(first.pid)
        first.kill()

    monkeypatch.setattr("tasks.update.team.UNTAKEN_SECONDS", 300.0)  # of a busy machine
    monkeypatch.setattr("tasks.update.asked.FACTS", 2)
    with production.worker() as worker:
        killer = threading.Thread(target=kill)
        killer.start()
        ran = errata("run", "two", *policy(), "--workers", "2")
        killer.join()
        assert (ran.code, ran.err) == (0, "") and killed
        until(lambda: one_of_five_crashed(production, "two"), 300)
    assert "4 values in 4 chunks are searched by 2 workers" in ran.out
    assert "was killed; it is begun anew" in ran.out and "itself" not in ran.out
    assert "8 facts in 4 chunks are asked by 2 workers and the job" in ran.out and "the job does" not in ran.out
    assert workplace.store.store.list("searches/") == []

    rmtree(values)
    session = open_session(existing_line(workplace.store, workplace.ledger, "two"), workplace.settings)
    run = SimpleNamespace(
        line="absent", spec=existing_line(workplace.store, workplace.ledger, "two"), workplace=workplace
    )
    run.policy = POLICY.model_copy(update={"workers": 2})
    team = Searchers(run, session, planned(run, session, edits, []))
    alone = session.values(edits)
    found = [workplace.store.tensors(one.manifest)["z_star"] for one in workplace.store.versions("two")]
    assert torch.equal(torch.cat(found), alone)

    monkeypatch.setattr("tasks.update.team.UNTAKEN_SECONDS", 1.0)
    rmtree(values)
    session.values_known.elsewhere = team.values
    team.begin()
    assert torch.equal(session.values(edits), alone) and len(team.used) == 4
    team.end()
    assert ended(production, "absent") == ["CANCELLED", "CANCELLED"]
    assert workplace.store.store.list("searches/") == []


@pytest.mark.slow
@further  # as above
@pytest.mark.timeout(1200)
def test_text_and_key_statistics_of_a_new_line_are_made_by_workers(production, errata, good_edits, monkeypatch):
    monkeypatch.setattr("tasks.update.prepared.PASS_ROWS", 16)
    monkeypatch.setattr("editing.collection.PART_BATCHES", 4)
    monkeypatch.setattr("tasks.update.team.UNTAKEN_SECONDS", 300.0)  # of a busy machine
    workplace = production.line("made", METHOD)
    spec = existing_line(workplace.store, workplace.ledger, "made")

    def forget() -> None:
        for kind in ("texts", "statistics"):
            rmtree(workplace.settings.cache_folder / kind, ignore_errors=True)

    forget()
    alone = open_session(spec, workplace.settings).method_input.statistics.digest
    forget()
    intake.submit(workplace.ledger, "made", good_edits[:1], "tester")
    errata("deploy", "made")
    with production.worker():
        ran = errata("run", "made", *policy(), "--workers", "2")
    assert (ran.code, ran.err) == (0, "") and "itself" not in ran.out and "the job does" not in ran.out
    for said in (r"4 passes of text are sampled by 2 workers", r"key statistics of \d+ parts of text are summed by 2"):
        assert re.search(said, ran.out)
    assert workplace.store.store.list("searches/") == []
    [version] = workplace.store.versions("made")
    assert stored_function([version.manifest])["statistics"]["sha256"] == alone
