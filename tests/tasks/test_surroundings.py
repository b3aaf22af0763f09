"""What other libraries find in the environment: nothing of it keeps a job on this machine from running."""

import os
import urllib.request
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import make_url

from editing.errors import PolicyError
from tasks.settings import Settings, load_settings
from tasks.surroundings import DATABASE, PROXIES
from tests.flows.command import ended, environment, single, start

SET_THERE = ("PREFECT_HOME", "PREFECT_PROFILES_PATH", "PREFECT_PROFILE", "PREFECT_API_URL", *DATABASE)


@pytest.fixture
def bare(monkeypatch, tmp_path) -> Path:
    """A user's home where nothing is set; what is told to libraries meanwhile is forgotten afterwards."""
    proxies = [name for known in PROXIES for name in (known, known.upper())]
    for name in (*SET_THERE, *proxies, "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in {"HOME": tmp_path, "ERRATA_HOME": tmp_path / "home", "ERRATA_CACHE": tmp_path / "cache"}.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path


def write_profile(home: Path, text: str) -> Path:
    (home / ".prefect").mkdir()
    path = home / ".prefect" / "profiles.toml"
    path.write_text(text)
    return path


PROFILE = 'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n[profiles.other]\n'


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "127.0.0.1:9", "https://me:x@127.0.0.1:9"])
def test_this_machine_is_never_asked_through_a_proxy_that_can_be_used(bare, monkeypatch, proxy):
    for name in PROXIES:
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("NO_PROXY", "example.org, ")
    load_settings()
    for host in ("127.0.0.1", "localhost", "::1", "example.org"):
        assert urllib.request.proxy_bypass_environment(host)
    assert not urllib.request.proxy_bypass_environment("example.com")
    assert all(os.environ[name] == proxy for name in PROXIES)
    httpx.Client().close()


def test_a_store_and_a_ledger_on_this_machine_are_asked_directly(bare, moto_url, credentials):
    proxies = dict.fromkeys([*PROXIES, *map(str.upper, PROXIES)], "http://127.0.0.1:9")
    places = {"ERRATA_STORE": "s3://errata-tests/direct", "ERRATA_LEDGER": "s3://errata-tests/direct-ledger"}
    env = environment(bare, **proxies, **places, ERRATA_S3_ENDPOINT_URL=moto_url)
    for command in (single(), ("status",)):
        ran = ended(start(command, env), 60)
        assert (ran.code, ran.err) == (0, ""), ran.err
    assert "1 queued" in ran.out


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        ("socks5h://127.0.0.1:9", "needs the package socksio"),
        ("socks://127.0.0.1:9/", "no kind of proxy that is known"),
        ("socks4://127.0.0.1:9", "no kind of proxy"),
        ("proxy:port", "is no address of a proxy"),
        ("http://[::1", "is no address of a proxy"),
        ("http://me:geheim@host:port", "is no address of a proxy"),
    ],
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "all_proxy"])
def test_a_proxy_at_which_prefects_client_fails_is_left_out_with_a_warning(bare, monkeypatch, caplog, name, proxy, why):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    monkeypatch.setenv(name, proxy)
    with pytest.raises((ImportError, ValueError, httpx.InvalidURL)):
        httpx.Client(transport=None)
    load_settings()
    [record] = caplog.records
    assert record.getMessage().startswith(f"{name} = '") and why in record.getMessage()
    assert name not in os.environ and "geheim" not in record.getMessage()
    httpx.Client().close()


def test_what_is_set_and_empty_counts_as_not_set(bare, monkeypatch):
    for name in SET_THERE:
        monkeypatch.setenv(name, "")
    load_settings()
    assert os.environ["PREFECT_HOME"] == str(bare / "home" / "prefect")
    assert "PREFECT_PROFILES_PATH" not in os.environ


@pytest.mark.parametrize("value", ["", " ", "\t "])
@pytest.mark.parametrize("name", [*Settings.model_fields, "settings"])
def test_a_setting_of_nothing_counts_as_not_set(bare, monkeypatch, name, value):
    monkeypatch.chdir(bare)
    monkeypatch.setenv(f"ERRATA_{name.upper()}", value)
    found = load_settings()
    monkeypatch.delenv(f"ERRATA_{name.upper()}")
    assert found == load_settings()
    assert {path.name for path in bare.iterdir()} <= {"home", "cache", ".errata", ".cache"}


def test_the_server_of_the_users_own_profile_is_used_unless_a_setting_says_otherwise(bare, monkeypatch):
    path = write_profile(bare, PROFILE)
    assert load_settings().prefect_people == "http://127.0.0.1:9"
    assert os.environ["PREFECT_PROFILES_PATH"] == str(path)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:9/api"  # a decision finds the forms there
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_PROFILE", "other")
    load_settings()
    assert "PREFECT_API_URL" not in os.environ
    monkeypatch.delenv("PREFECT_PROFILE")
    assert load_settings(prefect_api_url="http://127.0.0.1:8/api").prefect_people == "http://127.0.0.1:8"
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:8/api"


@pytest.mark.parametrize("text", ['active = "x"\n[profiles.x', "\x00", "profiles = 3", "[profiles]\nx = 3\n"])
def test_a_profile_that_cannot_be_read_is_one_line(bare, text):
    write_profile(bare, text if "active" in text else f'active = "x"\n{text}')
    with pytest.raises(PolicyError, match=r"Prefect's profiles in .*profiles.toml cannot be read .*: correct the file"):
        load_settings()


@pytest.mark.parametrize("name", ["a?b#c", "a%2Fb", "a%20b"])
def test_prefects_database_lies_in_a_home_whose_path_an_address_would_read_otherwise(bare, name):
    home = load_settings(home=bare / name).home_folder
    assert make_url(os.environ[DATABASE[0]]).database == str(home / "prefect" / "prefect.db")
    assert home == bare / name


def test_prefects_database_stays_where_the_user_has_put_it(bare, monkeypatch):
    monkeypatch.setenv(DATABASE[1], "postgresql+asyncpg://127.0.0.1/prefect")
    load_settings(home=bare / "a?b")
    assert not os.environ.get(DATABASE[0])
