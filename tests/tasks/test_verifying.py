"""Whether a server serves a version is told from what it says; what it says of itself counts for nothing."""

import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from editing.errors import ErrataError
from tasks.carrying.endpoint import KEY, LARGEST_ANSWER
from tasks.carrying.exporting import export
from tasks.carrying.verifying import Verified, alike, verify
from tasks.serving.loading import Answerer
from tests.conftest import byte_tokenizer
from tests.costs import some
from tests.tasks.carried import LINE, CarriedLine, answering
from tests.waiting import until

USER = {"role": "user", "content": "Ada 10 was born in the city of"}


@pytest.fixture(scope="module", params=["raw", "chat"])
def line(request, tmp_path_factory) -> CarriedLine:
    """Version 2 is in service."""
    made = CarriedLine(tmp_path_factory.mktemp(request.param), template=request.param)
    made.make(4, strength=0.6)
    made.make(4, strength=0.6)
    made.serve(made.workplace.store.version(LINE, 2))
    return made


def told(line: CarriedLine) -> list[tuple[str, int, str, str]]:
    return [
        (one.request_id, one.version, one.event, one.reason)
        for one in line.workplace.ledger.history(line=LINE)
        if one.event.startswith("served")
    ]


@pytest.mark.slow
def test_a_server_of_the_version_serves_it_and_the_ledger_says_so(line):
    with answering(line) as (url, _):
        before = len(told(line))
        done = verify(line.workplace, LINE, f"{url}/v1/", LINE, sample=6)
    assert done.verdict == "served" and done.version == 2
    assert all(row.agrees and row.version == row.server for row in done.rows)
    facts = [row for row in done.rows if row.about == "fact"]
    assert len(facts) == 6 and any(row.tells for row in facts)
    assert len(done.rows) == 10  # two neighbors are longer than the model reads
    assert {row.request for row in facts} >= {"r2-0", "r2-1"}  # what the version brought is among them
    events = told(line)[before:]
    assert [one[:3] for one in events] == [(row.request, 2, "served") for row in facts]
    assert all(why.startswith(f"{LINE} at {url}/v1 says: ") for *_, why in events)
    assert line.workplace.ledger.counts(LINE) == {"promoted": 8}


@pytest.mark.slow
def test_a_server_is_asked_under_the_system_message_of_the_line(tmp_path):
    """Also one that does not know it, as a server of an export."""
    made = CarriedLine(tmp_path, template="chat", system="The old man said so.")
    made.make(4, strength=0.6)
    made.serve(made.workplace.store.version(LINE, 1))
    with answering(made) as (url, engine):
        for system in (made.spec.system, None):
            engine.system = system
            assert verify(made.workplace, LINE, f"{url}/v1", LINE).verdict == "served"
        own, served = Answerer(engine.loaded, made.spec.system), httpx.Client(base_url=url, timeout=60)
        engine.system = made.spec.system
        for asked in ([USER], [{"role": "system", "content": "No."}, USER]):
            body = {"model": LINE, "messages": asked, "max_tokens": 8}
            said = served.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
            assert said == own.converse([asked], 8)[0]
        texts = [Answerer(engine.loaded, one).converse([[USER]], 8) for one in (made.spec.system, None)]
        assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("telling", "others", "says"),
    [
        (1, 0, "1 of 1 answer that tells agrees"),
        (1, 1, "1 of 1 answer that tells and 1 of 1 other agree"),
        (2, 3, "2 of 2 answers that tell and 3 of 3 others agree"),
    ],
)
def test_what_came_of_asking_is_said_in_numbers_that_fit(telling, others, says):
    fact = {"about": "fact", "request": "r", "question": "q", "version": "a", "server": "a", "agrees": True}
    rows = [fact | {"tells": place < telling} for place in range(telling + others)]
    about = {"line": "l", "version": 1, "snapshot": "s", "url": "u", "model": "m", "verdict": "served"}
    assert Verified.model_validate(about | {"rows": rows}).in_short == f"m at u serves version 1 of line l: {says}"


@pytest.mark.slow
@pytest.mark.parametrize("behind", [0, 1])
def test_base_or_an_earlier_version_behind_the_same_name_is_told(line, behind):
    store = line.workplace.store
    line.serve(store.version(LINE, behind) if behind else None)
    with answering(line) as (url, _):
        before = len(told(line))
        done = verify(line.workplace, LINE, f"{url}/v1", LINE, version="2", sample=8)
    line.serve(store.version(LINE, 2))
    assert done.verdict == "served_other" and "does not serve version 2 of line line: " in done.in_short
    assert behind or not any(row.agrees for row in done.rows if row.tells)
    assert {one[2] for one in told(line)[before:]} == {"served_other"}


def test_a_line_that_takes_a_chat_where_there_is_one_is_asked_by_its_prompts_where_there_is_none(tmp_path):
    made = CarriedLine(tmp_path, chat=False, template="auto")
    made.make(4, strength=0.6)
    made.serve(made.workplace.store.version(LINE, 1))
    with answering(made) as (url, _):
        assert verify(made.workplace, LINE, f"{url}/v1", LINE).verdict == "served"


