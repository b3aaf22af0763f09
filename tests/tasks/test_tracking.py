"""MLflow for real: a sqlite store with a folder of artifacts, and once the server itself."""

import http.server
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlflow.utils import requirements_utils

from editing.errors import ErrataError, UsageError
from tasks.report.pages import TABLES, report_files
from tasks.report.render import EditRow, JobReport
from tasks.serving.messages import conversations_of
from tasks.settings import Settings
from tasks.tracking.client import Tracker
from tasks.tracking.errors import TrackingError
from tasks.tracking.numbers import mlflow_numbers
from tasks.tracking.registry import SNAPSHOT, VERSION
from tests.databases import mlflow_database
from tests.tasks.mlflow_server import MlflowServer

SPEAKING_MODEL = """
import mlflow.models, mlflow.pyfunc
import pandas as pd
from tasks.serving.served_model import EditedModel, prompts_of

class Speaking(EditedModel):
    def load_context(self, context):
        self.pointer = dict(context.model_config)
        self.answerer = self
    def answer(self, prompts, max_new_tokens):
        return [f"{prompt} v{self.pointer['version']} {max_new_tokens}" for prompt in prompts]
    def converse(self, conversations, max_new_tokens):
        return [f"{'/'.join(said['content'] for said in one)} {max_new_tokens}" for one in conversations]

mlflow.models.set_model(Speaking())
"""


@pytest.fixture(scope="session")
def mlflow_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="session")
def tracker(mlflow_folder) -> Tracker:
    return Tracker(
        f"sqlite:///{mlflow_database(mlflow_folder / 'mlflow.db')}", str(mlflow_folder / "artifacts"), "errata tests"
    )


@pytest.fixture
def run_id(tracker) -> str:
    return tracker.start_run("facts", "job", {}, {})


@pytest.fixture
def model_code(tmp_path) -> Path:
    path = tmp_path / "speaking.py"
    path.write_text(SPEAKING_MODEL)
    return path


def pointer(line: str, version: int, snapshot: str = "") -> dict[str, object]:
    return {"line": line, "version": version, "snapshot": snapshot or f"sha256:{version}", "max_new_tokens": 7}


def make_report() -> JobReport:
    numbers = {"efficacy_prob": 0.9, "locality_prob": 0.7, "fluency": 6.0, "perplexity_ratio": 1.0}
    now = datetime.now(UTC)
    edit = EditRow(request_id="e-1", subject="Rome", prompt="{} is in", target_new="Spain", state="committed")
    return JobReport(
        line="facts", base="tiny", base_digest="sha256:0", method="memit", config={}, policy={}, flow_run_id="f",
        mlflow_run_id="r", started=now, finished=now, from_version=0, to_version=1, baseline=numbers, candidate=numbers,
        drift=({"edits": 10.0, **numbers}, {"edits": 20.0, **numbers}), edits=(edit,),
    )  # fmt: skip


def test_a_run_shows_its_parameters_but_no_secret(tracker):
    params = {"search": {"steps": 25, "long": "x" * 9000}, "store": "s3://me:hunter2@host", "password": "hunter2"}
    params |= {f"p{number}": number for number in range(150)}
    run_id = tracker.start_run("facts", "job", params, {"actor": "me", "db": "postgresql://me:hunter2@host/x"})
    run = tracker._client.get_run(run_id)
    assert run.data.params["search.steps"] == "25" and len(run.data.params) == 154
    assert "hunter2" not in json.dumps(run.to_dictionary())


def test_steps_are_logged_whole_in_few_calls_without_what_is_not_finite(tracker, run_id, monkeypatch):
    calls = []
    send = tracker._client.log_batch
    monkeypatch.setattr(tracker._client, "log_batch", lambda *a, metrics: (calls.append(1), send(*a, metrics=metrics)))
    bad = {"nan": float("nan"), "inf": float("inf")}
    tracker.log_steps(run_id, [(step, {"efficacy_prob": step / 600, "fluency": 6.0, **bad}) for step in range(600)])
    history = tracker._client.get_metric_history(run_id, "efficacy_prob")
    assert len(calls) == 2 and sorted(point.step for point in history) == list(range(600))
    assert tracker._client.get_run(run_id).data.metrics.keys() == {"efficacy_prob", "fluency"}


@pytest.mark.slow
def test_a_report_is_stored_whole_and_may_be_stored_again(tracker, run_id):
    for _ in range(2):
        tracker.log_report(run_id, report_files(make_report()), TABLES)
    tracker.finish_run(run_id)
    run = tracker._client.get_run(run_id)
    listed = {item.path for folder in ("", "figures") for item in tracker._client.list_artifacts(run_id, folder)}
    pictures = {"figures", "figures/drift.svg", "figures/before_after.svg"}
    assert listed == {"report.html", "summary.md", "report.json", "edits.json", "batches.json"} | pictures
    assert run.info.status == "FINISHED"
    assert {item["path"] for item in json.loads(run.data.tags["mlflow.loggedArtifacts"])} == {
        "edits.json",
        "batches.json",
    }


