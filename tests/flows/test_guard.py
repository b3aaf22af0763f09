"""No page of another site gets an answer of Prefect's server: neither by its name for this machine nor by asking it."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows.cli.guard import host_names, is_loopback, own_origins

FOREIGN = "http://evil.example"
WORKS = ("/health", "/flows/filter")


def answer(url: str, **headers: str) -> tuple[int, dict[str, str]]:
    data = b"{}" if url.endswith("filter") else None
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(asked, timeout=30) as answered:
            return answered.status, dict(answered.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


@pytest.mark.parametrize("path", WORKS)
def test_a_foreign_host_or_origin_is_refused(prefect_server, path):
    own = prefect_server.removesuffix("/api")
    assert answer(prefect_server + path)[0] == 200
    assert answer(prefect_server + path, Origin=own)[0] == 200
    assert answer(prefect_server + path, Host="localhost:1")[0] == 200  # a tunnel ends at another port
    for origin in (
        FOREIGN,
        "null",
        own.replace("http:", "https:"),
        own + "1",
        "http://127.0.0.1:1",
        f"{FOREIGN}/{own}",
    ):
        code, headers = answer(prefect_server + path, Origin=origin)
        assert code == 403 and not [name for name in headers if name.lower().startswith("access-control")]
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[", "evil.example:80"):
        assert answer(prefect_server + path, Host=host)[0] == 403


@pytest.mark.parametrize(
    ("accept", "kind", "begins"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8", "<!doctype html>"),
        ("application/json", "application/json", '{"exception_message": "foreign Host: if'),
        ("*/*", "application/json", '{"exception_message": "foreign Host: if'),
    ],
)
def test_a_refusal_is_a_page_where_a_page_is_opened_and_json_where_a_program_asks(prefect_server, accept, kind, begins):
    asked = urllib.request.Request(f"{prefect_server}/health", headers={"Host": "evil.example", "Accept": accept})
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(asked, timeout=30)
    said = refused.value.read().decode()
    assert refused.value.headers["Content-Type"] == kind and said.startswith(begins) and "ERRATA_PREFECT_PAGE" in said


def test_a_preflight_of_a_foreign_page_is_refused(prefect_server):
    asked = urllib.request.Request(
        f"{prefect_server}/flows/filter",
        method="OPTIONS",
        headers={"Origin": FOREIGN, "Access-Control-Request-Method": "POST"},
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked, timeout=30)


def test_a_web_socket_of_a_foreign_page_is_refused(prefect_server):
    url = prefect_server.replace("http", "ws") + "/events/in"
    with connect(url, origin=prefect_server.removesuffix("/api"), proxy=None) as own:
        own.send(json.dumps({}))
    with pytest.raises(InvalidStatus, match="403"):
        connect(url, origin=FOREIGN, proxy=None)
    port = urlsplit(url).port
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://evil.example:{port}/api/events/in", sock=socket.create_connection(("127.0.0.1", port)))


def test_the_address_that_people_open_is_allowed():
    origins = own_origins("0.0.0.0", 4200, ["https://prefect.example/", ""])
    assert "https://prefect.example" in origins and "http://127.0.0.1:4200" in origins
    assert {"prefect.example", "127.0.0.1", "localhost", "::1"} <= host_names(origins)
    assert all(urlsplit(origin).hostname for origin in origins)


def test_only_addresses_of_this_machine_alone_are_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.0.0.2", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "localhost.evil.example", "")))


def test_a_server_that_others_reach_asks_who_they_are_or_does_not_start():
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_SERVER_API_AUTH_STRING"}
    command = [sys.executable, "-m", "flows.cli.prefect_pages", "0.0.0.0", "0"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (
        ran.returncode == 1 and ran.stderr.startswith("error: 0.0.0.0 lets others in") and ran.stderr.count("\n") == 1
    )
