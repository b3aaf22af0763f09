"""Who gets an answer of the services: those who sign in, and no page of another site."""

import base64
import json
import socket
import urllib.error
import urllib.request

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.services.conftest import Services

FOREIGN = "http://evil.example"


def answer(url: str, method: str = "GET", sign_in: str = "", **headers: str) -> tuple[int, str]:
    if sign_in:
        headers["Authorization"] = "Basic " + base64.b64encode(sign_in.encode()).decode()
    body = b"{}" if method == "POST" else None
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=30) as answered:
            return answered.status, answered.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def people(services: Services) -> dict[str, str]:
    settings = services.settings
    password = settings.mlflow_password.get_secret_value()
    return {"mlflow": f"{settings.mlflow_username}:{password}", "prefect": settings.prefect_auth.get_secret_value()}


PAGES = {
    "prefect": [("POST", "/api/flows/filter"), ("GET", "/api/admin/version")],
    "mlflow": [("POST", "/api/2.0/mlflow/runs/search"), ("GET", "/api/2.0/mlflow/experiments/search?max_results=1")],
}


@pytest.mark.parametrize("server", PAGES)
def test_only_who_signs_in_gets_an_answer(services: Services, server: str):
    person = people(services)[server]
    for method, page in PAGES[server]:
        url = services.place.url(server) + page
        assert answer(url, method)[0] == 401
        assert answer(url, method, person + "x")[0] == 401
        assert answer(url, method, "admin:password1234")[0] == 401
        assert answer(url, method, person)[0] in (200, 400)  # 400: let in, and asked for more


@pytest.mark.parametrize("server", PAGES)
def test_a_foreign_host_gets_no_answer_and_a_foreign_origin_changes_nothing(services: Services, server: str):
    person = people(services)[server]
    for method, page in PAGES[server]:
        url = services.place.url(server) + page
        for host in ("evil.example", f"evil.example:{services.place.ports[server]}", "127.0.0.1.evil.example"):
            assert answer(url, method, person, Host=host)[0] == 403
        if method == "POST" or server == "prefect":
            assert answer(url, method, person, Origin=FOREIGN)[0] == 403
            assert answer(url, method, person, Origin="null")[0] == 403


def test_no_page_of_another_site_may_read_what_mlflow_answers(services: Services):
    request = urllib.request.Request(
        f"{services.place.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1", headers={"Origin": FOREIGN}
    )
    request.add_header("Authorization", "Basic " + base64.b64encode(people(services)["mlflow"].encode()).decode())
    with urllib.request.urlopen(request, timeout=30) as answered:
        assert "access-control-allow-origin" not in {name.lower() for name in answered.headers}


def test_prefects_web_sockets_ask_too(services: Services):
    url = services.settings.prefect_api_url.replace("http", "ws") + "/events/in"
    port = services.place.ports["prefect"]
    for options in ({"origin": FOREIGN}, {"sock": socket.create_connection(("127.0.0.1", port))}):
        address = url.replace("127.0.0.1", "evil.example") if "sock" in options else url
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, subprotocols=["prefect"], proxy=None, **options)
    for token, let_in in (("wrong", False), (people(services)["prefect"], True)):
        with connect(url, subprotocols=["prefect"], proxy=None) as web_socket:
            web_socket.send(json.dumps({"type": "auth", "token": token}))
            if let_in:
                assert json.loads(web_socket.recv(timeout=30))["type"] == "auth_success"
            else:
                with pytest.raises(ConnectionClosed):
                    web_socket.recv(timeout=30)


def test_the_s3_server_and_its_parts_do_nothing_for_who_has_no_key(services: Services):
    services.s3().put_object(Bucket="errata", Key="a-secret", Body=b"what is stored")
    place = services.place
    asked = [
        ("s3", "GET", "/"), ("s3", "GET", "/errata/a-secret"), ("s3", "PUT", "/errata/a-secret"),
        ("filer", "GET", "/buckets/errata/a-secret"), ("filer", "DELETE", "/buckets/errata?recursive=true"),
        ("master", "GET", "/dir/assign"), ("master", "GET", "/col/delete?collection=errata"),
        ("master", "GET", "/dir/lookup?volumeId=1&fileId=1,01&read=yes"), ("volume", "DELETE", "/1,01c6fe836b"),
        ("volume", "GET", "/1,01c6fe836b"),
    ]  # fmt: skip
    for part, method, page in asked:
        code, text = answer(place.url(part) + page, method)
        assert code in (401, 403, 404, 405), (part, method, page, code)
        assert "what is stored" not in text
    assert services.s3().get_object(Bucket="errata", Key="a-secret")["Body"].read() == b"what is stored"


def test_postgres_lets_nobody_in_without_the_password(services: Services):
    import psycopg

    address = services.place.database("mlflow", "postgresql")
    with psycopg.connect(address) as connection:
        assert connection.execute("SHOW password_encryption").fetchone() == ("scram-sha-256",)
    for wrong in ("wrong", ""):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(address.replace(services.place.secrets["postgres"], wrong))
