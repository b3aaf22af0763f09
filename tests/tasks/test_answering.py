"""The server of a line: what it answers is of the version that is in service, whatever moves meanwhile."""

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch

from editing.errors import OutOfMemory
from editing.filled import Filled
from tasks.carrying.chosen import choose, opened
from tasks.serving import engine as engine_module
from tasks.serving.engine import ROWS_AT_ONCE, Asked, Engine, Full, NotServed
from tasks.serving.loading import Answerer
from tasks.serving.pieces import Pieces
from tasks.serving.server import MOST_BYTES
from tasks.stores.errors import StorageError
from tests.tasks.carried import LINE, CarriedLine, answering

PROMPTS = ["Ada was born in", "The river Nile flows", "The old man said that", "Rome"]
CLIENTS = 8
MOVES = (2, 0, 3, 1, 3, 2)
TOKENS = 6
USER = {"role": "user", "content": "a"}


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> CarriedLine:
    made = CarriedLine(tmp_path_factory.mktemp("answering"), template="auto")
    for number in range(3):
        made.make(root=number == 2)
    return made


@pytest.fixture(scope="module")
def expected(line) -> dict[int, dict[str, str]]:
    """What each version says, loaded alone."""
    found = {}
    for number in range(4):
        answerer = Answerer(opened(line.workplace, choose(line.workplace, LINE, str(number))).loaded)
        found[number] = dict(zip(PROMPTS, answerer.answer(PROMPTS, TOKENS), strict=True))
    return found


@pytest.fixture
def server(line):
    line.serve(line.workplace.store.version(LINE, 1))
    with answering(line) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        yield client


def complete(client: httpx.Client, prompt: object, **more: object) -> httpx.Response:
    return client.post("/v1/completions", json={"model": LINE, "prompt": prompt, "max_tokens": TOKENS, **more})


@pytest.mark.slow
def test_no_request_is_dropped_and_each_answer_is_of_a_version_that_was_in_service(line, expected):
    """Times are taken around both the answers and the moves, so intervals may only look longer than they were."""
    assert len({json.dumps(said) for said in expected.values()}) == 4
    store = line.workplace.store
    line.serve(store.version(LINE, 1))
    served = [(1, time.monotonic(), float("inf"))]  # version, from when on, until when at most

    def move(version: int) -> None:
        begun = time.monotonic()
        store.move_head(LINE, store.version(LINE, version) if version else None, store.head(LINE), "promote", "ann", "")
        served[-1] = (*served[-1][:2], time.monotonic())
        served.append((version, begun, float("inf")))

    with answering(line) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        answers: list[tuple[int, str, str, float, float]] = []
        going = threading.Semaphore(0)

        moved = threading.Event()

        def ask(seed: int) -> int:
            choose_prompt, asked = random.Random(seed), 0
            while not moved.is_set():
                prompt, begun = choose_prompt.choice(PROMPTS), time.monotonic()
                asked += 1
                response = complete(client, prompt)
                assert response.status_code == 200, response.text
                text = response.json()["choices"][0]["text"]
                answers.append((int(response.headers["x-errata-version"]), prompt, text, begun, time.monotonic()))
                going.release()
            return asked

        with ThreadPoolExecutor(CLIENTS) as pool:
            asking = [pool.submit(ask, seed) for seed in range(CLIENTS)]
            try:
                for version in MOVES:
                    move(version)
                    while not any(one == version and begun >= served[-1][1] for one, _, _, begun, _ in answers):
                        assert going.acquire(timeout=60)
            finally:
                moved.set()
            assert sum(one.result() for one in asking) == len(answers)
    assert {version for version, *_ in answers} >= {*MOVES}
    for version, prompt, text, begun, done in answers:
        assert text == expected[version][prompt]
        assert any(one == version and start <= done and begun <= stop for one, start, stop in served)


def test_a_completion_has_openais_form_and_names_its_version(server, line, expected):
    response = complete(server, PROMPTS)
    body, snapshot = response.json(), line.workplace.store.version(LINE, 1).snapshot
    assert [choice["text"] for choice in body["choices"]] == [expected[1][prompt] for prompt in PROMPTS]
    assert body["object"] == "text_completion" and body["model"] == LINE
    assert body["system_fingerprint"] == f"{LINE}-v1-{snapshot[:12]}" and response.headers["x-errata-version"] == "1"
    assert body["usage"]["completion_tokens"] == len(PROMPTS) * TOKENS
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    known = {"line": LINE, "version": 1, "snapshot": snapshot, "sequence": line.workplace.store.head(LINE).sequence}
    told = server.get("/version").json()
    assert told.pop("errata") and told == known
    assert server.get("/health").json() == {"status": "ok", "version": 1}
    assert [one["id"] for one in server.get("/v1/models").json()["data"]] == [LINE]


