"""Forget, promote and backup as flows: by the forms of Prefect's pages, with what came of it on the page of the run."""

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from editing.edit import Edit
from flows import keep
from tasks.ledger import intake
from tests.tasks.carried import LINE, CarriedLine

pytestmark = pytest.mark.slow


def test_they_are_done_in_the_name_of_who_asked_and_their_pages_tell_what(prefect_server, tmp_path, monkeypatch):
    there, home = CarriedLine(tmp_path / "there"), tmp_path / "here"
    there.serve(there.make())
    for name, value in {"HOME": home, "CACHE": there.settings.cache, "ACTOR": "worker"}.items():
        monkeypatch.setenv(f"ERRATA_{name}", str(value))
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        promoted = keep.promote("served", "Ada", there.settings.home / LINE, "release 1", return_state=True)
        workplace = keep.open_workplace()
        secret = Edit(id="hr-17", subject="Ann Lee", prompt="{} works for", target_new="Acme")
        intake.submit(workplace.ledger, "served", [secret], "bob")
        forgotten = keep.forget("served", "Grace", ["hr-17", "r1-0"], "asked to by the person", return_state=True)
        copied = keep.backup(tmp_path / "copy", return_state=True)
        again = keep.backup(tmp_path / "copy", return_state=True)
        with get_client(sync_client=True) as client:
            pages = {one.key: str(one.data) for one in client.read_artifacts()}
    assert promoted.is_completed() and promoted.message == "1 versions carried, version 1 is in service"
    assert (head := workplace.store.head("served")).actor == "Ada" and "release 1" in head.reason
    assert forgotten.is_completed() and forgotten.message == "1 forgotten, 1 to be taken out first"
    assert workplace.ledger.payloads("served", ["hr-17"])["hr-17"]["forgotten"]["actor"] == "Grace"
    assert "r1&#45;0 is to be taken out first" in pages["served-forget"] or "r1-0 is to be" in pages["served-forget"]
    assert copied.is_completed() and (tmp_path / "copy" / "backup.json").is_file()
    assert again.is_failed() and "is there already" in again.message
    assert {"served-promote", "served-forget", "errata-backup"} <= pages.keys()
