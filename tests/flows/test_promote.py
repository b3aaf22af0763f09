"""What was approved in one home serves in the next one, bit for bit; nothing of the first is needed afterwards."""

import os
import shutil

import mlflow.pyfunc
import pytest

from flows.knowledge_update import knowledge_update
from tasks.audit.auditing import audit
from tasks.ledger import intake
from tasks.ledger.view import look
from tasks.review.decisions import approve, reject
from tasks.review.served import service_history
from tasks.settings import load_settings
from tasks.workplace import Workplace, open_workplace
from tests.databases import mlflow_database
from tests.flows.command import check_one_line
from tests.flows.conftest import LENIENT

pytestmark = pytest.mark.slow
LINE = "kept"


@pytest.fixture
def production(own_home, monkeypatch, tmp_path) -> Workplace:
    """The home that is set; `own_home` is the other one."""
    mlflow_database(tmp_path / "production" / "mlflow.db")
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "production"))
    monkeypatch.setenv("ERRATA_ACTOR", "operator")
    return open_workplace(load_settings())


def job(home: Workplace, *edits) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ERRATA_HOME", str(home.settings.home))
        intake.submit(home.ledger, LINE, edits, "ann")
        assert knowledge_update(LINE, LENIENT).kept == len(edits)


def check_serves(production: Workplace, version: int, prompts: list[str]) -> list[str]:
    assert not audit(open_workplace(production.settings)).faults
    assert production.store.head(LINE).version == version
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", production.settings.mlflow_uri)
        patched.setenv("MLFLOW_REGISTRY_URI", production.settings.mlflow_uri)
        return list(mlflow.pyfunc.load_model(f"models:/{LINE}@champion").predict(prompts))


def test_an_approved_version_serves_in_the_next_home_as_it_was(
    own_home, production, errata_here, good_edits, monkeypatch
):
    staging, home = own_home, str(own_home.settings.home)
    job(staging, *good_edits[:3])
    check_one_line(errata_here("promote", LINE, "--from", home), 2, "nothing of line 'kept' is in service in")
    approve(staging, LINE, None, "good")
    job(staging, good_edits[3])
    reject(staging, LINE, None, "wrong source")
    job(staging, good_edits[4])
    approve(staging, LINE, None, "better")
    job(staging, good_edits[5])  # waits there, and stays there
    replace, kills = os.replace, 0
    while True:  # killed one file later each time
        passed = []

        def counted(*names, passed=passed, kills=kills):
            if len(passed) == kills:
                raise KeyboardInterrupt
            passed.append(names)
            replace(*names)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", counted)
            said = errata_here("promote", LINE, "--from", home, "--reason", "release 1")
        if said.code == 0:
            break
        kills += 2
        assert said.code == 130 and production.store.head(LINE) is None
    head = production.store.head(LINE)
    assert head.version == 3 and head.snapshot == staging.store.head(LINE).snapshot and head.rejected == (2,)
    assert "promoted from" in head.reason and "release 1" in head.reason and "better" in head.reason
    view = look(production.store, production.ledger, LINE)
    assert [*view.versions] == [1, 2, 3] and not view.waiting and not view.stranded
    states = {name: state.state for name, state in production.ledger.states(LINE).items()}
    assert states == {edit.id: "promoted" for edit in (*good_edits[:3], good_edits[4])} | {good_edits[3].id: "rejected"}
    assert [(one.version, one.actor) for one in service_history(production, LINE)] == [(0, ""), (3, "operator")]

    approve(staging, LINE, None, "more")
    assert errata_here("promote", LINE, "--from", home, "--json").json["carried"] == 1
    assert "in service here already" in errata_here("promote", LINE, "--from", home).out
    prompts = [edit.prompt.replace("{}", edit.subject) for edit in good_edits[:6]]
    shutil.rmtree(home)
    said = check_serves(production, 4, prompts)
    assert [good_edits[n].target_new in said[n] for n in range(3)] == [True] * 3
    check_one_line(errata_here("promote", LINE, "--from", home), 2, "is no folder")


def test_a_line_with_versions_of_its_own_or_damaged_bytes_is_refused(own_home, production, errata_here, good_edits):
    staging, home = own_home, str(own_home.settings.home)
    job(staging, *good_edits[:2])
    approve(staging, LINE, None, "good")
    [blob] = (staging.settings.home_folder / "snapshots" / "blobs").iterdir()
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    check_one_line(errata_here("promote", LINE, "--from", home), 1, "expected sha256")
    assert production.store.head(LINE) is None and not production.store.numbers(LINE)
    blob.write_bytes(data)
    check_one_line(errata_here("promote", LINE, "--from", str(production.settings.home)), 2, "have one store")
    check_one_line(errata_here("promote", LINE), 2, "say from where")
    assert errata_here("rules", LINE, "--set", "reviewers=1").code == 0
    assert errata_here("freeze", LINE, "--reason", "an audit").code == 0
    check_one_line(errata_here("promote", LINE, "--from", home), 2, "frozen")
    assert errata_here("unfreeze", LINE).code == 0
    job(production, good_edits[2])
    check_one_line(errata_here("promote", LINE, "--from", home), 2, "is not the one of .* has no versions of its own")


def test_where_the_line_has_another_name_the_weights_are_the_same_under_this_one(
    own_home, production, errata_here, good_edits
):
    job(own_home, *good_edits[:2])
    approve(own_home, LINE, None, "good")
    job(own_home, good_edits[2])
    approve(own_home, LINE, None, "better")
    source = f"{own_home.settings.home}/{LINE}"
    for carried in (2, 0):
        assert errata_here("promote", "served", "--from", source, "--json").json["carried"] == carried
    head, numbers = production.store.head("served"), own_home.store.numbers(LINE)
    assert head.version == 2 and f"/{LINE}" in head.reason and production.store.lines() == ["served"]
    for number in numbers:
        mine, its = production.store.version("served", number).manifest, own_home.store.version(LINE, number).manifest
        assert (mine.tensor_digests, mine.files) == (its.tensor_digests, its.files)
    assert not audit(open_workplace(production.settings)).faults
    assert {one.state for one in production.ledger.states("served").values()} == {"promoted"}
    check_one_line(
        errata_here("promote", "served", "--from", f"{source}-not"), 2, "nothing of line 'kept-not' is in service"
    )
    check_one_line(errata_here("promote", "served", "--from", f"{source}/x/y"), 2, "is no folder")