def test_a_stop_ends_the_text_before_it(server, expected):
    whole = expected[1][PROMPTS[0]]
    stop = whole[2:4]
    [choice] = complete(server, PROMPTS[0], stop=[stop, "never said"]).json()["choices"]
    assert choice["text"] == whole[: whole.index(stop)] and choice["finish_reason"] == "stop"


def test_a_conversation_is_answered_under_the_models_template_in_one_piece_or_as_events(server, line):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    asked = {"model": LINE, "messages": messages, "max_completion_tokens": TOKENS}
    body = server.post("/v1/chat/completions", json=asked).json()
    message = body["choices"][0]["message"]
    answerer = Answerer(opened(line.workplace, choose(line.workplace, LINE)).loaded)
    plain = [messages[0], {"role": "user", "content": "Hi"}]
    assert message == {"role": "assistant", "content": answerer.converse([plain], TOKENS)[0]}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = server.post("/v1/chat/completions", json=asked | options)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    *said, ended, usage = map(json.loads, events)
    pieces = [one["choices"][0]["delta"] for one in said]
    assert {one["object"] for one in said} == {"chat.completion.chunk"} and len(pieces) > 2
    assert pieces[0] == {"role": "assistant", "content": ""}
    assert "".join(piece["content"] for piece in pieces) == message["content"]
    assert ended["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert usage["choices"] == [] and usage["usage"] == body["usage"]


@pytest.mark.parametrize("stop", [None, "e", ["th", "o"]])
def test_texts_that_are_streamed_together_are_whole_and_of_one_version(server, line, stop):
    """Also where an answer ends at a stop, of which no beginning is sent."""
    prompts, asked = ["Rome", "The river", "Ada lives in"], {"stop": stop, "max_tokens": 12}
    texts = [one["text"] for one in complete(server, prompts, **asked).json()["choices"]]
    response = complete(server, prompts, stream=True, **asked)
    events = [json.loads(one[6:]) for one in response.text.split("\n\n")[:-2]]
    said = [one["choices"][0] for one in events]
    assert ["".join(one["text"] for one in said if one["index"] == i) for i in range(3)] == texts
    assert len(said) > 6 or stop
    assert len({one["system_fingerprint"] for one in events}) == 1
    assert response.headers["x-errata-version"] == str(line.workplace.store.head(LINE).version)


def test_what_of_a_text_could_still_change_is_held_back():
    heard: list[str] = []
    pieces = Pieces(
        lambda number, text: heard.append(text), ("<end>",), lambda ids: bytes(ids).decode(errors="replace")
    )
    written = "a é <en <end> b".encode()
    for count in range(len(written) + 1):
        pieces.go_on(0, written[:count])
    pieces.end(0, "a é <en ")
    assert "".join(heard) == "a é <en " and len(heard) > 3


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("completions", b"[1", 400, "the body is no JSON object"),
        ("completions", b"[1]", 400, "it is no object"),
        ("completions", b"[" * 100_000, 400, "the body is no JSON object"),
        ("completions", b"{" + b" " * MOST_BYTES + b"}", 413, "more than 1,048,576 bytes"),
        ("completions", {"prompt": "a"}, 400, "model: Field required"),
        ("completions", {"model": "other", "prompt": "a"}, 404, "model 'other' is not served here; this is 'line'"),
        ("completions", {"model": LINE}, 400, "prompt: Field required"),
        ("completions", {"model": LINE, "prompt": [1, 2]}, 400, "prompt"),
        ("completions", {"model": LINE, "prompt": ["a"] * 17}, 400, "at most 16 items"),
        ("completions", {"model": LINE, "prompt": ""}, 400, "has no tokens"),
        ("completions", {"model": LINE, "prompt": "a " * 400}, 400, "takes 401 tokens, the model reads 256; shorten"),
        ("completions", {"model": LINE, "prompt": "a", "max_tokens": 513}, 400, "writes at most 512"),
        ("completions", {"model": LINE, "prompt": "a", "max_tokens": -1}, 400, "max_tokens: -1"),
        ("completions", {"model": LINE, "prompt": "a", "temperature": 0.7}, 400, "temperature = 0.7 is not served"),
        ("completions", {"model": LINE, "prompt": "a", "n": 2}, 400, "n = 2 is not served"),
        ("completions", {"model": LINE, "prompt": "a", "logprobs": 5}, 400, "logprobs = 5 is not served"),
        ("completions", {"model": LINE, "prompt": "a", "stop": [""]}, 400, "stop"),
        ("completions", {"model": LINE, "prompt": "a\ud800"}, 400, "it holds half a surrogate pair; write the char"),
        ("completions", {"model": LINE, "prompt": ["a", "\udfff"]}, 400, "it holds half a surrogate pair"),
        ("completions", {"model": LINE, "prompt": "a", "\ud800": 1}, 400, "it holds half a surrogate pair"),
        ("completions", {"model": LINE, "prompt": "a", "repetition_penalty": 1.2}, 400, "= 1.2 is not served"),
        ("completions", {"model": LINE, "prompt": "a", "guided_json": {}}, 400, "guided_json = {} is not served"),
        ("chat/completions", {"model": LINE, "messages": [{**USER, "content": "\ud800"}]}, 400, "half a surrogate"),
        (
            "chat/completions", {"model": LINE, "messages": [USER], "max_completion_tokens": 513}, 400,
            "max_completion_tokens is 513, this server writes at most 512",
        ),
        ("chat/completions", {"model": LINE, "messages": []}, 400, "messages"),
        ("chat/completions", {"model": LINE, "messages": [{"role": "user"}]}, 400, "with the fields role and content"),
        ("chat/completions", {"model": LINE, "messages": [{"role": "x", "content": "a"}]}, 400, "the roles are system"),
        ("chat/completions", {"model": LINE, "messages": [USER], "tools": [{}]}, 400, "tools = [{}] is not served"),
        ("embeddings", {}, 404, "there is no such thing here"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_by_name_in_openais_form(server, path, body, status, says):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = server.post(f"/v1/{path}", content=data)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, "invalid_request_error"), error
    assert says in error["message"] and "\n" not in error["message"] and "Traceback" not in response.text


@pytest.mark.slow
def test_more_than_may_wait_are_told_to_come_again(line):
    engine = Engine(opened(line.workplace, choose(line.workplace, LINE, "0")).loaded, line.workplace.store, LINE, 1)
    first = engine.ask(Asked(lambda: [], 1))  # nobody answers yet
    with pytest.raises(Full, match="1 requests wait already"):
        engine.ask(Asked(lambda: [], 1))
    first.cancel()
    with answering(line, most_waiting=1) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda _: complete(client, ["a"] * 16, max_tokens=100), range(16)))
        assert {one.status_code for one in found} == {200, 429}
        late = next(one for one in found if one.status_code == 429)
        assert late.headers["retry-after"] == "1" and late.json()["error"]["type"] == "rate_limit_error"
        assert complete(client, "a").status_code == 200