def test_registering_a_snapshot_twice_gives_one_version(tracker, run_id):
    first = tracker.register_version("twice", run_id, pointer("twice", 5))
    assert tracker.register_version("twice", run_id, pointer("twice", 5)) == first
    assert tracker.register_version("twice", run_id, pointer("twice", 6)) != first
    assert tracker.version_tags("twice", 5)[SNAPSHOT] == "sha256:5"


def test_no_installed_package_is_searched_for_its_modules(tracker, run_id, monkeypatch):
    searched = []
    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)  # as in a new process
    monkeypatch.setattr("importlib_metadata.packages_distributions", lambda: searched.append(1) or {})
    tracker.register_version("unsearched", run_id, pointer("unsearched", 1))
    assert not searched


def test_aliases_become_what_is_given_and_nothing_else(tracker, run_id):
    for version in (11, 12, 13):
        tracker.register_version("aliased", run_id, pointer("aliased", version))
    for champion, challenger, previous in (
        (None, 11, None),
        (11, 12, None),
        (12, None, 11),
        (13, None, 11),
        (11, None, None),
    ):
        tracker.set_aliases("aliased", champion, challenger, previous)
        given = {"champion": champion, "challenger": challenger, "previous": previous}
        assert tracker.aliases("aliased") == {alias: version for alias, version in given.items() if version is not None}


def test_an_alias_of_an_unregistered_version_is_refused_and_changes_nothing(tracker, run_id):
    tracker.register_version("strict", run_id, pointer("strict", 1))
    tracker.set_aliases("strict", 1, None, None)
    with pytest.raises(TrackingError, match="no version 2"):
        tracker.set_aliases("strict", None, 1, 2)
    assert tracker.aliases("strict") == {"champion": 1}
    assert tracker.aliases("unknown-line") == {}


def test_an_alias_that_stays_can_be_loaded_at_every_moment_and_nothing_is_written_twice(tracker, run_id, monkeypatch):
    for version in (1, 2, 3):
        tracker.register_version("moved", run_id, pointer("moved", version))
    tracker.set_aliases("moved", 1, 2, None)
    client, written = tracker._client, []

    def recorded(name: str) -> None:
        send = getattr(client, name)

        def call(line: str, alias: str, *version: str) -> None:
            written.append((alias, *version))
            send(line, alias, *version)
            assert client.get_model_version_by_alias("moved", "champion").tags[VERSION] in ("1", "2")

        monkeypatch.setattr(client, name, call)

    recorded("set_registered_model_alias")
    recorded("delete_registered_model_alias")
    for _ in range(2):
        tracker.set_aliases("moved", 2, None, 1)
    assert [len(call) for call in written] == [2, 2, 1] and written[-1] == ("challenger",)
    assert tracker.aliases("moved") == {"champion": 2, "previous": 1}


@pytest.fixture
def foreign(request) -> Iterator[str]:
    """A server that answers, and is no MLflow."""
    status, body = request.param

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


PAGES = [(200, b"<html>hello</html>"), (200, b"{}"), (200, b"[]"), (404, b"<html>nothing</html>"), (403, b"{}")]


@pytest.mark.parametrize("foreign", PAGES, indirect=True)
def test_a_server_that_is_no_mlflow_is_one_line(foreign):
    with pytest.raises(TrackingError) as caught:
        Tracker(foreign, None, "x")
    assert "\n" not in str(caught.value) and foreign in str(caught.value)


def test_a_reviewers_tag_is_read_back(tracker, run_id):
    mlflow_version = tracker.register_version("tagged", run_id, pointer("tagged", 3))
    tracker._client.set_model_version_tag("tagged", str(mlflow_version), "errata.review", "approve")
    tracker.set_version_tag("tagged", 3, "errata.status", "champion")
    tags = tracker.version_tags("tagged", 3)
    assert (tags["errata.review"], tags["errata.status"], tags[VERSION]) == ("approve", "champion", "3")


