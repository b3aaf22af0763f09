"""Addresses are built by a library, read back as what they were built of, and show nobody's password."""

import json
import sqlite3
from pathlib import Path
from urllib.request import Request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from editing.errors import PolicyError
from tasks.addresses import asked, database_address, database_file, folder_of, signed_in
from tasks.secrets import without_secrets
from tasks.settings import Settings, load_settings
from tasks.tracking.address import artifact_address

NAMES = ["plain", "a%2Fb", "a%20b", "a b", "a?b", "a#b", "a&b;c=d", "法国 é", "%", "a+b", "a@b:c", "[a]", "a\\b"]
SECRET = "geheim"


@pytest.mark.parametrize("name", NAMES)
def test_a_database_is_where_its_path_says_whatever_the_path_holds(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    address = database_address(folder / "x.db")
    assert database_file(address) == folder / "x.db"
    engine = create_engine(address)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x)"))
    engine.dispose()
    assert sqlite3.connect(folder / "x.db").execute("SELECT count(*) FROM t").fetchone() == (0,)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
    assert make_url(database_address(folder / "x.db", "sqlite+aiosqlite")).database == str(folder / "x.db")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=20))
def test_any_path_comes_back_out_of_its_address(name):
    assert database_file(database_address(Path("/srv", name))) == Path("/srv", name)
    assert folder_of(Path("/srv", name).as_uri()) == str(Path("/srv", name))
    assert folder_of(artifact_address(f"/srv/{name}/x")) == str(Path("/srv", name, "x").resolve())


@pytest.mark.parametrize("field", ["home", "cache", "store", "ledger"])
@pytest.mark.parametrize("place", ["gs://bucket/x", "az://x/y", "abfss://x@y/z", "dbfs:/x", "gs:/bucket/x", "hdfs://x"])
def test_what_is_not_served_is_refused_by_name(tmp_path, monkeypatch, field, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match=rf"ERRATA_{field.upper()} = '{place}': \w+:// is not served; give a folder"):
        load_settings(**{field: place})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["home", "cache", "store", "ledger"])
@pytest.mark.parametrize("form", ["file://{}", "file:{}", "file://localhost{}", "{}"])
def test_a_folder_may_be_written_as_an_address(field, form):
    assert str(getattr(Settings(**{field: form.format("/srv/errata")}), field)) == "/srv/errata"
    with pytest.raises(ValueError, match="file:// names a folder of this machine"):
        Settings(**{field: "file://server/share"})


@pytest.mark.parametrize("given", ["", "file"])
def test_s3_is_a_home_for_nobody(given):
    with pytest.raises(ValueError, match="s3:// is not served; give a folder"):
        Settings(home=f"s3://bucket/{given}")
    assert Settings(store=f"s3://bucket/{given}").store == f"s3://bucket/{given}"


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "mlflow.example.org", "[::1]:5000"])
def test_what_signs_in_is_taken_out_of_an_address_and_used(host):
    address = f"http://me%40here:{SECRET}%2F%40x@{host}/mlflow"
    assert signed_in(address) == (f"http://{host}/mlflow", "me@here", f"{SECRET}/@x")
    settings = Settings(tracking_uri=address, prefect_api_url=address)
    assert settings.mlflow_uri == settings.mlflow_people == settings.prefect_api_url == f"http://{host}/mlflow"
    assert settings.mlflow_username == "me@here" and settings.mlflow_password.get_secret_value() == f"{SECRET}/@x"
    assert settings.prefect_auth.get_secret_value() == f"me@here:{SECRET}/@x"
    assert SECRET not in f"{settings!r}{settings.model_dump_json()}{json.dumps(settings.model_dump(), default=str)}"
    assert Settings(tracking_uri=address, mlflow_password="mine").mlflow_password.get_secret_value() == "mine"


def test_a_request_signs_in_with_what_stands_in_its_address():
    request = asked(f"http://me:{SECRET}@127.0.0.1:5000/health")
    assert isinstance(request, Request) and request.full_url == "http://127.0.0.1:5000/health"
    assert request.get_header("Authorization") == "Basic bWU6Z2VoZWlt"
    assert not asked("http://127.0.0.1:5000/health").headers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tracking_uri", f"http://me:{SECRET}/x@127.0.0.1:5000"),
        ("tracking_uri", f"ftp://me:{SECRET}@host"),
        ("prefect_api_url", f"http://me:{SECRET}#x@127.0.0.1:4200/api"),
        ("s3_endpoint_url", f"http://me:{SECRET}@127.0.0.1:9000"),
        ("mlflow_page", f"https://me:{SECRET}@example.org"),
        ("tracking_uri", f"me:{SECRET}@example.org"),
        ("prefect_page", f"me:{SECRET}@example.org"),
        ("prefect_api_url", f"gs://me:{SECRET}@host/api"),
        ("prefect_api_url", f"me:{SECRET}@host/api"),
        ("store", f"gs://me:{SECRET}@bucket"),
        ("store", f"s3://me:{SECRET}@bucket/x"),
        ("ledger", f"s3://me:{SECRET}@bucket/x"),
        ("artifacts", f"gs://me:{SECRET}@bucket/x"),
        ("artifacts", f"ftp://me:{SECRET}@host/x"),
    ],
)
def test_an_address_that_is_refused_is_refused_without_its_password(field, value):
    with pytest.raises(PolicyError, match=f"^setting ERRATA_{field.upper()}") as refused:
        load_settings(**{field: value})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "password", [SECRET, f"{SECRET}/x", f"{SECRET}@x", f"x@{SECRET}", f"a:{SECRET}", f"{SECRET},x"]
)
@pytest.mark.parametrize("scheme", ["http", "postgresql", "postgresql+psycopg"])
def test_a_password_in_a_text_is_masked_whatever_it_holds(scheme, password):
    password = password.format(SECRET)
    shown = without_secrets(f"no server at {scheme}://me:{password}@host:80/x and {scheme}://host:80/a@b, see there")
    assert SECRET not in shown and f"{scheme}://me:***@host:80/x and {scheme}://host:80/a@b, see there" in shown
    assert SECRET not in without_secrets(f"https://{SECRET}@host/x")


@pytest.mark.parametrize("field", ["store", "ledger", "artifacts"])
@pytest.mark.parametrize("place", ["s3://", "s3:///x"])
def test_an_address_without_a_bucket_is_refused(field, place):
    with pytest.raises(PolicyError, match=f"^setting ERRATA_{field.upper()} = '{place}': .*names no bucket"):
        load_settings(**{field: place})


@pytest.mark.parametrize("field", ["s3_endpoint_url", "mlflow_page", "prefect_page", "prefect_api_url"])
@pytest.mark.parametrize("address", ["zork", "gs://bucket/x", "127.0.0.1:9000", "http://", "/srv/x"])
def test_what_is_no_address_of_a_server_is_refused_by_name(field, address):
    with pytest.raises(PolicyError, match=f"^setting ERRATA_{field.upper()}( = '{address}')?: no address"):
        load_settings(**{field: address})


def test_the_name_of_a_file_of_settings_shows_no_password(monkeypatch):
    monkeypatch.setenv("ERRATA_SETTINGS", f"s3://me:{SECRET}@bucket/x")
    with pytest.raises(PolicyError, match=r"ERRATA_SETTINGS = 's3://me:.*' is no file") as refused:
        load_settings()
    assert SECRET not in str(refused.value)