def test_an_answer_that_finds_no_memory_is_refused_in_one_line_and_the_next_is_given(line):
    loaded = opened(line.workplace, choose(line.workplace, LINE, "0")).loaded
    engine = Engine(loaded, line.workplace.store, LINE, 8)
    engine.start()
    no_room = loaded.model.model.layers[1].register_forward_pre_hook(lambda *given: torch.empty(2**50))
    with pytest.raises(OutOfMemory, match=r"^out of memory [^\n]*max_tokens of a request[^\n]*$"):
        engine.ask(Asked(lambda: [Filled("a")], 4)).result(60)
    no_room.remove()
    assert engine.ask(Asked(lambda: [Filled("a")], 4)).result(60).answers
    engine.stop()


def test_a_version_that_is_damaged_is_not_served_nor_another_in_its_place(tmp_path):
    made = CarriedLine(tmp_path)
    made.serve(made.make())
    second = made.make()
    [digest] = second.manifest.files.values()
    [blob] = (tmp_path / "home" / "snapshots").rglob(f"{digest}*")
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + b"x")
    with answering(made) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        assert complete(client, "Rome").headers["x-errata-version"] == "1"
        made.serve(second)
        for response in (complete(client, "Rome"), client.get("/health"), client.get("/version")):
            assert response.status_code == 503 and "expected sha256" in response.json()["error"]["message"]
        blob.write_bytes(whole)
        assert complete(client, "Rome").headers["x-errata-version"] == "2"
        assert client.get("/health").status_code == 200


def test_where_head_cannot_be_read_a_store_on_the_network_is_waited_for_and_a_folder_is_not(line, monkeypatch):
    line.serve(line.workplace.store.version(LINE, 1))
    loaded = opened(line.workplace, choose(line.workplace, LINE, "0")).loaded
    engine = Engine(loaded, line.workplace.store, LINE, 1)
    first = engine.follow()

    def away(name: str) -> None:
        raise StorageError("the store does not answer")

    monkeypatch.setattr(engine.store, "head", away)
    with pytest.raises(NotServed, match="line 'line' is not served: the store does not answer"):
        engine.follow()
    assert engine.served is None and engine.fault is not None
    monkeypatch.undo()
    assert engine.follow() == first and engine.fault is None
    monkeypatch.setattr(engine.store, "head", away)
    monkeypatch.setattr(engine.store.store, "uri", "s3://bucket/snapshots")
    assert engine.follow() == first
    monkeypatch.setattr(engine_module, "BLIND_SECONDS", 0.0)
    with pytest.raises(NotServed):
        engine.follow()


def test_many_texts_wait_for_the_next_batch_and_come_back_to_whoever_asked(server, expected):
    asked = [[PROMPTS[i % 4]] * (1 + i % 5) for i in range(ROWS_AT_ONCE)]
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda prompts: complete(server, prompts).json(), asked))
    for prompts, body in zip(asked, found, strict=True):
        assert [one["text"] for one in body["choices"]] == [expected[1][prompt] for prompt in prompts]