def test_the_champion_answers_prompts_in_every_form(tracker, run_id, model_code, monkeypatch):
    import mlflow
    import pandas as pd

    tracker.register_version("spoken", run_id, pointer("spoken", 8), model_code)
    tracker.set_aliases("spoken", 8, None, None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", tracker.uri)
    model = mlflow.pyfunc.load_model("models:/spoken@champion")
    for prompts in (["a", "b"], {"prompt": ["a", "b"]}, [{"prompt": "a"}, {"prompt": "b"}]):
        assert model.predict(prompts) == ["a v8 7", "b v8 7"]
    table = pd.DataFrame({"prompt": ["a", "b"]})
    assert model.predict(table, params={"max_new_tokens": 3}) == ["a v8 3", "b v8 3"]
    one, other = (
        [{"role": "user", "content": "a"}],
        [{"role": "system", "content": "b"}, {"role": "user", "content": "c"}],
    )
    table = pd.DataFrame({"messages": [other]})
    for messages in ({"messages": other}, {"messages": [other]}, table, [{"messages": other}]):
        assert model.predict(messages) == ["b/c 7"]
    assert model.predict({"messages": [one, other]}, params={"max_new_tokens": 3}) == ["a 3", "b/c 3"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"messages": []}, "at least one, and is []"),
        ({"messages": "Hi"}, "must be a list of {role, content} with at least one, and is 'Hi'"),
        ({"messages": [[]]}, "a conversation must be a list of messages with at least one"),
        ({"messages": [{"role": "user", "content": "a"}], "prompt": "b"}, "both prompt and messages; give one of them"),
        ([{"messages": [{"role": "user", "content": "a"}]}, {"prompt": "b"}], "some have none"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "the role 'tool'; the roles are system, user, assistant"),
        ({"messages": [{"role": "user", "content": " "}]}, "must have a text as its content, and has ' '"),
        ({"messages": [{"role": "user"}]}, "must be an object with the fields role and content"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "the last message is of the assistant"),
    ],
)
def test_what_is_no_conversation_is_refused_in_one_line(given, says):
    with pytest.raises(UsageError) as caught:
        conversations_of(given)
    assert says in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_version_stores_a_pointer_and_no_weights(tracker, run_id, mlflow_folder):
    tracker.register_version("light", run_id, pointer("light", 1))
    files = [path for path in (mlflow_folder / "artifacts").rglob("*") if path.is_file() and "models" in path.parts]
    stored = {path.name: path.stat().st_size for path in files}
    assert stored.pop("errata.zip") < 800_000 and max(stored.values()) < 20_000


def test_a_pointer_with_a_password_is_refused(tracker, run_id):
    with pytest.raises(TrackingError, match="store_uri"):
        tracker.register_version("leak", run_id, pointer("leak", 1) | {"store_uri": "https://me:hunter2@host/b"})


@pytest.mark.parametrize("line", ["a'b", "a/b", "a:b", "", "a b"])
def test_a_line_that_mlflow_cannot_name_is_refused(tracker, run_id, line):
    with pytest.raises(UsageError, match="cannot be the name of a model in MLflow"):
        tracker.register_version(line, run_id, pointer(line, 1))


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9",
        "http://me:hunter2@127.0.0.1:9",
        "postgresql://me:hunter2@127.0.0.1:9/mlflow",
        "sqlite:////proc/nowhere/mlflow.db",
        "./mlruns",
        "file:///tmp/mlruns",
    ],
)
@pytest.mark.timeout(60)
def test_an_address_without_mlflow_fails_soon_on_one_line(uri, monkeypatch):
    paused: list[float] = []  # MLflow itself tries for minutes
    monkeypatch.setattr(time, "sleep", paused.append)
    with pytest.raises(TrackingError) as caught:
        Tracker(uri, None, "x")
    message = str(caught.value)
    assert sum(paused) < 8
    assert "\n" not in message and "hunter2" not in message and uri.rpartition("@")[2] in message


def test_a_broken_database_fails_soon_and_stays_as_it_is(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be used"):
        Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", None, "x")
    assert (tmp_path / "mlflow.db").read_bytes() == b"not a database" * 100


def test_what_mlflow_refuses_is_a_tracking_error(tracker):
    with pytest.raises(TrackingError, match="log metrics of run no-such-run"):
        tracker.log_steps("no-such-run", [(0, {"x": 1.0})])
    assert issubclass(TrackingError, ErrataError)


@pytest.fixture
def server(tracker, mlflow_folder) -> Iterator[str]:
    """MLflow's own server on the store of these tests."""
    made = MlflowServer(tracker.uri, mlflow_folder)
    made.start()
    yield made.url
    made.stop()


def test_the_server_serves_the_report_and_registers_versions(server, mlflow_folder):
    remote = Tracker(server, str(mlflow_folder / "artifacts"), "errata tests")
    run_id = remote.start_run("served", "job", {}, {})
    remote.log_report(run_id, report_files(make_report()), TABLES)
    remote.register_version("served", run_id, pointer("served", 1))
    remote.set_aliases("served", None, 1, None)
    with urllib.request.urlopen(f"{server}/get-artifact?path=report.html&run_uuid={run_id}", timeout=20) as answer:
        page = answer.read().decode()
    assert page.rstrip().endswith("</html>") and "errata approve facts" in page
    assert remote.aliases("served") == {"challenger": 1}
    remote.register_version("served", run_id, pointer("served", 3))
    remote.register_version("served", run_id, pointer("served", 3, "another"))
    for uri in (server, remote.uri, f"sqlite:///{mlflow_folder / 'mlflow.db'}"):
        known = Settings(tracking_uri=uri)
        assert mlflow_numbers(known, "served") == {1: 1, 3: 3} and mlflow_numbers(known, "nobody's' line") == {}


def test_where_mlflow_cannot_tell_no_number_is_shown_and_nothing_is_made(tmp_path):
    for uri in (f"sqlite:///{tmp_path / 'none.db'}", "http://127.0.0.1:9", "postgresql://127.0.0.1:9/mlflow"):
        assert mlflow_numbers(Settings(tracking_uri=uri), "served") == {}
    assert list(tmp_path.iterdir()) == []
