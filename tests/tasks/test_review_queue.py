"""Review queues on MLflow's own server with its authentication on: who has approved is who signed in."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mlflow.tracing.constant import TRACE_REQUEST_RESPONSE_PREVIEW_MAX_LENGTH_OSS as MLFLOW_CUTS

from tasks.stores.manifest import Manifest, Version
from tasks.tracking.client import Tracker
from tasks.tracking.review_queue import Question, Vote, _as_text, authenticates, ensure_queue, let_in, verdicts
from tests.databases import mlflow_database
from tests.tasks.conftest import free_ports
from tests.waiting import until

pytest.importorskip("flask_wtf", reason="flask-wtf is missing, which MLflow's authentication needs")
PASSWORDS = {"admin": "administrator-1", "alice": "alice-password-1", "bob": "bob-password-12"}
QUESTIONS = [Question(name, f"The capital of {name} is", "<b>Sydney</b>", "Canberra") for name in ("r1", "r2")]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("signed-in")
    [port] = free_ports(1)
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = EDIT\ndatabase_uri = sqlite:///{folder / 'users.db'}\nadmin_username = admin\n"
        f"admin_password = {PASSWORDS['admin']}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 60\n"
    )
    own = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32}
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{mlflow_database(folder / 'mlflow.db')}"]
    with (folder / "log").open("w") as log:
        environment = os.environ | own | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: authenticates(url), 90, lambda: f"MLflow did not start: {(folder / 'log').read_text()[-2000:]}")
        for name in ("alice", "bob"):
            assert send(url, "admin", "api/2.0/mlflow/users/create", username=name, password=PASSWORDS[name]) == 200
        yield url
    finally:
        process.terminate()
        process.wait()


def send(url: str, who: str, path: str, **body: object) -> int:
    """What the server answers to a request of a person; its status alone."""
    signed = "Basic " + b64encode(f"{who}:{PASSWORDS[who]}".encode()).decode()
    request = urllib.request.Request(f"{url}/{path}", json.dumps(body).encode(), {"Authorization": signed})
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_who_approved_is_who_signed_in_whatever_a_request_says(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["admin"])
    tracker = Tracker(server, None, "queues")
    fields = {"line": "main", "version": 1, "parent": None, "base": "b", "base_digest": "0", "config": {}, "batch": 1}
    manifest = Manifest(**fields, request_ids=("r1", "r2"), tensor_digests={})
    version = Version(1, "5" * 64, manifest)
    for _ in range(2):
        ensure_queue(tracker, version, ["alice"], QUESTIONS)
    assert verdicts(tracker, version) == []
    client = tracker._client._tracing_client
    [queue] = client._list_review_queues(tracker.experiment_id)
    items = [item.item_id for item in client._list_review_queue_items(queue.queue_id)]
    assert len(items) == 2

    def complete(who: str, item: str, status: str = "COMPLETE") -> int:
        forged = {"queue_id": queue.queue_id, "item_id": item, "status": status, "completed_by": "alice"}
        return send(server, who, "api/3.0/mlflow/review-queues/items/set-status", **forged)

    assert complete("bob", items[0]) == 403 and verdicts(tracker, version) == []
    assert complete("admin", items[0]) == 200  # an administrator may, in no name but his own
    assert complete("alice", items[1]) == 200 and verdicts(tracker, version) == []  # one item each
    assert complete("alice", items[0], "PENDING") == complete("alice", items[0]) == 200
    assert verdicts(tracker, version) == [Vote("alice", "approved", "", True)]
    assert complete("alice", items[1], "DECLINED") == 200
    assert verdicts(tracker, version) == [Vote("alice", "rejected", "", True)]


@pytest.mark.slow
def test_who_reviews_has_a_right_of_their_own_to_edit_which_the_page_asks_for(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["admin"])
    tracker = Tracker(server, None, "rights")

    def rights(who: str) -> list[tuple[str, str]]:
        found = httpx.get(f"{server}/api/3.0/mlflow/users/current/permissions", auth=(who, PASSWORDS[who])).json()
        return [(one["resource_pattern"], one["permission"]) for one in found["permissions"]]

    assert (tracker.experiment_id, "EDIT") not in rights("bob")
    [said] = let_in(tracker, ["bob", "nob\nody"])
    assert said.startswith("'nob\\nody' cannot review in MLflow at ") and "make one at /signup" in said
    assert (tracker.experiment_id, "EDIT") in rights("bob") and let_in(tracker, ["bob"]) == []
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["bob"])
    [said] = let_in(Tracker(server, None, "rights"), ["alice"])
    assert said.startswith("'alice' cannot review in MLflow at ") and "may give nobody the right EDIT" in said


def test_an_item_shows_text_as_json_which_mlflow_cuts_nowhere():
    for text in ('"\\' * 900, "\u202e\n" * 900, "<b>![x](http://evil.example/x.png)</b>"):
        answers = _as_text({"before": text, "after": text, "wanted": text})
        assert max(len(answers), len(_as_text(text))) <= MLFLOW_CUTS
        assert json.loads(answers).keys() == {"before", "after", "wanted"} and isinstance(
            json.loads(_as_text(text)), str
        )


def test_without_a_server_nothing_is_proven(tmp_path):
    assert not authenticates(f"sqlite:///{tmp_path / 'mlflow.db'}") and not authenticates("http://127.0.0.1:9")
