"""A tag that is set in MLflow decides within seconds; a message that MLflow did not send, or not now, is refused."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import uvicorn
from pydantic import SecretStr

from deployments.webhooks import MOST_BYTES, PATH, Looker, look_at, receiver
from tasks.settings import Settings
from tasks.tracking.review_queue import authenticates
from tasks.tracking.webhooks import DELIVERY, MOST_AGE, SIGNATURE, TIMESTAMP, ensure_webhook, signature
from tests.databases import mlflow_database
from tests.tasks.mlflow_server import MlflowServer
from tests.tasks.reviewed_line import ReviewedLine

SECRET = SecretStr("known to MLflow and to Errata alone")
KEY = "eW91IHNoYWxsIG5vdCB1c2UgdGhpcyBvbmUgaGVyZSE="
ALLOWED = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": KEY,
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "for its cookies",
    "MLFLOW_TRACKING_USERNAME": "admin",
    "MLFLOW_TRACKING_PASSWORD": "a-good-one-7",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[MlflowServer]:
    """MLflow's server, which asks for a password."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in ALLOWED.items():
            patched.setenv(name, value)
        rights = "[mlflow]\ndefault_permission = READ\nadmin_username = admin\nadmin_password = a-good-one-7\n"
        rights += f"database_uri = sqlite:///{folder / 'users.db'}\n"
        rights += "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        (folder / "auth.ini").write_text(rights)
        patched.setenv("MLFLOW_AUTH_CONFIG_PATH", str(folder / "auth.ini"))
        server = MlflowServer(f"sqlite:///{mlflow_database(folder / 'mlflow.db')}", folder, "--app-name", "basic-auth")
        server.start()
        yield server
        server.stop()


@pytest.fixture
def listening() -> Iterator["tuple[list[str], Looker, str]"]:
    """The receiver on a port of its own: what it asked to look at, who looks, and its address."""
    asked: list[str] = []
    looker = Looker(look_at)

    def ask(line: str) -> None:
        asked.append(line)
        looker.ask(line)

    port = socket.create_server(("127.0.0.1", 0))
    app = receiver(Settings(webhook_secret=SECRET), ask)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [port]})
    thread.start()
    yield asked, looker, f"http://127.0.0.1:{port.getsockname()[1]}{PATH}"
    server.should_exit = True
    thread.join()


def send(url: str, body: bytes, age: float = 0.0, secret: SecretStr = SECRET, **more: str) -> int:
    stamp, delivery = str(int(time.time() - age)), more.pop("delivery", f"{time.monotonic_ns()}")
    headers = {DELIVERY: delivery, TIMESTAMP: stamp, SIGNATURE: signature(secret, delivery, stamp, body).decode()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers | more), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def about(line: str, key: str = "review", **more: object) -> bytes:
    data = {"name": line, "version": "1", "key": key, "value": "approved"} | more
    return json.dumps({"entity": "model_version_tag", "action": "set", "data": data}).encode()


def test_what_mlflow_did_not_send_or_not_now_is_refused(listening):
    asked, _, url = listening
    good = about("main")
    assert send(url, good, delivery="one") == 202 and asked == ["main"]
    assert send(url, good, delivery="one") == 403  # again
    assert send(url, good, secret=SecretStr("guessed")) == 403
    assert send(url, good, **{SIGNATURE: ""}) == 403
    assert send(url, good, age=MOST_AGE + 60) == 403 and send(url, good, age=-MOST_AGE - 60) == 403
    assert send(url, about("main", value="x" * MOST_BYTES)) == 403
    assert send(url, b"[]") == 403 and send(url, b"\xff{") == 403
    assert send(url, good, Host="errata.example") == 400
    assert send(url.removesuffix(PATH) + "/other", good) == 404
    assert send(url, about("main", key="colour")) == 202  # a tag that decides nothing
    assert asked == ["main"]


def test_a_line_that_nobody_knows_is_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path))
    look_at("nowhere")
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_a_tag_set_in_mlflow_decides_within_seconds(served, listening, tmp_path, monkeypatch):
    asked, looker, url = listening
    places = {"home": str(tmp_path), "cache": str(tmp_path / "cache"), "tracking_uri": served.url}
    for name, value in places.items():
        monkeypatch.setenv(f"ERRATA_{name.upper()}", value)
    line = ReviewedLine(tmp_path, "hooked", tracking_uri=served.url)
    line.make()
    looker.start()
    tracker = line.workplace.tracker()
    for _ in range(2):
        ensure_webhook(tracker, url, SECRET)
    assert [one.url for one in tracker._client.list_webhooks()] == [url]
    line.tag(1, review="approved", review_comment="seen")
    deadline = time.monotonic() + 120
    while line.serving() != 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert line.serving() == 1 and asked[0] == "hooked"
    assert line.workplace.store.head("hooked").way == "tag in MLflow"
    assert authenticates(served.url)  # whoever has no password is sent away