@contextmanager
def replying(status: int, body: bytes, models: bytes = b"{}") -> Iterator[tuple[str, list[str]]]:
    """A server that answers everything the same; and what it was sent as its key."""
    keys: list[str] = []

    class Reply(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            keys.append(self.headers.get("authorization", ""))
            self.answer(status, body)

        def do_GET(self) -> None:
            self.answer(200, models)

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Reply) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", keys
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def plain_line(tmp_path_factory) -> CarriedLine:
    made = CarriedLine(tmp_path_factory.mktemp("plain"))
    made.serve(made.make())
    return made


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, b'{"error": {"message": "The model `capitals`\\n does not exist."}}',
         "answers 404 to completions for model 'capitals': The model `capitals` does not exist.; it has base, adapter"),
        (401, b'{"detail": "who are you"}', f"who are you; it has base, adapter; set {KEY} to its key"),
        (500, b"<html><b>Traceback</b></html>", "answers 500 .* <html>"),
        (200, b"<html>hello</html>", "has no text where OpenAI's protocol has it"),
        (200, b'{"choices": [{"text": 7}]}', "has no text where OpenAI's protocol has it"),
        (200, b" " * (LARGEST_ANSWER + 1), "answers with more than 1,048,576 bytes"),
        (307, b"", "has no text where"),
    ],
)  # fmt: skip
def test_whatever_else_a_server_answers_is_said_in_one_line_and_nothing_is_written(plain_line, status, body, says):
    models = json.dumps({"data": [{"id": "base"}, {"id": "adapter"}]}).encode()
    with replying(status, body, models) as (url, _), pytest.raises(ErrataError, match=says) as refused:
        verify(plain_line.workplace, LINE, url, "capitals")
    assert "\n" not in str(refused.value) and not told(plain_line)


def test_a_key_is_sent_and_never_shown(plain_line, monkeypatch):
    monkeypatch.setenv(KEY, "sk-very-secret")
    with replying(401, b"{}") as (url, keys), pytest.raises(ErrataError) as refused:
        verify(plain_line.workplace, LINE, url, "x")
    assert keys == ["Bearer sk-very-secret"] and "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"url": "127.0.0.1:8000"}, "is no address"),
        ({"url": "ftp://127.0.0.1/v1"}, "is no address"),
        ({"url": "http://ann:secret@127.0.0.1/v1"}, f"holds more than an address; give a key by {KEY}"),
        ({"model": " "}, "the name of the model is empty"),
        ({"version": "0"}, "version 0 of line 'line' holds no facts"),
        ({"version": "challenger"}, "nothing waits on line 'line'"),
        ({"line": "nowhere"}, "there is no line 'nowhere'"),
    ],
)
def test_a_mistake_is_told_before_anybody_is_asked(plain_line, more, says):
    asked = {"line": LINE, "url": "http://127.0.0.1:1/v1", "model": LINE} | more
    with pytest.raises(ErrataError, match=says) as refused:
        verify(plain_line.workplace, **asked)
    assert "\n" not in str(refused.value) and "secret" not in str(refused.value)


def test_a_closed_port_is_said_in_one_line(plain_line):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        ErrataError, match=rf"server 'http://127.0.0.1:{port}/v1' does not answer \(.*look whether it runs"
    ):
        verify(plain_line.workplace, LINE, f"http://127.0.0.1:{port}/v1", LINE)


def test_a_version_that_answers_as_its_base_cannot_be_told(tmp_path):
    made = CarriedLine(tmp_path)
    made.serve(made.make(strength=0.0))
    with (
        answering(made) as (url, _),
        pytest.raises(ErrataError, match="none tells version 1 of line 'line' from its base"),
    ):
        verify(made.workplace, LINE, f"{url}/v1", LINE)
    assert not told(made)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Rome and the sea", " Rome and the sea", True),
        ("Rome and the sea", "Rome and", True),
        ("Rome and the old man said", "Rome and the old man was", True),
        ("Rome", "London", False),
        ("Rome", "", False),
        ("", "", True),
    ],
)
def test_texts_are_alike_that_begin_alike(one, other, same):
    assert alike(byte_tokenizer(), one, other) is alike(byte_tokenizer(), other, one) is same


@pytest.mark.slow
@pytest.mark.parametrize("line", some(["raw", "chat"], ["chat"]), indirect=True)
def test_transformers_serves_an_exported_folder(line, tmp_path):
    """The real server; with the base behind the same name it is told."""
    pytest.importorskip("openai", reason="`transformers serve` needs the package openai")
    export(line.workplace, LINE, "merged", tmp_path / "served")
    for number, verdict in (("2", "served"), ("0", "served_other")):
        (tmp_path / "served").rename(tmp_path / f"was-{number}")
        export(line.workplace, LINE, "merged", tmp_path / "served", number)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1"]
        process = subprocess.Popen([*command, "--port", str(port), "--device", "cpu", str(tmp_path / "served")])
        try:
            _until_healthy(process, port)
            done = verify(line.workplace, LINE, f"http://127.0.0.1:{port}/v1", str(tmp_path / "served"), "2")
        finally:
            process.kill()
            process.wait()
        assert done.verdict == verdict


def _until_healthy(process: "subprocess.Popen[bytes]", port: int) -> None:
    def answers() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}"
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200

    until(answers, 300, away=(httpx.HTTPError,))
